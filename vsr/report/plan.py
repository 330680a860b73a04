"""A scene on paper: its floor plan, and its frames side by side."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Wedge
from shapely import MultiPoint

from vsr.miniature.catalogue import PALETTES, colour_of
from vsr.miniature.render import Frames, with_camera
from vsr.scenes.scene import Box, Scene

INK = "#30343c"


def draw_plan(ax: Axes, scene: Scene, labels: bool = True) -> None:
    """The room from above, in metres: floor, oriented boxes in their colours, the camera's path and headings."""
    scene = with_camera(scene)
    palette = PALETTES[scene.palette % len(PALETTES)]
    ax.add_patch(Polygon(scene.floor, facecolor=_rgb(palette.floor, 0.45), edgecolor=INK, linewidth=2.5))
    for box in sorted(scene.objects, key=lambda box: box.center[2] + box.size[2] / 2):
        outline = _outline(box)
        ax.add_patch(Polygon(outline, facecolor=_rgb(colour_of(box.label)), edgecolor=INK, linewidth=0.8))
    if labels:
        for box in scene.objects:
            _label(ax, box, scene.floor)
    _camera(ax, scene)
    low, high = scene.floor.min(0), scene.floor.max(0)
    margin = 0.04 * (high - low).max()
    ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal")
    ax.set_axis_off()


def draw_strip(fig: Figure, frames: Frames | np.ndarray, columns: int | None = None) -> None:
    """Frames (T, H, W, 3) in reading order, numbered from 1, `columns` a row (default: all in one)."""
    rgb = frames.rgb if isinstance(frames, Frames) else frames
    columns = columns or len(rgb)
    axes = fig.subplots(
        math.ceil(len(rgb) / columns), columns, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03}
    )
    for number, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if number < len(rgb):
            ax.imshow(rgb[number], interpolation="nearest")
            place = {"transform": ax.transAxes, "va": "top", "fontsize": 8, "color": "white"}
            ax.text(0.03, 0.95, number + 1, bbox={"facecolor": INK, "alpha": 0.6, "pad": 1.5, "linewidth": 0}, **place)


def _rgb(colour: tuple[int, int, int], strength: float = 1.0) -> tuple[float, ...]:
    """0-255 -> 0-1, mixed with white."""
    return tuple(1 - strength * (1 - c / 255) for c in colour)


def _outline(box: Box) -> np.ndarray:
    """The box's shadow on the floor: the hull of its corners, (N, 2)."""
    return np.array(MultiPoint(box.corners()[:, :2]).convex_hull.exterior.coords)[:-1]


def _label(ax: Axes, box: Box, floor: np.ndarray) -> None:
    """The label in the box where it fits, else beside it towards the middle of the room."""
    spot, inward = box.center[:2], floor.mean(0) - box.center[:2]
    low, high = _outline(box).min(0), _outline(box).max(0)
    away = np.zeros(2)
    if (high - low).min() < 0.15 * np.ptp(floor, axis=0).min() or (high - low)[0] < 0.2 * np.ptp(floor[:, 0]):
        along = int(np.argmax(np.abs(inward) / np.ptp(floor, axis=0)))
        away[along] = np.sign(inward[along]) * (high - low)[along] / 2
    halo = {"facecolor": "white", "alpha": 0.7, "pad": 0.8, "linewidth": 0}
    sides = {-1: "right", 0: "center", 1: "left"}
    rows = {-1: "top", 0: "center", 1: "bottom"}
    place = {"ha": sides[int(np.sign(away[0]))], "va": rows[int(np.sign(away[1]))]}
    ax.annotate(
        box.label,
        spot + away,
        4 * np.sign(away),
        textcoords="offset points",
        fontsize=7.5,
        color=INK,
        bbox=halo,
        **place,
    )


def _camera(ax: Axes, scene: Scene) -> None:
    """A dot and a view wedge a pose, fading from dark (first frame) to light."""
    camera = scene.camera
    reach = 0.12 * np.ptp(scene.floor, axis=0).max()
    half = math.degrees(camera.fov) / 4
    ax.plot(*camera.position[:, :2].T, color=INK, linewidth=1, alpha=0.5, zorder=4)
    for t in range(len(camera)):
        fade = t / max(1, len(camera) - 1)
        heading = math.degrees(camera.yaw[t])
        wedge = Wedge(camera.position[t, :2], reach, heading - half, heading + half, color="#d6336c", zorder=5)
        wedge.set_alpha(0.75 - 0.6 * fade)
        ax.add_patch(wedge)
    ax.plot(*camera.position[0, :2], "o", color=INK, markersize=4, zorder=6)
