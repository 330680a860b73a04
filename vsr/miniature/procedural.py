"""Rooms made to measure: furniture of real sizes, no overlaps, everything in sight of a turning camera."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import shapely

from vsr.errors import VsrError, unknown
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.render import visible
from vsr.scenes.scene import Box, Camera, Scene

SPLITS = {"train": 0, "bench": 1_000_000, "probe": 2_000_000, "pretrain": 3_000_000, "fresh": 4_000_000}
SPLIT_SIZE = 1_000_000
CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # of a rectangle, counter-clockwise


@dataclass(frozen=True)
class World:
    """The distribution that rooms are drawn from; the defaults are the study's. Metres and degrees."""

    categories: tuple[str, ...] = tuple(CATALOGUE)
    unique: tuple[int, int] = (6, 6)  # categories that occur once: least, most
    # of 2, 3, ... copies of one more category: constants score lowest on these (0.42; were they uniform, 0.50)
    copies: tuple[float, ...] = (0.32, 0.21, 0.13, 0.34)
    # quantiles 0, 1/4, 1/2, 3/4, 1 of the room area (inner three: VSI-Bench's), log-linear between
    areas: tuple[float, float, float, float, float] = (9.5, 11.2, 17.5, 26.9, 60.0)
    aspect: float = 1.6  # longer over shorter side, at most
    heights: tuple[float, float] = (2.4, 3.0)
    # least, median, largest ratio of an object to its kind's median: the category alone must not tell the size
    scales: tuple[float, float, float] = (0.6, 1.0, 1.5)
    separation: float = 16.0  # between the objects' bearings from the camera
    clearance: float = 0.8  # from the camera
    gap: float = 0.08  # from each other
    fill: float = 0.3  # of the floor, covered by real footprints at most
    min_pixels: int = 14  # of each object, in some frame
    palettes: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    camera_height: float = 1.45
    frames: int = 16
    hold: int = 2  # frames at one pose: Qwen2-VL reads them in pairs
    fov: float = 46.0  # of headings 45 degrees apart: frames share next to nothing, so things can be counted
    pitch: float = -18.0
    width: int = 56
    height: int = 84
    fps: int = 2


STUDY = World()


