"""The paper's tables with our rows beside the printed ones, from run folders alone; as .md, .csv and .tex."""

from dataclasses import replace
from pathlib import Path

from vsr import paper
from vsr.report import methods
from vsr.report.methods import BASE, CONSTANT, Method
from vsr.report.summaries import COLUMNS, Evaluation, evaluation
from vsr.report.table_text import NOT_RUN, Number, Row, Table, markdown_table, to_markdown, write
from vsr.scoring import intervals
from vsr.scoring.intervals import Value

__all__ = ["NOT_RUN", "Table", "honesty", "markdown_table", "table_1", "table_2", "to_markdown", "write_all"]

# label, prompt mode, run folder
TABLE_1_RUNS = (
    ("base", "think", "eval-base-think-true"),
    ("base", "observe", "eval-base-observe-true"),
    ("base", "vanilla", "eval-base-vanilla-true"),
    ("base, shuffled video", "vanilla", "eval-base-vanilla-shuffled"),
    ("base, one frame", "vanilla", "eval-base-vanilla-one"),
    ("base, no video", "vanilla", "eval-base-vanilla-none"),
    ("best constant answer", "", CONSTANT),
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
    printed = [published_row(row) for row in paper.TABLE_1]
    ours = [measured_row(results, *run) for run in TABLE_1_RUNS]
    return Table(
        "table1",
        f"Table 1. Prompting alone: profile {Path(results).name} beside the paper",
        COLUMNS,
        (*printed, *ours),
        (INTERVALS, AVERAGES, "The paper's 2B think row prints 22.9; the mean of its eight scores is 20.7.", WITHIN),
    )


def table_2(results: str | Path) -> Table:
    """Table 2: every method beside the paper's row for it, then the models that the paper only quotes."""
    backbone = "Qwen2-VL-7B" if Path(results).name == "paper-7b" else "Qwen2-VL-2B"
    printed = {(row.method, row.mode): row for row in paper.TABLE_2 if row.backbone == backbone}
    base, rows = evaluation(results, BASE.evaluation()), []
    for method in methods.TABLE_2:
        if (method.label, method.mode) in printed:
            rows.append(published_row(printed[method.label, method.mode], printed["base", "vanilla"]))
        rows.append(gain_row(results, method, base))
    rest = [row for row in paper.TABLE_2 if row.backbone != backbone]
    bases = {row.backbone: row for row in rest if row.method == "base"}
    return Table(
        "table2",
        f"Table 2. Training: profile {Path(results).name} beside the paper",
        TABLE_2_COLUMNS,
        (*rows, *(published_row(row, bases[row.backbone]) for row in rest)),
        (INTERVALS, SEEDS, AVERAGES, "Gains are paired on the same questions.", WITHIN),
    )


def honesty(results: str | Path) -> Table:
    """Every method with the true video, one frame, another room's video and none, beside the best constant answer."""
    constant = evaluation(results, CONSTANT)
    row = measured_row(results, "best constant answer", "", CONSTANT)
    worthless = {"debiased": _debiased(constant), "overall worth": None, "trained worth": None} if constant else {}
    rows = [replace(row, values=row.values | worthless)]
    for method in methods.SEEING:
        true = evaluation(results, method.evaluation())
        rows += [_seeing_row(results, method, video, true) for video in methods.VIDEOS]
    return Table(
        "honesty",
        f"Honesty panel. What is scored without seeing: profile {Path(results).name}",
        HONESTY_COLUMNS,
        tuple(rows),
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


def published_row(row: paper.Row, base: paper.Row | None = None) -> Row:
    """A printed row; its mean over the six trained tasks and its gain over `base` follow from what is printed."""
    values: dict[str, Value | None] = {"overall": Value(row.average), "trained": Value(_six(row))}
    values |= {task: Value(score) for task, score in zip(paper.TASKS, row.scores, strict=True)}
    values |= {"overall gain": None, "trained gain": None}
    if base and base is not row:
        values["overall gain"] = _Gain(row.average - base.average)
        values["trained gain"] = _Gain(_six(row) - _six(base))
    label = row.backbone if row.method == "base" else f"{row.backbone} + {row.method}"
    return Row(f"paper: {label}", row.mode, row.where, values)


def measured_row(results: str | Path, label: str, mode: str, name: str) -> Row:
    """Our row from all seeds of the evaluation `name`."""
    found = evaluation(results, name)
    source = found.id if found else f"{name} ({NOT_RUN})"
    caution = f" [{found.warning}]" if found and found.warning else ""  # trained on rooms of the benchmark
    return Row(f"ours: {label}{caution}", mode, source, found.values() if found else {})


def gain_row(results: str | Path, method: Method, base: Evaluation | None) -> Row:
    """A row with its gains over the base."""
    row, found = measured_row(results, method.label, method.mode, method.evaluation()), None
    if method != BASE:
        found = evaluation(results, method.evaluation())
    return replace(row, values=row.values | _differences(found, base, "gain", method == BASE and base))


def _seeing_row(results: str | Path, method: Method, video: str, true: Evaluation | None) -> Row:
    """A row of the honesty panel."""
    row = measured_row(results, f"{method.label}, {methods.VIDEOS[video]}", method.mode, method.evaluation(video))
    shown = evaluation(results, method.evaluation(video))
    debiased = {"debiased": _debiased(shown)} if shown else {}
    worth = _differences(true, None if video == "true" else shown, "worth", video == "true" and shown)
    return replace(row, values=row.values | debiased | worth)


def _differences(ours: Evaluation | None, theirs: Evaluation | None, name: str, itself: object) -> dict[str, Number]:
    """Ours minus theirs over both averages; a dash where it is the row that all others are set against."""
    if itself:
        return {f"{over} {name}": None for over in intervals.MEMBERS}
    if ours is None or theirs is None:
        return {}
    return {f"{over} {name}": intervals.compare(ours.answers, theirs.answers, over) for over in intervals.MEMBERS}


def _debiased(found: Evaluation) -> Value | None:
    kept = found.answers.debiased()
    return kept and kept.value("overall")


def _six(row: paper.Row) -> float:
    return sum(row.score(task) for task in paper.TRAINED) / len(paper.TRAINED)


class _Gain(Value):
    """A printed difference: no interval, but a sign."""

    def __str__(self) -> str:
        return f"{self.score:+.1f}"
