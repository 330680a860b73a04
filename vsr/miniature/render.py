"""Scene -> what its camera sees: colours, object ids and depth from the same rays."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from vsr.errors import VsrError
from vsr.miniature import raycast
from vsr.miniature.catalogue import CATALOGUE, PALETTES, Part, colour_of
from vsr.scenes.scene import Box, Camera, Scene
from vsr.video import write_mp4

SHAPES = {"box": raycast.BOX, "ellipsoid": raycast.ELLIPSOID, "cylinder": raycast.CYLINDER, "disc": raycast.CYLINDER}
# a scan is seen from over its furniture: metres, radians, how many times, radians
EYE_LEVEL, LOOK_DOWN, FRAMES, FIELD = 2.1, -0.45, 8, 1.4
SKIRTING, NOTHING = (230, 230, 228), (232, 232, 232)  # colours
THINNEST = 1e-3  # metres: a flat box still needs an inside


class Frames(NamedTuple):
    """What a camera saw in T frames."""

    rgb: np.ndarray  # uint8 (T, H, W, 3)
    ids: np.ndarray  # int16 (T, H, W), index into the scene's objects, -1 for the room itself
    # float32 (T, H, W), metres along the optical axis, inf where there is nothing
    depth: np.ndarray


class Primitives(NamedTuple):
    """A scene's P primitives."""

    shape: np.ndarray  # (P,)
    owner: np.ndarray  # (P,), object index
    inverse: np.ndarray  # (P, 3, 3), from world offsets to the primitive's own frame
    center: np.ndarray  # (P, 3)
    axes: np.ndarray  # (P, 3, 3), rows
    half: np.ndarray  # (P, 3), half extents along the axes
    colour: np.ndarray  # (P, 3)
    glow: np.ndarray  # (P,)


def render(scene: Scene, width: int, height: int, samples: int = 2) -> Frames:
    """All frames of the scene's camera, `samples` x `samples` rays a pixel. A scene without camera or floor gets them
    from `with_camera`. A box that is not finite is an error that names scene and object."""
    scene = with_camera(scene)
    camera = scene.camera
    parts = primitives(scene)
    palette = PALETTES[scene.palette % len(PALETTES)]
    solid, lit = parts[:1] + parts[2:4], parts[6:]
    floor = np.ascontiguousarray(scene.floor, float)
    low, high = floor.min(0), floor.max(0)
    columns, rows = np.maximum(2, np.ceil((high - low) / raycast.TEXEL)).astype(int)
    lamp = np.array([*(low + high) / 2, scene.height - 0.05])
    light = raycast.shadows(*solid, parts.half, low, columns, rows, lamp, 0.35)
    shell = [palette.floor, palette.grout, palette.ceiling, SKIRTING, NOTHING]
    colours = np.vstack([*shell, _walls(floor, palette.walls)]).astype(float)

    count, fine = len(camera), (height * samples, width * samples)
    rgb = np.empty((count, height, width, 3), np.uint8)
    ids = np.empty((count, height, width), np.int16)
    metres = np.empty((count, height, width), np.float32)
    out = np.empty((*fine, 3))
    for t in range(count):
        if t and _same_pose(camera, t - 1, t):
            rgb[t] = rgb[t - 1]
            ids[t] = ids[t - 1]
            metres[t] = metres[t - 1]
            continue
        view, tan, depth, first = _trace(camera, t, parts, fine)
        raycast.shade(*solid, *lit, view, tan, depth, first, floor, scene.height, colours, light, low, out)
        raycast.gather(out, depth, first, parts.owner, samples, rgb[t], ids[t], metres[t])
    return Frames(rgb, ids, metres)


def visible(scene: Scene, width: int, height: int) -> np.ndarray:
    """Pixels that show each object in each frame, (T, objects): one ray a pixel, walls left out."""
    parts, count = primitives(scene), len(scene.objects)
    owner = np.append(parts.owner, count)  # index -1, nothing hit, counts for nobody
    seen = []
    for t in range(len(scene.camera)):
        if t and _same_pose(scene.camera, t - 1, t):
            seen.append(seen[-1])
            continue
        *_, first = _trace(scene.camera, t, parts, (height, width))
        seen.append(np.bincount(owner[first.ravel()], minlength=count + 1)[:count])
    return np.array(seen)


def _same_pose(camera: Camera, a: int, b: int) -> bool:
    return (
        camera.yaw[a] == camera.yaw[b]
        and camera.pitch[a] == camera.pitch[b]
        and np.array_equal(*camera.position[[a, b]])
    )


def _trace(camera: Camera, frame: int, parts: Primitives, shape: tuple[int, int]) -> tuple:
    view = np.stack([camera.position[frame], *basis(camera.yaw[frame], camera.pitch[frame])])
    tan = np.tan(camera.fov / 2) * np.array([1, shape[0] / shape[1]])
    depth, first = np.full(shape, np.inf), np.full(shape, -1)
    raycast.trace(*parts[:1], *parts[2:6], view, tan, depth, first)
    return view, tan, depth, first


