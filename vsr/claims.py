"""The paper's claims judged by our runs, and its printed tables checked by arithmetic.

A verdict is computed from run folders and never written by hand. It speaks about the profile's model and questions:
in `tiny` about the miniature.
"""

from dataclasses import dataclass
from pathlib import Path

from vsr import paper
from vsr.paper import CLAIMS, Claim
from vsr.runs import atomic_write, write_json
from vsr.scoring import compare
from vsr.stats import Effect
from vsr.summaries import Run, find_all
from vsr.tables import NOT_RUN, markdown_table

REPRODUCED, NOT_REPRODUCED, CANNOT_TELL = "reproduced", "not reproduced", "cannot tell at this size"
ROUNDING = 0.1  # eight scores and one average printed to 0.1: each is off by at most 0.05
NO_CHANGE = (
    2.0  # points; a change whose interval stays below is no improvement (the paper's smallest claimed one is 2.1)
)


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
class Comparison:
    """One comparison that a claim needs: run `ours` against run `theirs` on `over`, in points.

    `better`: the claim says ours is higher. Otherwise it says that there is no improvement, which holds if the
    interval stays below NO_CHANGE.
    """

    ours: str
    theirs: str
    over: str = "overall"
    better: bool = True

    def verdict(self, effect: Effect) -> str:
        """What an interval says of this comparison."""
        if self.better:
            return REPRODUCED if effect.low > 0 else NOT_REPRODUCED if effect.high < 0 else CANNOT_TELL
        return REPRODUCED if effect.high < NO_CHANGE else NOT_REPRODUCED if effect.low > 0 else CANNOT_TELL


@dataclass(frozen=True)
class Judgement:
    """How a claim is decided; `profiles` are those whose base model it is about (empty: any)."""

    comparisons: tuple[Comparison, ...]
    profiles: tuple[str, ...] = ()
    note: str = ""


BASE = "eval-base-vanilla-true"
GRPO = "eval-vsgrpo-v-vanilla-true"

JUDGEMENTS: dict[int, Judgement] = {
    1: Judgement((Comparison(BASE, "eval-base-think-true"), Comparison(BASE, "eval-base-observe-true"))),
    2: Judgement((Comparison(GRPO, BASE),), note="the comparison with GPT-4o needs VSI-Bench itself"),
    3: Judgement((Comparison(GRPO, BASE),), profiles=("paper-7b",)),
    4: Judgement(
        (
            Comparison(GRPO, "eval-vsgrpo-t-think-true"),
            Comparison(GRPO, "eval-vsgrpo-o-observe-true"),
            Comparison("eval-vsgrpo-t-think-true", "eval-vsgrpo-t-vanilla-true"),
            Comparison("eval-vsgrpo-o-observe-true", "eval-vsgrpo-o-vanilla-true"),
        )
    ),
    6: Judgement(
        (
            Comparison(GRPO, "eval-sft-vanilla-true"),
            Comparison("eval-sft-vanilla-true", "eval-dpo-vanilla-true"),
            Comparison("eval-dpo-vanilla-true", BASE),
        )
    ),
    7: Judgement(
        (Comparison(GRPO, BASE, "route_planning"), Comparison(GRPO, BASE, "obj_appearance_order", better=False))
    ),
}


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: a claim, its comparisons with their effects, and the verdict."""

    claim: Claim
    effects: tuple[tuple[Comparison, Effect], ...]
    runs: tuple[str, ...]
    verdict: str
    note: str


def combine(verdicts: list[str]) -> str:
    """One comparison that fails refutes the claim; all must hold to reproduce it."""
    for verdict in (NOT_REPRODUCED, CANNOT_TELL):
        if verdict in verdicts:
            return verdict
    return REPRODUCED


def judge(claim: Claim, results: Path) -> Entry:
    """The ledger's line for one claim; "not run" as soon as one of its runs is missing."""
    judgement = JUDGEMENTS.get(claim.number)
    if judgement is None:
        return Entry(claim, (), (), NOT_RUN, "is decided by training logs, of which there are none")
    if judgement.profiles and Path(results).name not in judgement.profiles:
        return Entry(claim, (), (), NOT_RUN, "is about the model of profile " + ", ".join(judgement.profiles))
    names = list(dict.fromkeys(name for c in judgement.comparisons for name in (c.ours, c.theirs)))
    runs: dict[str, Run] = find_all(results, names)
    missing = [name for name in names if name not in runs]
    if missing:
        return Entry(claim, (), (), NOT_RUN, "missing: " + ", ".join(missing))
    effects = tuple(
        (c, compare(runs[c.ours].samples(), runs[c.theirs].samples(), c.over)) for c in judgement.comparisons
    )
    verdict = combine([comparison.verdict(effect) for comparison, effect in effects])
    return Entry(claim, effects, tuple(runs[name].id for name in names), verdict, judgement.note)


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
    """The ledger as a table; effects are paired differences in points with 95 % intervals."""
    rows = [
        [
            str(entry.claim.number),
            entry.claim.text,
            f"{entry.claim.figure} ({entry.claim.where})".replace("<", "&lt;"),
            "<br>".join(describe(comparison, effect) for comparison, effect in entry.effects) or "–",
            "<br>".join(f"{effect.detectable:.1f}" for _, effect in entry.effects) or "–",
            f"**{entry.verdict}**" + (f" ({entry.note})" if entry.note else ""),
            "<br>".join(f"`{run}`" for run in entry.runs) or "–",
        ]
        for entry in entries
    ]
    header = ["", "claim", "the paper", "ours, points", "smallest detectable", "verdict", "runs"]
    about = f"Verdicts are about the model and questions of profile {profile}."
    how = (
        "Effects are paired differences on the same questions with 95 % intervals from a bootstrap over scenes; "
        "smallest detectable is the effect found with 80 % power."
    )
    return f"**Claims ledger**\n\n{markdown_table(header, rows)}\n{about}\n{how}\n"


def describe(comparison: Comparison, effect: Effect) -> str:
    """One comparison in words."""
    name = f"{comparison.ours.removeprefix('eval-')} − {comparison.theirs.removeprefix('eval-')}"
    over = "" if comparison.over == "overall" else f", {paper.TASKS.get(comparison.over, comparison.over)}"
    return f"{name}{over}: {effect.value:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]"


def audit_markdown(rows: list[AuditRow]) -> str:
    """The audit as a table, rows that rounding cannot explain in bold."""
    lines = []
    for row in rows:
        numbers = (f"{row.printed:.1f}", f"{row.mean:.2f}", f"{row.difference:+.2f}")
        lines.append([row.where, row.row, *numbers, "**beyond rounding**" if row.flagged else ""])
    table = markdown_table(["table", "row", "printed average", "mean of the row", "difference", ""], lines)
    return f"**Arithmetic of the published tables**\n\n{table}\nRounding explains differences up to {ROUNDING}.\n"


def _record(entry: Entry) -> dict:
    return {
        "claim": entry.claim.number,
        "verdict": entry.verdict,
        "note": entry.note,
        "runs": list(entry.runs),
        "effects": [
            {
                "ours": comparison.ours,
                "theirs": comparison.theirs,
                "over": comparison.over,
                "value": round(effect.value, 4),
                "low": round(effect.low, 4),
                "high": round(effect.high, 4),
                "detectable": round(effect.detectable, 4),
                "n": effect.n,
                "scenes": effect.scenes,
            }
            for comparison, effect in entry.effects
        ],
    }
