"""The study's one look, its few primitives, and writing figures whose bytes do not change from call to call.

Colours are seaborn's colour-blind palette, and methods, prompts and videos also differ by marker or place.
"""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr.files import atomic_write
from vsr.profiles import VIDEOS
from vsr.report.tables import NOT_RUN
from vsr.scoring.intervals import Effect, Value

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, RED, PURPLE = PALETTE[:5]
GREY = "0.45"
SEEDS = re.compile(r"(.*-seed)(\d+)(.*?)-[0-9a-f]{8}")  # of a run's id: what comes before, the seed, what comes after
SEEDS_AND_VIDEO = re.compile(rf"(.*}}.*-)({'|'.join(VIDEOS)})()")  # of several seeds told together


@contextmanager
def style() -> Iterator[None]:
    """The study's look, for this block only."""
    settings = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.85),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "figure.dpi": 110,
    }
    with mpl.rc_context(settings):
        yield


def savefig(fig: Figure, path: str | Path) -> list[Path]:
    """Write `fig` as path.svg and path.png, byte for byte the same for the same figure; the paths written."""
    written = []
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # laid out once for both files
    # without dates and versions, and with the same names inside an svg each time
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "vsr", "svg.fonttype": "path"}):
            fig.savefig(content, format=suffix[1:], metadata=metadata, bbox_inches="tight", dpi=160)
        written.append(Path(f"{path}{suffix}"))
        atomic_write(written[-1], content.getvalue())
    return written


def not_run(axes: Axes, what: str = "") -> None:
    """Say in the middle of an empty panel that there is nothing to show."""
    text = NOT_RUN + (f": {what}" if what else "")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize="large")
    axes.set(xticks=[], yticks=[])


def title(axes: Axes, text: str, width: int = 88, **place: float) -> None:
    """A title of as many lines as it needs."""
    axes.set_title(textwrap.fill(text, width), **place)


def suptitle(fig: Figure, text: str) -> None:
    """The title of a figure of several panels."""
    fig.suptitle(text, x=0.01, ha="left", fontweight="bold", fontsize="large")


def name_runs(fig: Figure, ids: Iterable[str]) -> None:
    """The runs behind a figure, in small print under it."""
    text = textwrap.fill("runs: " + (", ".join(short(ids)) or "none"), width=int(19 * fig.get_figwidth()))
    fig.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color=GREY)


def short(ids: Iterable[str]) -> list[str]:
    """Ids of runs that differ in seed, then in video, told together and without their hash: sft-seed{0,1,2}."""
    names = [part for each in ids for part in each.split(", ")]
    for pattern in (SEEDS, SEEDS_AND_VIDEO):
        alike: dict[tuple[str, str], list[str]] = {}
        for name in names:
            before, differs, after = found.groups() if (found := pattern.fullmatch(name)) else (name, "", "")
            alike.setdefault((before, after), []).append(differs)
        braced = {key: parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}" for key, parts in alike.items()}
        names = [before + parts + after for (before, after), parts in braced.items()]
    return names


def legend(axes: Axes, *others: Axes, labels: tuple[str, ...], x: float) -> None:
    """One line above `axes`: the first handle of each label, in the order of `labels`."""
    handles: dict[str, object] = {}
    for one in (*reversed(others), axes):
        found, names = one.get_legend_handles_labels()
        handles |= zip(names[::-1], found[::-1], strict=True)  # backwards: what comes first stays
    shown = [label for label in labels if label in handles]
    place = {"loc": "lower left", "bbox_to_anchor": (x, 0.99), "borderaxespad": 0.1, "columnspacing": 1.2}
    axes.legend([handles[label] for label in shown], shown, ncols=max(1, len(shown)), **place)


def interval(axes: Axes, value: Value | Effect | None, y: float, colour: object, marker: str, label: str = "") -> None:
    """A score or effect at height `y` with its interval; nothing where there is none."""
    if value is None:
        return
    if value.low is not None:
        axes.plot([value.low, value.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    at = value.value if isinstance(value, Effect) else value.score
    shape = {"color": colour, "markersize": 6.5, "markeredgecolor": "white", "linestyle": "none", "zorder": 3}
    axes.plot([at], [y], marker, label=label or None, **shape)


def interval_rows(axes: Axes, names: Iterable[str], series: Iterable[tuple], what: str) -> None:
    """One row a name, from the top down, with one of each of `series`: (label, values by row, colour, marker)."""
    names, series = list(names), list(series)
    for y in range(len(names)):
        axes.axhspan(y - 0.5, y + 0.5, color="0.95" if y % 2 else "white", zorder=0, linewidth=0)
    for i, (label, values, colour, marker) in enumerate(series):
        apart = 0.72 / len(series) * ((len(series) - 1) / 2 - i)
        for row, value in enumerate(values):
            interval(axes, value, len(names) - 1 - row + apart, colour, marker, label)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.5, max(1, len(names)) - 0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(what)
