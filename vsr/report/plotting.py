"""The study's one look, its few primitives (rows of intervals, curves, panels that were not run), and writing figures
as .svg and .png that do not change from call to call.

Colours are seaborn's colour-blind palette, and methods, prompts and videos also differ by marker or place.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
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
BLUE, ORANGE, GREEN, RED, PURPLE = (PALETTE[i] for i in (0, 1, 2, 3, 4))
GREY = "0.45"
_STABLE = {"svg.hashsalt": "vsr", "svg.fonttype": "path"}


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
    path = Path(path)
    written = []
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # laid out once for both files
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        content = io.BytesIO()
        with mpl.rc_context(_STABLE):
            fig.savefig(content, format=suffix[1:], metadata=metadata, bbox_inches="tight", dpi=160)
        written.append(path.with_name(path.name + suffix))
        atomic_write(written[-1], content.getvalue())
    return written


def not_run(axes: Axes, what: str = "") -> None:
    """Say in the middle of an empty panel that there is nothing to show."""
    text = NOT_RUN + (f": {what}" if what else "")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize="large")
    axes.set_xticks([])
    axes.set_yticks([])


def title(axes: Axes, text: str, width: int = 88, **place: float) -> None:
    """A title of as many lines as it needs."""
    axes.set_title("\n".join(textwrap.wrap(text, width)), **place)


def name_runs(fig: Figure, ids: Iterable[str]) -> None:
    """The runs behind a figure, in small print under it."""
    text = textwrap.fill("runs: " + (", ".join(short(ids)) or "none"), width=int(19 * fig.get_figwidth()))
    fig.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color=GREY)


def short(ids: Iterable[str]) -> list[str]:
    """Ids of runs that differ in seed, then in video, told together and without their hash: sft-seed{0,1,2}."""
    first: dict[tuple[str, str], list[str]] = {}
    for one in (part for each in ids for part in each.split(", ")):
        found = _SEED.fullmatch(one)
        first.setdefault((found[1], found[3]) if found else (one, ""), []).append(found[2] if found else "")
    names = [before + _braces(seeds) + after for (before, after), seeds in first.items()]
    second: dict[str, list[str]] = {}
    for name in names:
        stem, _, video = name.rpartition("-")
        known = "{" in name and video in VIDEOS
        second.setdefault(stem + "-" if known else name, []).append(video if known else "")
    return [stem + _braces(videos) for stem, videos in second.items()]


_SEED = re.compile(r"(.*-seed)(\d+)(.*?)-[0-9a-f]{8}")


def _braces(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else "{" + ",".join(parts) + "}"


def legend(axes: Axes, *others: Axes, labels: tuple[str, ...], x: float) -> None:
    """One line above `axes`: the first handle of each label, in the order of `labels`."""
    handles: dict[str, object] = {}
    for handle, label in (
        pair for one in (axes, *others) for pair in zip(*one.get_legend_handles_labels(), strict=True)
    ):
        handles.setdefault(label, handle)
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
    """One row a name, from the top down; each of `series` is (label, values by row, colour, marker), and those of a row
    stand a little apart, the first one highest. `what` is measured along x."""
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


def curves(axes: Axes, runs: Iterable, value: Callable, mean: Callable, colour: object, line: str, label: str) -> None:
    """`value` of every run over its steps, thin, and their `mean`, thick."""
    runs = list(runs)
    for run in runs:
        axes.plot(run.steps, value(run), color=colour, linewidth=0.7, alpha=0.35)
    whole = mean(runs)
    axes.plot(runs[0].steps[: len(whole)], whole, line, color=colour, linewidth=2.6, label=label)
