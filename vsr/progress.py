"""Progress that reads well everywhere: a bar at a terminal or in JupyterLab, one updated line in executed notebooks,
a few plain lines in logs."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EXECUTED = "VSR_EXECUTED"  # set by `vsr run` in the kernels it starts
QUIET = "VSR_QUIET"  # set in worker processes, whose parent shows the progress of all


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` showing how many are done and how long the rest will take."""
    total = len(items) if total is None else total  # type: ignore[arg-type]
    if os.environ.get(QUIET):
        return iter(items)
    if os.environ.get(EXECUTED):
        return _updated_line(items, description, total)
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        from tqdm.auto import tqdm

        return iter(tqdm(items, desc=description, total=total, leave=False))
    return _plain_lines(items, description, total)


def _line(description: str, done: int, total: int, started: float) -> str:
    spent = time.monotonic() - started
    left = spent / done * (total - done) if done else 0.0
    rest = f", about {duration(left)} left" if done < total else ""
    return f"{description}: {done}/{total} in {duration(spent)}{rest}"


def _updated_line(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """papermill stores every flush as an output; a display that is updated stays one."""
    from IPython.display import Pretty, display

    started, shown = time.monotonic(), 0.0
    handle = display(Pretty(f"{description}: 0/{total}"), display_id=True)
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > 2 or done == total:
            shown = time.monotonic()
            handle.update(Pretty(_line(description, done, total, started)))


def _plain_lines(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    started = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(_line(description, done, total, started), file=sys.stderr, flush=True)


class Counted:
    """Progress of work done elsewhere: call it with the number done."""

    def __init__(self, description: str, total: int):
        self.description, self.total, self.started = description, total, time.monotonic()
        self.handle, self.shown = None, -1
        if "ipykernel" in sys.modules:
            from IPython.display import Pretty, display

            self.handle = display(Pretty(f"{description}: 0/{total}"), display_id=True)

    def __call__(self, done: int) -> None:
        """Show it, at a terminal only when the number changed."""
        line = _line(self.description, done, self.total, self.started)
        if self.handle:
            from IPython.display import Pretty

            self.handle.update(Pretty(line))
        elif done != self.shown:
            print(line, file=sys.stderr, flush=True)
        self.shown = done


def duration(seconds: float) -> str:
    """'4 s', '3 min 05 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
