"""The paper's tables with our rows beside the printed ones, from run folders alone; as .md, .csv and .tex.

A number that no run has produced is a visible "not run". Every table names the runs that it was made from.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vsr import paper
from vsr.runs import atomic_write
from vsr.summaries import COLUMNS, Value, find

NOT_RUN = "not run"

# label, prompt mode, run folder
TABLE_1_RUNS = (
    ("base", "think", "eval-base-think-true"),
    ("base", "observe", "eval-base-observe-true"),
    ("base", "vanilla", "eval-base-vanilla-true"),
    ("base, shuffled video", "vanilla", "eval-base-vanilla-shuffled"),
    ("base, one frame", "vanilla", "eval-base-vanilla-one"),
    ("base, no video", "vanilla", "eval-base-vanilla-none"),
    ("best constant answer", "", "eval-constant"),
)


@dataclass(frozen=True)
class Row:
    """One row: what was measured, how it was prompted, where the numbers come from, and the numbers by column.

    `values` is None where the run does not exist; a single None in it is a task that no question asked for.
    """

    label: str
    mode: str
    source: str
    values: dict[str, Value | None] | None


@dataclass(frozen=True)
class Table:
    """A named table; `notes` stand under it."""

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def published_row(row: paper.Row) -> Row:
    """A printed row; its mean over the six trained tasks is ours, computed from the printed scores."""
    trained = sum(row.score(task) for task in paper.TRAINED) / len(paper.TRAINED)
    values = {"overall": Value(row.average), "trained": Value(trained)}
    values |= {task: Value(score) for task, score in zip(paper.TASKS, row.scores, strict=True)}
    label = row.backbone if row.method == "base" else f"{row.backbone} + {row.method}"
    return Row(f"paper: {label}", row.mode, row.where, values)


def measured_row(results: Path, label: str, mode: str, name: str) -> Row:
    """Our row from the run folder `name`."""
    run = find(results, name)
    if run is None:
        return Row(f"ours: {label}", mode, f"{name} ({NOT_RUN})", None)
    return Row(f"ours: {label}" + (f" [{run.warning}]" if run.warning else ""), mode, run.id, run.values())


def table_1(results: Path) -> Table:
    """Table 1: prompting, and what the base scores without seeing the right video or anything at all."""
    printed = [published_row(row) for row in paper.TABLE_1]
    ours = [measured_row(results, *run) for run in TABLE_1_RUNS]
    return Table(
        "table1",
        f"Table 1. Prompting alone: profile {Path(results).name} beside the paper",
        (*printed, *ours),
        (
            "Percent; ours with 95 % intervals from a bootstrap over scenes.",
            "avg: mean of the tasks; trained six: mean of the first six, for the paper's rows from its printed scores.",
            "The paper's 2B think row prints 22.9; the mean of its eight scores is 20.7.",
            "Profiles other than paper-2b and paper-7b use another model and other questions than the paper: "
            "compare rows within ours.",
        ),
    )


def write_all(results: str | Path, out: str | Path) -> list[Path]:
    """Write every table to `out` in three formats; the paths written."""
    return [path for table in (table_1(Path(results)),) for path in write(table, Path(out))]


def write(table: Table, out: Path) -> list[Path]:
    """One table as .md, .csv and .tex."""
    paths = []
    for suffix, text in ((".md", to_markdown(table)), (".csv", to_csv(table)), (".tex", to_tex(table))):
        paths.append(out / f"{table.name}{suffix}")
        atomic_write(paths[-1], text)
    return paths


def cell(row: Row, column: str) -> str:
    """The text of a cell: the score with its interval, "not run", or a dash for a task that was not asked."""
    if row.values is None:
        return NOT_RUN
    return "–" if row.values[column] is None else str(row.values[column])


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table; pipes in cells are escaped."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def to_markdown(table: Table) -> str:
    """The table with its notes and the runs behind its rows."""
    header = ["row", "mode", *COLUMNS.values()]
    rows = [[row.label, row.mode, *(cell(row, column) for column in COLUMNS)] for row in table.rows]
    body = markdown_table(header, rows)
    notes = "".join(f"{note}\n" for note in table.notes)
    sources = "".join(f"- {row.label}{', ' * bool(row.mode)}{row.mode}: `{row.source}`\n" for row in table.rows)
    return f"**{table.title}**\n\n{body}\n{notes}\nRows come from:\n\n{sources}"


def to_csv(table: Table) -> str:
    """One line a number: row, mode, source, column, score, low, high; "not run" stands where a score is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "mode", "source", "column", "score", "low", "high"])
    for row in table.rows:
        for column in COLUMNS:
            value = row.values[column] if row.values else None
            numbers = [cell(row, column), "", ""] if value is None else [value.score, value.low, value.high]
            writer.writerow([row.label, row.mode, row.source, column, *(_plain(number) for number in numbers)])
    return text.getvalue()


def _plain(number: float | str | None) -> str:
    return number if isinstance(number, str) else "" if number is None else f"{number:.4f}"


def to_tex(table: Table) -> str:
    """A booktabs table, one row a line."""
    head = " & ".join(["", "mode", *COLUMNS.values()])
    lines = [
        " & ".join([_tex(row.label), _tex(row.mode), *(_tex(cell(row, column)) for column in COLUMNS)]) + r" \\"
        for row in table.rows
    ]
    sources = [f"% {row.label} {row.mode}: {row.source}" for row in table.rows]
    return "\n".join(
        [
            *sources,
            r"\begin{tabular}{ll" + "r" * len(COLUMNS) + "}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "% " + _tex(table.title),
            "",
        ]
    )


def _tex(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, "\\" + character)
    return text.replace("–", "--")
