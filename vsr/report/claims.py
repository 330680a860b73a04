"""The paper's claims judged by our runs, and its printed tables checked by arithmetic.

A verdict is computed from run folders and never written by hand. It speaks about the profile's model and questions:
in `tiny` about the miniature.
"""

from dataclasses import dataclass
from math import isnan
from pathlib import Path

from vsr import markdown, paper, profiles
from vsr.files import atomic_write, write_json
from vsr.paper import CLAIMS, Claim
from vsr.report.judgements import CANNOT_TELL, TESTS, Finding, NotRunError, OutOfReachError, combine
from vsr.report.tables import NOT_RUN

ROUNDING = 0.1  # eight scores and one average printed to 0.1: each is off by at most 0.05


@dataclass(frozen=True)
class AuditRow:
    """A printed average beside the mean of its row's eight printed scores, in points."""

    where: str
    row: str
    printed: float
    mean: float

    @property
    def difference(self) -> float:
        """Printed minus mean."""
        return self.printed - self.mean

    @property
    def flagged(self) -> bool:
        """Whether rounding cannot explain the difference."""
        return abs(self.difference) > ROUNDING + 1e-9


def audit(rows: tuple[paper.Row, ...] = paper.TABLE_1 + paper.TABLE_2) -> list[AuditRow]:
    """Every printed average checked against its own row."""
    return [
        AuditRow(row.where, f"{row.backbone} {row.method} {row.mode}", row.average, sum(row.scores) / len(row.scores))
        for row in rows
    ]


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: a claim, what was found about it, and the verdict; `note` says why there is none."""

    claim: Claim
    findings: tuple[Finding, ...]
    verdict: str
    note: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs behind the findings."""
        return tuple(dict.fromkeys(run for finding in self.findings for run in finding.runs))


def judge(claim: Claim, results: str | Path) -> Entry:
    """The ledger's line for one claim: "not run" as soon as one of its runs is missing, "cannot tell at this size"
    where it is about something larger than the profile."""
    try:
        findings = TESTS[claim.number](Path(results))
    except NotRunError as lack:
        return Entry(claim, (), NOT_RUN, str(lack))
    except OutOfReachError as lack:
        return Entry(claim, (), CANNOT_TELL, str(lack))
    return Entry(claim, tuple(findings), combine([found.verdict for found in findings if found.verdict]))


def ledger(results: str | Path) -> list[Entry]:
    """All ten claims judged by the runs in `results`, which is results/<profile>."""
    return [judge(claim, Path(results)) for claim in CLAIMS]


def write(results: str | Path, out: str | Path) -> list[Path]:
    """claims.md, claims.json and audit.md in `out`; the paths written."""
    results, out = Path(results), Path(out)
    entries = ledger(results)
    atomic_write(out / "claims.md", ledger_markdown(entries, results.name))
    write_json(out / "claims.json", [_record(entry) for entry in entries])
    atomic_write(out / "audit.md", audit_markdown(audit()))
    return [out / "claims.md", out / "claims.json", out / "audit.md"]


def ledger_markdown(entries: list[Entry], profile: str) -> str:
    """The ledger as a table; effects in points with 95 % intervals unless they say otherwise."""
    small = profiles.PROFILES.get(profile, profiles.PROFILES["tiny"]).base == "tiny"
    rows = [
        [
            str(entry.claim.number),
            entry.claim.text,
            f"{entry.claim.figure} ({entry.claim.where})".replace("<", "&lt;"),
            "<br>".join(map(describe, entry.findings)) or "–",
            "<br>".join(_number(found.effect.detectable) for found in entry.findings) or "–",
            _verdict(entry, small),
        ]
        for entry in entries
    ]
    header = ["", "claim", "the paper", "ours", "smallest detectable", "verdict"]
    about = "its small model and rendered rooms, not about Qwen2-VL" if small else "this model and its questions"
    table = markdown.table(header, rows)
    runs = "".join(f"- claim {e.claim.number}: {', '.join(f'`{run}`' for run in e.runs)}\n" for e in entries if e.runs)
    scope = f"Verdicts of profile {profile} are about {about}.{GAIN_ALONE * small}"
    return f"**Claims ledger**\n\n{table}\n{scope}\n{HOW}\n{markdown.folded('Runs', runs)}"


GAIN_ALONE = (
    " Where a claim sets the trained model beside a printed score or names the size of a gain (2, 3, 6, 7), only the "
    "sign of our own differences is judged: other questions, other scores."
)
HOW = """Effects are in points. Evaluations are compared in pairs on the same questions, with 95 % intervals from a \
bootstrap over scenes, and over the choice of seeds where a method has several; figures of training logs vary between \
runs. Smallest detectable is the effect found with 80 % power. In parentheses: shown beside, without a vote.
"""


def describe(found: Finding) -> str:
    """One finding in words."""
    unit = "" if found.unit == "points" else f" {found.unit}"
    effect = found.effect
    interval = "" if isnan(effect.low) else f" [{effect.low:+.1f}, {effect.high:+.1f}]"
    text = f"{found.what}: {effect.value:+.1f}{unit}{interval}"
    return text if found.verdict else f"({text})"


def _verdict(entry: Entry, small: bool) -> str:
    note = f" ({entry.note})" if entry.note else ""
    judged = " in the miniature" if small and entry.findings else ""
    return f"**{entry.verdict}**{judged}{note}"


def _number(value: float) -> str:
    return "–" if isnan(value) else f"{value:.1f}"


def audit_markdown(rows: list[AuditRow]) -> str:
    """The audit as a table, rows that rounding cannot explain in bold."""
    lines = []
    for row in rows:
        numbers = (f"{row.printed:.1f}", f"{row.mean:.2f}", f"{row.difference:+.2f}")
        lines.append([row.where, row.row, *numbers, "**beyond rounding**" if row.flagged else ""])
    table = markdown.table(["table", "row", "printed average", "mean of the row", "difference", ""], lines)
    return f"**Arithmetic of the published tables**\n\n{table}\nRounding explains differences up to {ROUNDING}.\n"


def _record(entry: Entry) -> dict:
    return {
        "claim": entry.claim.number,
        "verdict": entry.verdict,
        "note": entry.note,
        "runs": list(entry.runs),
        "findings": [
            {
                "what": found.what,
                "unit": found.unit,
                "verdict": found.verdict or None,
                **{name: _plain(getattr(found.effect, name)) for name in ("value", "low", "high", "detectable")},
                "n": found.effect.n,
                "scenes": found.effect.scenes,
                "seeds": list(found.effect.seeds),
            }
            for found in entry.findings
        ],
    }


def _plain(value: float) -> float | None:
    return None if isnan(value) else round(value, 4)