def seeds(split: str, count: int) -> range:
    """The first `count` seeds of a split; splits never share a seed, so they never share a room."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not 0 <= count <= SPLIT_SIZE:
        raise VsrError(f"split '{split}': {count} rooms asked; it has {SPLIT_SIZE}")
    return range(SPLITS[split], SPLITS[split] + count)


def make_room(seed: int, world: World = STUDY) -> Scene:
    """The room of one seed: the same on every call. Room, number of copies and scales are drawn first and kept while
    furniture is tried, so that what is hard to place does not change their distribution."""
    rng = np.random.default_rng([seed, 20250401])
    area = _quantile(rng.random(), world.areas)
    aspect = world.aspect ** rng.uniform(-1, 1)
    floor = CORNERS * [math.sqrt(area * aspect) / 2, math.sqrt(area / aspect) / 2]
    scene = Scene(
        id=f"room-{seed:06d}",
        dataset="rooms",
        objects=(),
        room_size=area,
        floor=floor,
        height=rng.uniform(*world.heights),
        camera=_camera(floor, world, rng),
        palette=int(rng.choice(world.palettes)),
    )
    unique = int(rng.integers(world.unique[0], world.unique[1], endpoint=True))
    copies = 2 + int(rng.choice(len(world.copies), p=world.copies))
    scales = [_quantile(u, world.scales) for u in rng.random(unique + copies)]
    for attempt in range(3000):
        if attempt % 100 == 99:
            scales = [_quantile(u, world.scales) for u in rng.random(unique + copies)]
        kinds = _kinds(world, area, unique, copies, rng)
        boxes = _furnish(scene, world, kinds, scales, rng) if kinds else None
        if boxes:
            full = replace(scene, objects=boxes, counts=dict(Counter(box.label for box in boxes)))
            if visible(full, world.width, world.height).max(0).min() >= world.min_pixels:
                return full
    raise VsrError(
        f"room {seed}: no furnishing found in a room of {area:.1f} m2; lower 'unique', 'separation' or 'fill'"
    )


def _quantile(u: float, quantiles: tuple[float, ...]) -> float:
    """The value at quantile `u` of a distribution given by its evenly spaced quantiles, log-linear between them."""
    return float(np.exp(np.interp(u, np.linspace(0, 1, len(quantiles)), np.log(quantiles))))


def _camera(floor: np.ndarray, world: World, rng: np.random.Generator) -> Camera:
    """A camera that turns to the left on the spot, near the middle of the room, from heading north (+y)."""
    # a whole turn, `hold` frames at each heading
    turn = np.arange(world.frames) // world.hold * (2 * math.pi * world.hold / world.frames)
    spot = rng.uniform(-0.12, 0.12, 2) * floor.max(0)
    position = np.tile([*spot, world.camera_height], (world.frames, 1))
    pitch = np.full(world.frames, math.radians(world.pitch))
    return Camera(position, math.pi / 2 + turn, pitch, math.radians(world.fov))


def _kinds(world: World, area: float, unique: int, copies: int, rng: np.random.Generator) -> list[str] | None:
    """Labels to place, repeated kind last; None if their median footprints would fill too much of the floor."""
    names = [world.categories[i] for i in rng.permutation(len(world.categories))[: unique + 1]]
    kinds = names[:-1] + names[-1:] * copies
    footprint = sum(CATALOGUE[k].extents[0] * CATALOGUE[k].extents[1] for k in kinds)
    return kinds if footprint <= world.fill * area else None


def _furnish(scene: Scene, world: World, kinds: list[str], scales: list[float], rng) -> tuple[Box, ...] | None:
    """All boxes without overlaps, large ones placed first, or None. Order of the result: as in `kinds`."""
    sizes = [
        np.array(CATALOGUE[k].extents) * s * rng.uniform(0.92, 1.08, 3) for k, s in zip(kinds, scales, strict=True)
    ]
    for size in sizes:
        size[2] = min(size[2], scene.height - 0.1)
    placed: dict[int, Box] = {}
    shapes: list[shapely.Polygon] = []
    bearings: list[float] = []
    eye, half = scene.camera.position[0, :2], scene.floor.max(0)
    spot = shapely.Point(eye)
    for index in sorted(range(len(kinds)), key=lambda i: -sizes[i][0] * sizes[i][1]):
        for _ in range(120):
            box = _try(kinds[index], sizes[index], scene, rng)
            bearing = math.degrees(math.atan2(box.center[1] - eye[1], box.center[0] - eye[0]))
            if any(abs((bearing - b + 180) % 360 - 180) < world.separation for b in bearings):
                continue
            # on the floor, in order, (4, 2): its third axis is up
            corners = box.center[:2] + (CORNERS * box.size[:2] / 2) @ box.axes[:2, :2]
            if (np.abs(corners) > half).any():
                continue
            shape = shapely.Polygon(corners)
            if shape.distance(spot) < world.clearance or any(shape.distance(s) < world.gap for s in shapes):
                continue
            placed[index] = box
            shapes.append(shape)
            bearings.append(bearing)
            break
        else:
            return None
    return tuple(placed[i] for i in range(len(kinds)))


def _try(label: str, size: np.ndarray, scene: Scene, rng: np.random.Generator) -> Box:
    """One random pose: with the back to a wall, or anywhere on the floor."""
    half = scene.floor.max(0)
    lift = 0.0
    if CATALOGUE[label].place == "free":
        yaw = rng.uniform(-math.pi, math.pi)
        center = rng.uniform(-half, half)
    else:
        wall = int(rng.integers(4))  # east, north, west, south
        # the depth axis (yaw + 90 degrees) points into the room
        yaw = wall * math.pi / 2 + math.pi / 2
        inward = -np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][wall])
        along = np.abs(inward[::-1]) * rng.uniform(-half, half)
        center = along - inward * (half @ np.abs(inward) - size[1] / 2 - rng.uniform(0.01, 0.06))
        if CATALOGUE[label].place == "hung":
            lift = min(rng.uniform(0.6, 1.0), scene.height - 0.05 - size[2])
    cos, sin = math.cos(yaw), math.sin(yaw)
    axes = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return Box(label, np.array([*center, lift + size[2] / 2]), size, axes, shape=label)
