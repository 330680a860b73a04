"""A table as Markdown, csv and LaTeX: a missing number is a visible "not run", and every row names its runs."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vsr.files import atomic_write
from vsr.scoring.intervals import Effect, Value

NOT_RUN = "not run"
Number = Value | Effect | None


@dataclass(frozen=True)
class Row:
    """One row: what was measured, how it was prompted, where the numbers come from, and the numbers by column.

    A column that `values` lacks was not run; None is a task that no question asked for."""

    label: str
    mode: str
    source: str
    values: dict[str, Number]


@dataclass(frozen=True)
class Table:
    """A named table; `columns` gives each column's head, `notes` stand under it."""

    name: str
    title: str
    columns: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def write(table: Table, out: Path) -> list[Path]:
    """One table as .md, .csv and .tex."""
    paths = []
    for suffix, text in ((".md", to_markdown(table)), (".csv", to_csv(table)), (".tex", to_tex(table))):
        paths.append(out / f"{table.name}{suffix}")
        atomic_write(paths[-1], text)
    return paths


def cell(row: Row, column: str) -> str:
    """The text of a cell: the number with its interval, "not run", or a dash for what was not asked."""
    if column not in row.values:
        return NOT_RUN
    return "–" if row.values[column] is None else str(row.values[column])


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table; pipes in cells are escaped."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def to_markdown(table: Table) -> str:
    """The table with its notes and, folded, the runs behind its rows."""
    header = ["row", "mode", *table.columns.values()]
    rows = [[row.label, row.mode, *(_two_lines(cell(row, column)) for column in table.columns)] for row in table.rows]
    body = markdown_table(header, rows)
    notes = "".join(f"{note}\n" for note in table.notes)
    sources = "".join(f"- {row.label}{', ' * bool(row.mode)}{row.mode}: `{row.source}`\n" for row in table.rows)
    return f"**{table.title}**\n\n{body}\n{notes}\n{folded('Rows come from', sources)}"


def folded(summary: str, body: str) -> str:
    """Markdown that opens on a click, in notebooks and on GitHub."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"


_INTERVAL = re.compile(r"(\S+) (\[.*\])(?: (.*))?")


def _two_lines(text: str) -> str:
    """A number with its spread, its interval under it: a browser would break such a cell anywhere."""
    found = _INTERVAL.fullmatch(text)
    lines = [" ".join(filter(None, (found[1], found[3]))), found[2]] if found else [text]
    return "<br>".join(line.replace(" ", "&nbsp;") for line in lines)


def to_csv(table: Table) -> str:
    """One line a number: row, mode, source, column, score, low, high, spread between seeds, number of seeds; "not run"
    stands where a score is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "mode", "source", "column", "score", "low", "high", "sd", "seeds"])
    for row in table.rows:
        for column in table.columns:
            numbers = _numbers(row.values.get(column)) or [cell(row, column), "", "", "", ""]
            writer.writerow([row.label, row.mode, row.source, column, *numbers])
    return text.getvalue()


def _numbers(value: Number) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, Effect):
        return [*map(_plain, (value.value, value.low, value.high)), "", "x".join(map(str, value.seeds))]
    return [*map(_plain, (value.score, value.low, value.high, value.spread)), str(value.seeds)]


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"


def to_tex(table: Table) -> str:
    """A booktabs table, one row a line."""
    head = " & ".join(["", "mode", *map(_tex, table.columns.values())])
    lines = [
        " & ".join([_tex(row.label), _tex(row.mode), *(_tex(cell(row, column)) for column in table.columns)]) + r" \\"
        for row in table.rows
    ]
    sources = [f"% {row.label} {row.mode}: {row.source}" for row in table.rows]
    return "\n".join(
        [
            *sources,
            r"\begin{tabular}{ll" + "r" * len(table.columns) + "}",
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
    return text.replace("–", "--").replace("−", "$-$")
