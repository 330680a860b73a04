"""The study's one look, its few primitives, writing figures whose bytes do not change from call to call; and what
notebooks show: a room's floor plan, its frames side by side, curves that grow while runs train.

Colours are seaborn's colour-blind palette, and methods, prompts and videos also differ by marker or place.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas
import seaborn as sns
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Wedge
from matplotlib.ticker import MaxNLocator
from shapely import MultiPoint

from vsr.files import atomic_write, read_jsonl
from vsr.miniature.catalogue import PALETTES, colour_of
from vsr.miniature.render import with_camera
from vsr.profiles import VIDEOS
from vsr.progress import duration
from vsr.report.tables import NOT_RUN
from vsr.scenes.scene import Box, Scene
from vsr.scoring.intervals import Effect, Value

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, RED, PURPLE = PALETTE[:5]
GREY = "0.45"
INK, CAMERA = "#30343c", "#d6336c"  # of floor plans
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
    """The title of a figure of several panels, of as many lines as it needs."""
    fig.suptitle(
        textwrap.fill(text, int(9.3 * fig.get_figwidth())), x=0.01, ha="left", fontweight="bold", fontsize="large"
    )


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
    place = {
        "loc": "lower left",
        "bbox_to_anchor": (x, 0.99),
        "borderaxespad": 0.1,
        "columnspacing": 1.2,
        "handlelength": 2.8,
    }
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


def bars(axes: Axes, names: Iterable[str], values: Iterable[float], colours: Iterable[object], what: str) -> None:
    """One horizontal bar a name, from the top down, its number at its end."""
    names, values = list(names), list(values)
    axes.barh(range(len(names)), values, 0.72, color=list(colours))
    for y, value in enumerate(values):
        place = {"ha": "left" if value >= 0 else "right", "xytext": (4 if value >= 0 else -4, 0)}
        axes.annotate(f"{value:+.2f}", (value, y), textcoords="offset points", va="center", fontsize=8, **place)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(what)


def image(figure: Figure, width: int = 900, dpi: int = 110) -> Image:
    """A figure as a picture: the same bytes in JupyterLab and in executed copies."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return Image(content.getvalue(), width=width)


def room(scene: Scene | None, frames: np.ndarray, width: float = 12) -> Image:
    """A room's plan, where it is known, beside the frames (T, H, W, 3) of its video, numbered in reading order."""
    figure = Figure(figsize=(width, width / 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.4))
    _frames(right, frames)
    if scene:
        draw_plan(left.subplots(), scene)
        figure.suptitle(f"{scene.id}: {scene.room_size:.1f} m²", x=0.01, ha="left")
    return image(figure)


def film(frames: np.ndarray, text: str, width: float = 9) -> Image:
    """The frames (T, H, W, 3) of a video, numbered, under a question about it."""
    figure = Figure(
        figsize=(width, 0.5 + width / len(frames) * frames.shape[1] / frames.shape[2]), layout="constrained"
    )
    _frames(figure, frames, len(frames))
    suptitle(figure, text)
    return image(figure, 800)


def _frames(figure: Figure, frames: np.ndarray, columns: int = 4) -> None:
    rows, gaps = math.ceil(len(frames) / columns), {"wspace": 0.03, "hspace": 0.03}
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False, gridspec_kw=gaps).flat):
        axes.set_axis_off()
        if number < len(frames):
            axes.imshow(frames[number], interpolation="nearest")
            place = {"transform": axes.transAxes, "va": "top", "fontsize": 8, "color": "white"}
            ground = {"facecolor": INK, "alpha": 0.6, "pad": 1.5, "linewidth": 0}
            axes.text(0.03, 0.95, number + 1, bbox=ground, **place)


