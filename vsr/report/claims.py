"""The paper's claims judged by our runs, its printed tables checked by arithmetic, and a rerun beside a published run.

A verdict is computed from run folders and never written by hand. It speaks about the profile's model and questions:
in `tiny` about the miniature.
"""

from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

from vsr import markdown, paper, profiles, runs
from vsr.files import atomic_write, write_json
from vsr.paper import CLAIMS, Claim
from vsr.report import once, reading
from vsr.report.declared import DECLARED, Finding, UndecidedError, combine
from vsr.report.evaluations import BASE, TABLE_2, evaluation
from vsr.report.judgements import TESTS
from vsr.report.tables import NOT_RUN
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect

ROUNDING = 0.1  # eight scores and one average printed to 0.1: each is off by at most 0.05
GAIN_ALONE = (
    " Where a claim sets the trained model beside a printed score or names the size of a gain (2, 3, 6, 7), only the "
    "sign of our own differences is judged: other questions, other scores."
)
HOW = """Effects are in points. Evaluations are compared in pairs on the same questions, with 95 % intervals from a \
bootstrap over scenes, and over the choice of seeds where a method has several; figures of training logs vary between \
runs. Smallest detectable is the effect found with 80 % power. A gate that fails leaves nothing to tell; an interval \
below what is worth having contradicts. In parentheses: shown beside, without a vote.
"""


@dataclass(frozen=True)
class AuditRow:
    """A printed average beside the mean of its row's eight printed scores, in points."""

    where: str
    row: str
    printed: float
    mean: float

    @property
    def flagged(self) -> bool:
        """Whether rounding cannot explain the difference."""
        return abs(self.printed - self.mean) > ROUNDING + 1e-9


def audit() -> list[AuditRow]:
    """Every printed average checked against its own row."""
    return [
        AuditRow(row.where, f"{row.backbone} {row.method} {row.mode}", row.average, sum(row.scores) / len(row.scores))
        for row in paper.TABLE_1 + paper.TABLE_2
    ]


def audit_markdown(rows: list[AuditRow]) -> str:
    """The audit as a table, rows that rounding cannot explain in bold."""
    lines = []
    for row in rows:
        numbers = (f"{row.printed:.1f}", f"{row.mean:.2f}", f"{row.printed - row.mean:+.2f}")
        lines.append([row.where, row.row, *numbers, "**beyond rounding**" * row.flagged])
    table = markdown.table(["table", "row", "printed average", "mean of the row", "difference", ""], lines)
    return f"**Arithmetic of the published tables**\n\n{table}\nRounding explains differences up to {ROUNDING}.\n"


def anchored() -> tuple[paper.PrintedRow, ...]:
    """VSI-Bench's baseline without video, Gemini on all questions, the paper's rows under its plain prompt."""
    names = ("Qwen2-VL-2B", "Qwen2-VL-7B", "GPT-4o", "Gemini-1.5 Pro")
    printed = (row for row in paper.TABLE_2 if row.backbone in names and row.mode == "vanilla")
    return (*paper.VSI_BENCH, *printed)


def anchors_markdown() -> str:
    """The paper's rows under the rule that ours are under: beside what needs no video. Cells below the most frequent
    answer's are marked."""
    blind, *_ = shown = anchored()
    rows = []
    for row in shown:
        under = [score < least for score, least in zip(row.scores, blind.scores, strict=True)]
        cells = (f"{score:.1f}{' ↓' * low}" for score, low in zip(row.scores, under, strict=True))
        rows.append((f"{row.backbone} {row.method}", f"{row.average:.1f}", *cells, sum(under)))
    table = markdown.table(("row", "avg", *paper.TASKS.values(), "below"), rows)
    note = "↓: below VSI-Bench's own baseline. Gemini-1.5 Pro's row of the paper is of VSI-Bench tiny, 400 questions."
    return f"**The paper's rows beside what needs no video**\n\n{table}\n{note}\n"


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
    """The ledger's line for one claim; where its test found nothing, the verdict and the note say why."""
    try:
        findings = TESTS[claim.number](Path(results))
    except UndecidedError as lack:
        return Entry(claim, (), lack.verdict, str(lack))
    return Entry(claim, tuple(findings), *combine(findings))


@once
@reading()
def ledger(results: str | Path) -> list[Entry]:
    """All ten claims judged by the runs in `results`, which is results/<profile>."""
    return [judge(claim, Path(results)) for claim in CLAIMS]


