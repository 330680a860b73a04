"""A rerun beside the published run: the same verdicts? each effect within the other's interval?"""

from pathlib import Path

from vsr import markdown, runs
from vsr.files import atomic_write
from vsr.report import claims, evaluations
from vsr.report.claims import Entry
from vsr.report.evaluations import BASE, evaluation
from vsr.report.judgements import Finding
from vsr.report.tables import NOT_RUN
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect

HEAD = ("", "what", "yours", "published", "")


def published(results: str | Path) -> Path | None:
    """The published results of the same profile; None where there are none, or where `results` are those."""
    found = runs.ROOT / "results" / "published" / Path(results).name
    return found if found.is_dir() and found.resolve() != Path(results).resolve() else None


def compared(ours: str | Path, theirs: str | Path) -> str:
    """Markdown: every claim's verdict and effects and Table 2's gains over the base, yours beside the published ones.

    Two runs of one study differ by rounding that grows in training, so effects are set against intervals, not bytes."""
    pairs = list(zip(claims.ledger(ours), claims.ledger(theirs), strict=True))
    rows = [row for mine, other in pairs for row in _claim(mine, other)]
    for method in evaluations.TABLE_2[1:]:
        effects = [_gain(results, method) for results in (ours, theirs)]
        rows.append(("Table 2", f"{method} − base", *map(_effect, effects), _within(*effects)))
    equal = sum(mine.verdict == other.verdict for mine, other in pairs)
    head = f"**Yours and the published run**: {equal} of {len(pairs)} verdicts are equal."
    return f"{head}\n\n{markdown.table(HEAD, rows)}\nPoints with 95 % intervals.\n"


def write(results: str | Path, out: Path) -> list[Path]:
    """compared.md in `out`; nothing where there is nothing to compare with."""
    theirs = published(results)
    if theirs is None:
        return []
    atomic_write(out / "compared.md", compared(results, theirs))
    return [out / "compared.md"]


def _claim(mine: Entry, other: Entry) -> list[tuple]:
    """The verdict's row, then one for each effect that either run has."""
    number, same = f"claim {mine.claim.number}", "equal" if mine.verdict == other.verdict else "**differs**"
    rows = [(number, f"**{mine.claim.text}**", mine.verdict, other.verdict, same)]
    found: list[dict[str, Finding]] = [{one.what: one for one in entry.findings} for entry in (mine, other)]
    for what in dict.fromkeys([*found[0], *found[1]]):
        effects = [part[what].effect if what in part else None for part in found]
        rows.append((number, what, *map(_effect, effects), _within(*effects)))
    return rows


def _gain(results: str | Path, method: evaluations.Method) -> Effect | None:
    pair = [evaluation(results, one) for one in (method, BASE)]
    return intervals.compare(pair[0].answers, pair[1].answers) if all(pair) else None


def _effect(found: Effect | None) -> str:
    return NOT_RUN if found is None else str(found)


def _within(mine: Effect | None, other: Effect | None) -> str:
    """Whether the intervals overlap; one without an interval says nothing."""
    if mine is None or other is None or any(bound != bound for bound in (mine.low, other.low)):
        return ""
    return "intervals overlap" if mine.low <= other.high and other.low <= mine.high else "**apart**"
