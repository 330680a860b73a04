"""The paper's tables with our rows beside the printed ones, from run folders alone; as Markdown, csv and LaTeX.

A missing number is a visible "not run", and every row names its runs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas

from vsr import markdown, paper
from vsr.files import atomic_write
from vsr.profiles import VIDEOS
from vsr.report import evaluations
from vsr.report.evaluations import BASE, BASE_O, BASE_T, COLUMNS, CONSTANT, Evaluation, Method, evaluation
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect, Value

NOT_RUN = "not run"
Number = Value | Effect | None


@dataclass(frozen=True)
class Row:
    """One row: what was measured, how it was prompted, where the numbers come from, and the numbers by column; on a
    screen it stands in a `block`, where its `name` is enough.

    A column that `values` lacks was not run; None is a task that no question asked for."""

    label: str
    mode: str
    source: str
    values: dict[str, Number]
    block: str
    name: str


@dataclass(frozen=True)
class Table:
    """A named table; `columns` gives each column's head, `notes` stand under it."""

    name: str
    title: str
    columns: dict[str, str]
    rows: list[Row]
    notes: tuple[str, ...]


def write(table: Table, out: Path) -> list[Path]:
    """One table as .md, .csv and .tex."""
    texts = {".md": to_markdown(table), ".csv": to_csv(table), ".tex": to_tex(table)}
    for suffix, text in texts.items():
        atomic_write(out / f"{table.name}{suffix}", text)
    return [out / f"{table.name}{suffix}" for suffix in texts]


def cell(row: Row, column: str) -> str:
    """The text of a cell: a number with its interval, "not run" or a dash."""
    found = row.values.get(column, NOT_RUN)  # what is missing was not run; None was not asked
    return "–" if found is None else str(found)


def to_markdown(table: Table) -> str:
    """The table with its notes and, folded, the runs behind its rows."""
    header = ["row", "mode", *table.columns.values()]
    rows = [[row.label, row.mode, *(_two_lines(cell(row, column)) for column in table.columns)] for row in table.rows]
    body = markdown.table(header, rows)
    notes = "".join(f"{note}\n" for note in table.notes)
    sources = "".join(f"- {row.label}{', ' * bool(row.mode)}{row.mode}: `{row.source}`\n" for row in table.rows)
    return f"**{table.title}**\n\n{body}\n{notes}\n{markdown.folded('Rows come from', sources)}"


INTERVAL = re.compile(r"(\S+) (\[.*\])(?: (.*))?")


def _two_lines(text: str) -> str:
    """A number with its spread, its interval under it: a browser would break such a cell anywhere."""
    found = INTERVAL.fullmatch(text)
    lines = [" ".join(filter(None, (found[1], found[3]))), found[2]] if found else [text]
    return "<br>".join(line.replace(" ", "&nbsp;") for line in lines)


def to_csv(table: Table) -> str:
    """One line a number: its row and column, score, interval, spread between seeds and their number."""
    lines = []
    for row in table.rows:
        for column in table.columns:
            found, numbers, seeds = row.values.get(column), (), ""
            if isinstance(found, Effect):
                numbers, seeds = (found.value, found.low, found.high, None), "x".join(map(str, found.seeds))
            elif found:
                numbers, seeds = (found.score, found.low, found.high, found.spread), found.seeds
            # a missing score is said in words, whatever else is missing is empty
            texts = ["" if number is None else f"{number:.4f}" for number in numbers] or [cell(row, column), "", "", ""]
            lines.append([row.label, row.mode, row.source, column, *texts, seeds])
    head = ["row", "mode", "source", "column", "score", "low", "high", "sd", "seeds"]
    return pandas.DataFrame(lines, columns=head).to_csv(index=False, lineterminator="\n")


def to_tex(table: Table) -> str:
    """A booktabs table, one row a line."""
    cells = [["", "mode", *table.columns.values()]]
    cells += [[row.label, row.mode, *(cell(row, column) for column in table.columns)] for row in table.rows]
    head, *lines = (" & ".join(map(_tex, line)) + r" \\" for line in cells)
    sources = [f"% {row.label} {row.mode}: {row.source}" for row in table.rows]
    opened = r"\begin{tabular}{ll" + "r" * len(table.columns) + "}"
    closed = [r"\bottomrule", r"\end{tabular}", "% " + _tex(table.title), ""]
    return "\n".join([*sources, opened, r"\toprule", head, r"\midrule", *lines, *closed])


def _tex(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, "\\" + character)
    return text.replace("–", "--").replace("−", "$-$")


TABLE_1_ROWS = (  # method, kind of video
    (BASE_T, "true"),
    (BASE_O, "true"),
    (BASE, "true"),
    (BASE, "shuffled"),
    (BASE, "one"),
    (BASE, "none"),
    (CONSTANT, ""),
)
TABLE_2_COLUMNS = {
    "overall": "avg",
    "overall gain": "avg − base",
    "trained": "trained six",
    "trained gain": "six − base",
    **paper.TASKS,
}
HONESTY_COLUMNS = {
    "overall": "avg",
    "overall worth": "avg, true − this",
    "trained": "trained six",
    "trained worth": "six, true − this",
    "debiased": "avg, debiased",
    **paper.TASKS,
}
INTERVALS = "Percent; ours with 95 % intervals from a bootstrap over scenes."
SEEDS = (
    "Ours are means over seeds, sd is the standard deviation between them; an interval of a score is about these very "
    "models, one of a difference between methods also covers the choice of seeds (t with Welch-Satterthwaite degrees "
    "of freedom). One seed alone has no such part."
)
AVERAGES = "avg: mean of the tasks; trained six: mean of the first six, for the paper's rows from its printed scores."
WITHIN = (
    "Profiles other than paper-2b and paper-7b use another model and other questions than the paper: compare rows "
    "within ours."
)