def basis(yaw: float, pitch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (forward, right, up) of a camera, each (3,)."""
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    up = np.array([-np.sin(pitch) * np.cos(yaw), -np.sin(pitch) * np.sin(yaw), np.cos(pitch)])
    return forward, right, up


def primitives(scene: Scene) -> Primitives:
    """The scene's objects taken apart into what the ray-caster draws."""
    rows = []
    for owner, box in enumerate(scene.objects):
        _check(scene, owner, box)
        plain = (Part(box.shape, (0, 0, 0), (1, 1, 1), colour_of(box.label)),)
        half = np.maximum(box.size, THINNEST) / 2
        for part in CATALOGUE[box.shape].parts if box.shape in CATALOGUE else plain:
            # a cylinder's axis is its third
            order = [0, 2, 1] if part.shape == "disc" else [0, 1, 2]
            axes = box.axes[order]
            radii = (half * part.size)[order]
            center = box.center + (half * part.center) @ box.axes
            rows.append((SHAPES[part.shape], owner, axes / radii[:, None], center, axes, radii, part.colour, part.glow))
    if not rows:
        vectors, matrices = np.zeros((0, 3)), np.zeros((0, 3, 3))
        return Primitives(*np.zeros((2, 0), int), matrices, vectors, matrices, vectors, vectors, np.zeros(0))
    shape, owner, *rest = zip(*rows, strict=True)
    return Primitives(np.array(shape), np.array(owner), *(np.array(r, dtype=float) for r in rest))


def _check(scene: Scene, owner: int, box: Box) -> None:
    where = f"scene {scene.id}: object {owner} '{box.label}'"
    if not all(np.isfinite(n).all() for n in (box.center, box.size, box.axes)) or min(box.size) < 0:
        raise VsrError(
            f"{where} has a box that is not finite or has a negative side (centre {box.center}, size {box.size}); "
            "remove the object or mend its scene file"
        )
    if box.shape not in SHAPES and box.shape not in CATALOGUE:
        raise VsrError(f"{where} has the shape '{box.shape}'; choose one of: {', '.join([*SHAPES, *CATALOGUE])}")


def _walls(floor: np.ndarray, colours: tuple) -> np.ndarray:
    """One colour (N, 3) an edge by where its wall faces, seen from inside: east, north, west or south."""
    edge = np.roll(floor, -1, axis=0) - floor
    clockwise = np.sum(floor[:, 0] * edge[:, 1] - floor[:, 1] * edge[:, 0]) < 0
    outward = np.stack([edge[:, 1], -edge[:, 0]], axis=1) * (-1 if clockwise else 1)
    quarter = np.round(np.arctan2(outward[:, 1], outward[:, 0]) / (np.pi / 2)).astype(int) % 4
    return np.array(colours)[quarter]


def with_camera(scene: Scene) -> Scene:
    """The scene with what it lacks to be rendered. A scan gets the shapes of the catalogue, a rectangular room around
    its boxes with the floor at z = 0, and a camera that walks round the middle of the room, looking across it."""
    if scene.floor is None:
        scene = _enclosed(scene)
    if scene.camera is None:
        ring = shapely.LinearRing(scene.floor.mean(0) + 0.8 * (scene.floor - scene.floor.mean(0)))
        steps = [ring.interpolate(t / FRAMES, normalized=True) for t in range(FRAMES)]
        position = np.array([[step.x, step.y, EYE_LEVEL] for step in steps])
        across = scene.floor.mean(0) - position[:, :2]
        camera = Camera(position, np.arctan2(across[:, 1], across[:, 0]), np.full(FRAMES, LOOK_DOWN), FIELD)
        scene = dataclasses.replace(scene, camera=camera)
    return scene


def _enclosed(scene: Scene) -> Scene:
    if not scene.objects:
        raise VsrError(f"scene {scene.id}: it has neither objects nor a floor; there is nothing to render")
    for owner, box in enumerate(scene.objects):
        _check(scene, owner, box)
    corners = np.concatenate([box.corners() for box in scene.objects])
    around = shapely.MultiPoint(corners[:, :2]).minimum_rotated_rectangle.buffer(0.15, join_style="mitre")
    rise = np.array([0, 0, -corners[:, 2].min()])
    boxes = tuple(dataclasses.replace(_furnished(box), center=box.center + rise) for box in scene.objects)
    height = max(scene.height, float(np.ptp(corners[:, 2])) + 0.1)
    return dataclasses.replace(scene, objects=boxes, floor=np.array(around.exterior.coords)[:-1], height=height)


def _furnished(box: Box) -> Box:
    """A scan's box drawn as its kind: its axes put in the catalogue's order width, depth, up."""
    if box.label not in CATALOGUE or box.shape != "box":
        return box
    up = int(np.argmax(np.abs(box.axes[:, 2])))
    short, long = sorted({0, 1, 2} - {up}, key=lambda k: box.size[k])
    width, depth, _ = CATALOGUE[box.label].extents
    order = [long, short, up] if width >= depth else [short, long, up]
    axes = box.axes[order] * [[1], [1], [np.sign(box.axes[up, 2])]]
    return dataclasses.replace(box, size=box.size[order], axes=axes, shape=box.label)


def render_mp4(scene: Scene, path: str | Path, width: int, height: int, fps: int) -> Frames:
    """Render and encode; returns the frames as they were before encoding."""
    frames = render(scene, width, height)
    write_mp4(path, frames.rgb, fps)
    return frames