def draw_plan(axes: Axes, scene: Scene) -> None:
    """The room from above, in metres: floor, labelled oriented boxes in their colours, the camera's path and views."""
    scene = with_camera(scene)
    floor_colour = _rgb(PALETTES[scene.palette % len(PALETTES)].floor, 0.45)
    axes.add_patch(Polygon(scene.floor, facecolor=floor_colour, edgecolor=INK, linewidth=2.5))
    # low boxes first: what stands on something is seen on it
    for box in sorted(scene.objects, key=lambda box: box.center[2] + box.size[2] / 2):
        axes.add_patch(Polygon(_outline(box), facecolor=_rgb(colour_of(box.label)), edgecolor=INK, linewidth=0.8))
    for box in scene.objects:
        _label(axes, box, scene.floor)
    camera, reach = scene.camera, 0.12 * np.ptp(scene.floor, axis=0).max()
    half = math.degrees(camera.fov) / 4
    axes.plot(*camera.position[:, :2].T, color=INK, linewidth=1, alpha=0.5, zorder=4)
    for t, (place, yaw) in enumerate(zip(camera.position[:, :2], np.degrees(camera.yaw).tolist(), strict=True)):
        view = Wedge(place, reach, yaw - half, yaw + half, color=CAMERA, zorder=5)
        view.set_alpha(0.75 - 0.6 * t / max(1, len(camera) - 1))  # from dark, the first frame, to light
        axes.add_patch(view)
    axes.plot(*camera.position[0, :2], "o", color=INK, markersize=4, zorder=6)
    low, high = scene.floor.min(0), scene.floor.max(0)
    margin = 0.04 * (high - low).max()
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal")
    axes.set_axis_off()


def _rgb(colour: tuple[int, int, int], strength: float = 1.0) -> tuple[float, ...]:
    """0-255 -> 0-1, mixed with white."""
    return tuple(1 - strength * (1 - c / 255) for c in colour)


def _outline(box: Box) -> np.ndarray:
    """The box's shadow on the floor: the hull of its corners, (N, 2)."""
    return np.array(MultiPoint(box.corners()[:, :2]).convex_hull.exterior.coords)[:-1]


def _label(axes: Axes, box: Box, floor: np.ndarray) -> None:
    """The label in the box where it fits, else beside it towards the middle of the room."""
    spot, inward, room_size = box.center[:2], floor.mean(0) - box.center[:2], np.ptp(floor, axis=0)
    size, away = np.ptp(_outline(box), axis=0), np.zeros(2)
    if size.min() < 0.15 * room_size.min() or size[0] < 0.2 * room_size[0]:
        along = int(np.argmax(np.abs(inward) / room_size))
        away[along] = np.sign(inward[along]) * size[along] / 2
    place = {
        "ha": {-1: "right", 0: "center", 1: "left"}[int(np.sign(away[0]))],
        "va": {-1: "top", 0: "center", 1: "bottom"}[int(np.sign(away[1]))],
        "bbox": {"facecolor": "white", "alpha": 0.7, "pad": 0.8, "linewidth": 0},
    }
    axes.annotate(
        box.label, spot + away, 4 * np.sign(away), textcoords="offset points", fontsize=7.5, color=INK, **place
    )


class Curves:
    """Call it now and then: it redraws `column` of every run's log.jsonl, in the cell's one output."""

    def __init__(self, folders: list[Path], steps: int, column: str = "reward", labels: list[str] | None = None):
        self.folders, self.steps, self.column = folders, steps, column
        self.labels = labels or [folder.name for folder in folders]
        self.handle = display(self._picture(0), display_id=True)

    def __call__(self, done: int) -> None:
        """Redraw; `done` runs are complete."""
        self.handle.update(self._picture(done))

    @style()
    def _picture(self, done: int, smooth: int = 10) -> Image:
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes, spent = figure.subplots(), 0.0
        for folder, label in zip(self.folders, self.labels, strict=True):
            rows = list(read_jsonl(folder / "log.jsonl")) if (folder / "log.jsonl").is_file() else []
            spent += sum(value for row in rows for key, value in row.items() if key.split("/")[0] == "seconds")
            values = pandas.Series([row[self.column] for row in rows if self.column in row], dtype=float)
            means = values.rolling(smooth, min_periods=1).mean()
            axes.plot(range(1, len(means) + 1), means, linewidth=1, label=label)
        axes.set(xlim=(0, self.steps), xlabel="step", ylabel=f"{self.column}, mean of {smooth} steps")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{done} of {len(self.folders)} runs complete, {duration(spent)} of training", loc="left")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + len(self.folders) // 13)
        return image(figure, 800, 90)
