"""Scores for eyes: pandas Stylers of at most ten columns, which fit a page of 1,000 pixels. What the sense needs is in
the cells (bold, small, line ends), since GitHub's renderer drops every style."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas
from pandas.io.formats.style import Styler

from vsr import markdown
from vsr.paper import TASKS
from vsr.report.tables import INTERVAL, NOT_RUN, Number, Table
from vsr.scoring.intervals import Effect, Value

Line = tuple[str, Mapping[str, Number | str]]  # a row's label and what it has by column
TAG = re.compile("<[^>]*>")
UNBROKEN = str.maketrans({" ": "&nbsp;", "-": "&#8209;"})  # no browser ends a line there
HEAT, PAPER = "1, 115, 178", "222, 143, 5"  # red, green, blue; laid on thinly, so that any theme shows through
STYLES = [
    {"selector": "th", "props": "text-align: right; vertical-align: bottom; padding: 3px 7px;"},
    {"selector": "td", "props": "text-align: right; vertical-align: top; padding: 3px 7px; line-height: 1.15;"},
    {"selector": "th:first-of-type, td:first-of-type", "props": "text-align: left; white-space: nowrap;"},
    {"selector": "small", "props": "font-size: 78%; opacity: 0.7; white-space: nowrap;"},
    {"selector": "caption", "props": "text-align: left; font-weight: bold; padding: 4px 0;"},
]


@dataclass(frozen=True, repr=False)
class Scores:
    """Rows in named blocks, heads by column: a Styler in notebooks, Markdown where it is printed.

    The highest of a block is bold in the columns of `best`, which are coloured by how high they are within the block;
    the paper's blocks stand on another ground."""

    title: str
    columns: Mapping[str, str]
    blocks: Mapping[str, Sequence[Line]]
    best: Collection[str] = ()

    def __repr__(self) -> str:
        rows = []
        for block, lines in self.blocks.items():
            names = [TAG.sub("", f"{block}: {label}" if block else label) for label, _ in lines]
            cells = ([_text(values, column) for column in self.columns] for _, values in lines)
            rows += [[name, *row] for name, row in zip(names, cells, strict=True)]
        return markdown.table(["", *self.columns.values()], rows)

    def _repr_html_(self) -> str:
        return self.styler().to_html()

    def styler(self) -> Styler:
        """What notebooks show."""
        texts, looks = [], []
        for block, lines in self.blocks.items():
            ground = f"background-color: rgba({PAPER}, 0.12);" if block.startswith("The paper") else ""
            if len(self.blocks) > 1:
                texts.append([f"<b>{escape(block)}</b>".translate(UNBROKEN), *[""] * len(self.columns)])
                looks.append([f"border-top: 1px solid rgba(128, 128, 128, 0.6); {ground}"] * (1 + len(self.columns)))
            numbers = np.array([[_number(values.get(c)) for c in self.columns] for _, values in lines])
            numbers[:, [column not in self.best for column in self.columns]] = np.nan
            for line, (label, values) in enumerate(lines):
                heat = [_height(column, line) for column in numbers.T]
                cells = [
                    _cell(_text(values, column), high == 1) for column, high in zip(self.columns, heat, strict=True)
                ]
                texts.append([label.translate(UNBROKEN), *cells])
                shade = (f"background-color: rgba({HEAT}, {0.45 * high:.2f});" if high else ground for high in heat)
                looks.append([ground, *shade])
        frame = pandas.DataFrame(texts)
        mark = hashlib.sha256(repr((self.title, texts)).encode()).hexdigest()[:8]  # Stylers' own are random
        styler = Styler(frame, uuid=mark, cell_ids=False, caption=self.title).hide(axis="index")
        css = pandas.DataFrame(looks, index=frame.index, columns=frame.columns)
        styler = styler.set_table_styles(STYLES).apply(lambda _: css, axis=None)
        return styler.relabel_index(["", *self.columns.values()], axis="columns")


def views(table: Table) -> list[Scores]:
    """A table of the report as a screen shows it: averages and differences, if it has any, then the tasks."""
    named: dict[str, list[Line]] = {}
    for row in sorted(table.rows, key=lambda row: row.block.startswith("The paper")):
        mode = f" <small>{row.mode}</small>" if row.mode and row.mode not in row.block else ""
        named.setdefault(row.block, []).append((escape(row.name) + mode, row.values))
    tasks = {column: head for column, head in table.columns.items() if column == "overall" or column in TASKS}
    rest = {column: head for column, head in table.columns.items() if column not in TASKS}
    found = [Scores(f"{table.title}, by task", tasks, _short(named), tasks)]
    if set(rest) > {"overall", "trained"}:
        found.insert(0, Scores(f"{table.title}, averages", rest, named, ("overall", "trained")))
    return found


def _short(blocks: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """Without the spread between seeds, which the averages and the csv have."""
    return {
        block: [(label, {column: _bare(value) for column, value in values.items()}) for label, values in lines]
        for block, lines in blocks.items()
    }


def _bare(value: Number) -> Number:
    return Value(value.score, value.low, value.high) if type(value) is Value else value


def _number(value: Number | str) -> float:
    return value.score if isinstance(value, Value) else value.value if isinstance(value, Effect) else np.nan


def _height(column: np.ndarray, line: int) -> float | None:
    """Where a line's number (of a block's, (lines,)) lies from the lowest, 0, to the highest, 1; None if alone."""
    if np.isnan(column[line]) or np.isfinite(column).sum() < 2:
        return None
    low, high = np.nanmin(column), np.nanmax(column)
    return float((column[line] - low) / (high - low)) if high > low else None


def _text(values: Mapping[str, Number | str], column: str) -> str:
    found = values.get(column, NOT_RUN)  # what is missing was not run; None was not asked
    return "–" if found is None else str(found)


def _cell(text: str, highest: bool) -> str:
    """A number over its interval, in small type."""
    number, *small = INTERVAL.fullmatch(text).groups() if INTERVAL.fullmatch(text) else (escape(text),)
    parts = (f"<small>{part.replace(' ', '&nbsp;')}</small>" for part in small if part)
    return "<br>".join((f"<b>{number}</b>" if highest else number, *parts))


LABEL = 36  # characters of a row's label that stay on one line
WITHIN = re.compile(r" (\[[+-]?[\d.]+), ([+-]?[\d.]+\])")  # a text: an interval


def label(name: object) -> object:
    """Spaces and hyphens of a short label that no browser breaks at."""
    text = str(name)
    return text.replace(" ", "\u00a0").replace("-", "\u2011") if 0 < len(text) <= LABEL and "`" not in text else name


def small(value: object) -> object:
    """Intervals of a text in small type."""
    return WITHIN.sub(" <small>\\1,\u00a0\\2</small>", str(value)) if isinstance(value, str | Value) else value
