"""The one writer of Markdown tables."""

from collections.abc import Iterable


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A pipe table; pipes in cells are escaped, line ends become spaces, fractions have four digits."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def folded(summary: str, body: str) -> str:
    """Markdown that opens on a click, in notebooks and on GitHub."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
    return text.replace("\n", " ").replace("|", "\\|")
