"""Run folders -> tables, figures and verdicts; nothing here imports torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from vsr import runs

_known: dict[tuple, object] | None = None  # within `reading`: what was asked, and what it gave


@contextmanager
def reading() -> Iterator[None]:
    """As long as it lasts (it decorates functions too), what is marked `once` is read once, however often it is asked
    for: the time of a report grows with its runs alone."""
    global _known
    before = _known
    _known = {} if before is None else before
    try:
        yield
    finally:
        _known = before


def once(read: Callable) -> Callable:
    """`read`, a function of hashable arguments, marked; outside `reading` it sees the folders as they are."""

    @wraps(read)
    def kept(*asked):
        if _known is None:
            return read(*asked)
        if (read, *asked) not in _known:
            _known[read, *asked] = read(*asked)
        return _known[read, *asked]

    return kept


@once
def finished(results: Path) -> list[runs.Run]:
    """The finished runs directly in `results`."""
    return runs.find(results)


def figures_folder(results: str | Path) -> Path:
    """figures/<profile> beside results/<profile>, and so for what is published; inside any other results folder."""
    results = Path(results).resolve()
    for above in results.parents[:2]:
        if above.name == "results":
            return above.parent / "figures" / results.relative_to(above)
    return results / "figures"


@reading()
def write_all(results: str | Path) -> list[Path]:
    """Every table, verdict and figure, from run folders alone: the paths written, and the same bytes each time."""
    from vsr.report import claims, figures, tables

    results, out = Path(results), Path(results) / "tables"
    written = [*tables.write_all(results, out), *claims.write(results, out)]
    return [*written, *figures.write_all(results, figures_folder(results))]