def table_1(results: str | Path) -> Table:
    """Table 1: prompting, and what the base scores without seeing the right video or anything at all."""
    rows = [published_row(row) for row in paper.TABLE_1]
    rows += [measured_row(method, evaluation(results, method, video), video) for method, video in TABLE_1_ROWS]
    return Table(
        "table1",
        f"Table 1. Prompting alone: profile {Path(results).name} beside the paper",
        COLUMNS,
        rows,
        (INTERVALS, AVERAGES, "The paper's 2B think row prints 22.9; the mean of its eight scores is 20.7.", WITHIN),
    )


def table_2(results: str | Path) -> Table:
    """Table 2: every method beside the paper's row for it, then the models that the paper only quotes."""
    backbone = "Qwen2-VL-7B" if Path(results).name == "paper-7b" else "Qwen2-VL-2B"
    printed = {(row.method, row.mode): row for row in paper.TABLE_2 if row.backbone == backbone}
    base, rows = evaluation(results, BASE), []
    for method in evaluations.TABLE_2:
        if (method.label, method.mode) in printed:
            rows.append(published_row(printed[method.label, method.mode], printed["base", "vanilla"]))
        found = evaluation(results, method)
        rows.append(measured_row(method, found))
        rows[-1].values.update(_differences(found, base, "gain", itself=method == BASE))
    rest = [row for row in paper.TABLE_2 if row.backbone != backbone]
    bases = {row.backbone: row for row in rest if row.method == "base"}
    rows += [published_row(row, bases[row.backbone]) for row in rest]
    return Table(
        "table2",
        f"Table 2. Training: profile {Path(results).name} beside the paper",
        TABLE_2_COLUMNS,
        rows,
        (INTERVALS, SEEDS, AVERAGES, "Gains are paired on the same questions.", WITHIN),
    )


def honesty(results: str | Path) -> Table:
    """Every method with the true video, one frame, another room's video and none, beside the best constant answer."""
    rows = []
    for method, video in [(CONSTANT, ""), *((method, video) for method in evaluations.SEEING for video in VIDEOS)]:
        found, true = evaluation(results, method, video), evaluation(results, method)
        row = measured_row(method, found, video, named=True)
        if found:
            kept = found.answers.debiased()
            row.values["debiased"] = kept and kept.value("overall")
        # the best constant answer sees nothing at all
        row.values.update(_differences(true, found, "worth", itself=video in ("", "true")))
        rows.append(row)
    return Table(
        "honesty",
        f"Honesty panel. What is scored without seeing: profile {Path(results).name}",
        HONESTY_COLUMNS,
        rows,
        (
            INTERVALS,
            SEEDS,
            "true − this: what the true video is worth, paired on the same questions.",
            "debiased: the questions that VSI-Bench-Debiased keeps; a dash where the questions do not say.",
        ),
    )


def write_all(results: str | Path, out: str | Path) -> list[Path]:
    """Write every table to `out` in three formats; the paths written."""
    return [path for make in (table_1, table_2, honesty) for path in write(make(results), Path(out))]


def published_row(row: paper.PrintedRow, base: paper.PrintedRow | None = None) -> Row:
    """A printed row; its mean over the six trained tasks and its gain over `base` follow from what is printed."""
    values: dict[str, Value | None] = {"overall": Value(row.average), "trained": Value(_six(row))}
    values |= {task: Value(score) for task, score in zip(paper.TASKS, row.scores, strict=True)}
    values |= {"overall gain": None, "trained gain": None}
    if base and base is not row:
        gains = {"overall gain": row.average - base.average, "trained gain": _six(row) - _six(base)}
        values |= {name: _Gain(gain) for name, gain in gains.items()}
    label = row.backbone if row.method == "base" else f"{row.backbone} + {row.method}"
    qwen = row.backbone.startswith("Qwen")
    place = (f"The paper, {row.backbone}", row.method) if qwen else ("The paper, others", row.backbone)
    return Row(f"paper: {label}", row.mode, row.where, values, *place)


def measured_row(method: Method, found: Evaluation | None, video: str = "true", named: bool = False) -> Row:
    """Our row from all seeds of a method's evaluation; `named` says the video even where it is the true one."""
    seen = VIDEOS[video] if video in VIDEOS and (named or video != "true") else ""
    label = f"{method.label}, {seen}" if seen else method.label
    source = found.id if found else f"{label} ({NOT_RUN})"
    caution = f" [{found.warning}]" if found and found.warning else ""  # trained on rooms of the benchmark
    place = (f"Ours, {method}", seen or method.label) if named else ("Ours", label)
    return Row(f"ours: {label}{caution}", method.mode, source, found.values() if found else {}, *place)


def _differences(ours: Evaluation | None, theirs: Evaluation | None, name: str, itself: bool) -> dict[str, Number]:
    """Ours minus theirs over both averages; a dash where it is the row that all others are set against."""
    if ours is None or theirs is None:
        return {}
    return {
        f"{over} {name}": None if itself else intervals.compare(ours.answers, theirs.answers, over)
        for over in intervals.MEMBERS
    }


def _six(row: paper.PrintedRow) -> float:
    return sum(row.score(task) for task in paper.TRAINED) / len(paper.TRAINED)


class _Gain(Value):
    """A printed difference: no interval, but a sign."""

    def __str__(self) -> str:
        return f"{self.score:+.1f}"