def ledger_markdown(entries: list[Entry], profile: str) -> str:
    """The ledger as a table; effects in points with 95 % intervals unless they say otherwise."""
    small, rows = _small(profile), []
    for entry in entries:
        claim, power = entry.claim, [found.effect.detectable for found in entry.findings]
        printed = f"{claim.figure} ({claim.where})".replace("<", "&lt;")  # Markdown would swallow tags
        found = "<br>".join(map(describe, entry.findings)) or "–"
        least = "<br>".join("–" if isnan(value) else f"{value:.1f}" for value in power) or "–"
        judged = " in the miniature" if small and entry.findings else ""
        verdict = f"**{entry.verdict}**{judged}" + (f"<br>{entry.note}" if entry.note else "")
        plan = DECLARED[claim.number]
        outcome = f"{plan.outcome}<br>worth having: {plan.least}" + (f"<br>gate: {plan.gate}" if plan.gate else "")
        rows.append([claim.number, claim.text, printed, outcome, found, least, verdict])
    head = ["", "claim", "the paper", "declared before the runs", "ours", "smallest detectable", "verdict"]
    table = markdown.table(head, rows)
    runs_ = "".join(f"- claim {e.claim.number}: {', '.join(f'`{run}`' for run in e.runs)}\n" for e in entries if e.runs)
    return f"**Claims ledger**\n\n{table}\n{scope(profile)}\n{HOW}\n{markdown.folded('Runs', runs_)}"


def _small(profile: str) -> bool:
    return profiles.PROFILES.get(profile, profiles.PROFILES["tiny"]).base == "tiny"


def scope(profile: str) -> str:
    """What a profile's verdicts are about."""
    about = "this model and its questions"
    if small := _small(profile):
        about = "its small model and rendered rooms, not about Qwen2-VL"
    return f"Verdicts of profile {profile} are about {about}.{GAIN_ALONE * small}"


def describe(found: Finding) -> str:
    """One finding in words."""
    unit, effect = "" if found.unit == "points" else f" {found.unit}", found.effect
    interval = "" if isnan(effect.low) else f" [{effect.low:+.1f}, {effect.high:+.1f}]"
    text = found.what if isnan(effect.value) else f"{found.what}: {effect.value:+.1f}{unit}{interval}"
    if found.holds is not None:
        return f"gate, {'holds' if found.holds else 'fails'}: {text}"
    return text if found.verdict else f"({text})"


def write(results: str | Path, out: str | Path) -> list[Path]:
    """claims.md, claims.json and audit.md in `out`, and compared.md where something is published; the paths written."""
    results, out, entries = Path(results), Path(out), ledger(results)
    texts = {
        "claims.md": ledger_markdown(entries, results.name),
        "audit.md": f"{audit_markdown(audit())}\n{anchors_markdown()}",
    }
    if theirs := published(results):
        texts["compared.md"] = compared(results, theirs)
    for name, text in texts.items():
        atomic_write(out / name, text)
    write_json(out / "claims.json", [_record(entry) for entry in entries])
    return [out / name for name in (*texts, "claims.json")]


def _record(entry: Entry) -> dict:
    """As JSON, which has no nan."""
    findings = []
    for found in entry.findings:
        numbers = asdict(found.effect)
        about = {
            "what": found.what,
            "unit": found.unit,
            "verdict": found.verdict or None,
            "seeds": numbers.pop("seeds"),
        }
        findings.append(about | {key: None if isnan(value) else round(value, 4) for key, value in numbers.items()})
    about = {"claim": entry.claim.number, "verdict": entry.verdict, "note": entry.note}
    return about | {"runs": entry.runs, "findings": findings}


# --- a rerun beside the published run ---
def published(results: str | Path) -> Path | None:
    """The published results of the same profile; None where there are none, or where `results` are those."""
    found = runs.ROOT / "results" / "published" / Path(results).name
    return found if found.is_dir() and found.resolve() != Path(results).resolve() else None


def compared(ours: str | Path, theirs: str | Path | None) -> str:
    """Markdown: verdicts, effects and Table 2's gains over the base, yours beside the published ones."""
    if theirs is None:
        return f"No published run of profile {Path(ours).name} lies in results/published."
    # two runs of one study differ by rounding that grows in training: intervals are compared, not bytes
    rows, equal = [], 0
    for mine, other in zip(ledger(ours), ledger(theirs), strict=True):
        number, same = f"claim {mine.claim.number}", mine.verdict == other.verdict
        equal += same
        state = "equal" if same else "**differs**"
        rows.append((number, f"**{mine.claim.text}**", mine.verdict, other.verdict, state))
        pair = [{one.what: one.effect for one in entry.findings} for entry in (mine, other)]
        rows += [_beside(number, what, *(found.get(what) for found in pair)) for what in {**pair[0], **pair[1]}]
    for method in TABLE_2[1:]:
        pairs = [[evaluation(results, one) for one in (method, BASE)] for results in (ours, theirs)]
        gains = [intervals.compare(one.answers, base.answers) if one and base else None for one, base in pairs]
        rows.append(_beside("Table 2", f"{method} − base", *gains))
    head = f"**Yours and the published run**: {equal} of {len(CLAIMS)} verdicts are equal."
    return f"{head}\n\n{markdown.table(('', 'what', 'yours', 'published', ''), rows)}\nPoints with 95 % intervals.\n"


def _beside(where: str, what: str, mine: Effect | None, other: Effect | None) -> tuple[str, ...]:
    """A row of two effects, and whether their intervals overlap; one without an interval says nothing."""
    state = ""
    if mine and other and not isnan(mine.low + other.low):
        state = "intervals overlap" if mine.low <= other.high and other.low <= mine.high else "**apart**"
    cells = ("–" if found and isnan(found.value) else str(found or NOT_RUN) for found in (mine, other))
    return (where, what, *cells, state)
