"""Pictures for notebooks: a room's floor plan, its frames side by side, and curves that grow while runs train."""

import io
import math
from pathlib import Path

import numpy as np
import pandas
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Wedge
from matplotlib.ticker import MaxNLocator
from shapely import MultiPoint

from vsr.files import read_jsonl
from vsr.miniature.catalogue import PALETTES, colour_of
from vsr.miniature.render import with_camera
from vsr.progress import duration
from vsr.report.plotting import style
from vsr.scenes.scene import Box, Scene

INK, CAMERA = "#30343c", "#d6336c"


def image(figure: Figure, width: int = 900, dpi: int = 110) -> Image:
    """A figure as a picture: the same bytes in JupyterLab and in executed copies."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return Image(content.getvalue(), width=width)


def room(scene: Scene, frames: np.ndarray, width: float = 12) -> Image:
    """A room's plan beside the frames (T, H, W, 3) of its video, numbered from 1 in reading order."""
    figure = Figure(figsize=(width, width / 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.4))
    draw_plan(left.subplots(), scene)
    rows, gaps = math.ceil(len(frames) / 4), {"wspace": 0.03, "hspace": 0.03}
    for number, axes in enumerate(right.subplots(rows, 4, squeeze=False, gridspec_kw=gaps).flat):
        axes.set_axis_off()
        if number < len(frames):
            axes.imshow(frames[number], interpolation="nearest")
            place = {"transform": axes.transAxes, "va": "top", "fontsize": 8, "color": "white"}
            ground = {"facecolor": INK, "alpha": 0.6, "pad": 1.5, "linewidth": 0}
            axes.text(0.03, 0.95, number + 1, bbox=ground, **place)
    figure.suptitle(f"{scene.id}: {scene.room_size:.1f} m²", x=0.01, ha="left")
    return image(figure)


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
