"""A small ray-caster: Scene -> what its camera sees. Colours, object ids and depth come from the same rays."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numba import njit

from vsr.errors import VsrError
from vsr.scenes.catalogue import CATALOGUE, PALETTES, Part, colour_of
from vsr.scenes.encode import write_mp4
from vsr.scenes.scene import Box, Camera, Scene

NEAR = 0.05  # metres
TEXEL = 0.06  # metres, of the floor's shadow map
SHAPES = {"box": 0, "ellipsoid": 1, "cylinder": 2, "disc": 3}
BACKGROUND = -1


class Frames(NamedTuple):
    """What a camera saw: `rgb` uint8 (T, H, W, 3); `ids` int16 (T, H, W), index into the scene's objects or -1;
    `depth` float32 (T, H, W), metres along the optical axis."""

    rgb: np.ndarray
    ids: np.ndarray
    depth: np.ndarray


class Primitives(NamedTuple):
    """All primitives of a scene as arrays: `shape` (P,), `owner` (P,) object index, `center` (P, 3), `axes` (P, 3, 3)
    rows, `half` (P, 3) half extents, `colour` (P, 3), `glow` (P,)."""

    shape: np.ndarray
    owner: np.ndarray
    center: np.ndarray
    axes: np.ndarray
    half: np.ndarray
    colour: np.ndarray
    glow: np.ndarray


def primitives(scene: Scene) -> Primitives:
    """The scene's objects taken apart; a box that is not finite is an error that names scene and object."""
    rows = []
    for owner, box in enumerate(scene.objects):
        numbers = (box.center, box.size, box.axes)
        if not all(np.isfinite(n).all() for n in numbers) or not (np.asarray(box.size) >= 0).all():
            raise VsrError(
                f"scene {scene.id}: object {owner} '{box.label}' has a box that is not finite or has a negative side "
                f"(centre {box.center}, size {box.size}); remove the object or mend its scene file"
            )
        parts = CATALOGUE[box.shape].parts if box.shape in CATALOGUE else _plain(box, scene, owner)
        half = np.maximum(box.size, 1e-3) / 2
        for part in parts:
            center = box.center + (np.asarray(part.center) * half) @ box.axes
            rows.append((SHAPES[part.shape], owner, center, box.axes, half * part.size, part.colour, part.glow))
    if not rows:
        empty = np.zeros((0, 3))
        return Primitives(*np.zeros((2, 0), np.int64), empty, np.zeros((0, 3, 3)), empty, empty, np.zeros(0))
    shape, owner, *rest = zip(*rows, strict=True)
    return Primitives(np.array(shape), np.array(owner), *(np.ascontiguousarray(r, dtype=np.float64) for r in rest))


def _plain(box: Box, scene: Scene, owner: int) -> tuple[Part]:
    if box.shape not in SHAPES:
        known = ", ".join([*SHAPES, *CATALOGUE])
        raise VsrError(
            f"scene {scene.id}: object {owner} '{box.label}' has shape '{box.shape}'; choose one of: {known}"
        )
    return (Part(box.shape, (0, 0, 0), (1, 1, 1), colour_of(box.label)),)


@njit(cache=True)
def _hit(shape, o, d):
    """Distance along `d` to a primitive of shape `shape` that fills the cube of half side 1, from `o`, both (3,) in its
    own scaled frame; inf where it is missed."""
    if shape == 0:
        enter, leave = -np.inf, np.inf
        for k in range(3):
            if abs(d[k]) < 1e-12:
                if abs(o[k]) > 1:
                    return np.inf
                continue
            a = (-1 - o[k]) / d[k]
            b = (1 - o[k]) / d[k]
            if a > b:
                a, b = b, a
            enter = max(enter, a)
            leave = min(leave, b)
        return np.inf if enter > leave or enter < NEAR else enter
    t = np.inf
    along = 2 if shape == 2 else 1  # a cylinder's axis; unused by the ellipsoid
    a = b = 0.0
    c = -1.0
    for k in range(3):
        if shape == 1 or k != along:
            a += d[k] * d[k]
            b += o[k] * d[k]
            c += o[k] * o[k]
    root = b * b - a * c
    if root >= 0 and a > 1e-12:
        t = (-b - np.sqrt(root)) / a
        if t < NEAR or (shape != 1 and abs(o[along] + t * d[along]) > 1):
            t = np.inf
    if shape != 1 and abs(d[along]) > 1e-12:
        cap = (-np.sign(d[along]) - o[along]) / d[along]
        inside = 0.0
        for k in range(3):
            if k != along:
                inside += (o[k] + cap * d[k]) ** 2
        if NEAR < cap < t and inside <= 1:
            t = cap
    return t


@njit(cache=True)
def _normal(shape, point, axes, half, local, normal):
    """Outward unit normal (3,) in the world at `point` (3,) of a primitive's surface in its scaled frame."""
    widest = 0
    for k in range(3):
        if abs(point[k]) > abs(point[widest]):
            widest = k
    along = 2 if shape == 2 else 1
    capped = shape >= 2 and abs(point[along]) > 1 - 1e-7
    for k in range(3):
        if shape == 0:
            local[k] = np.sign(point[k]) if k == widest else 0.0
        elif shape == 1:
            local[k] = point[k]
        else:
            local[k] = (np.sign(point[k]) if k == along else 0.0) if capped else (0.0 if k == along else point[k])
    length = 0.0
    for k in range(3):
        normal[k] = axes[0, k] * local[0] / half[0] + axes[1, k] * local[1] / half[1] + axes[2, k] * local[2] / half[2]
        length += normal[k] * normal[k]
    for k in range(3):
        normal[k] /= np.sqrt(length)


@njit(cache=True)
def _into(axes, half, vector, out):
    """A world vector (3,) in a primitive's scaled frame, into `out` (3,)."""
    for k in range(3):
        out[k] = (axes[k, 0] * vector[0] + axes[k, 1] * vector[1] + axes[k, 2] * vector[2]) / half[k]


@njit(cache=True)
def _shadows(shape, center, axes, half, low, columns, rows, lamp, spread):
    """How much light of a square lamp (side 2 * spread) reaches each floor texel, (rows, columns) in [0, 1]."""
    light = np.ones((rows, columns))
    offsets = ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0))
    origin, ray, o, d = np.zeros((4, 3))
    for m in range(4):
        ray[2] = lamp[2]
        shade = np.zeros((rows, columns), np.bool_)
        for p in range(len(shape)):
            radius = np.sqrt(half[p, 0] ** 2 + half[p, 1] ** 2 + half[p, 2] ** 2)
            share = max(0.05, 1 - min(center[p, 2] + radius, 0.9 * lamp[2]) / lamp[2])
            x_lamp, y_lamp = lamp[0] + spread * offsets[m][0], lamp[1] + spread * offsets[m][1]
            reach = radius / share
            far_x = x_lamp + (center[p, 0] - x_lamp) / share
            far_y = y_lamp + (center[p, 1] - y_lamp) / share
            left = int((min(center[p, 0] - radius, far_x - reach) - low[0]) / TEXEL)
            right = int((max(center[p, 0] + radius, far_x + reach) - low[0]) / TEXEL) + 1
            down = int((min(center[p, 1] - radius, far_y - reach) - low[1]) / TEXEL)
            up = int((max(center[p, 1] + radius, far_y + reach) - low[1]) / TEXEL) + 1
            for i in range(max(0, down), min(rows, up)):
                for j in range(max(0, left), min(columns, right)):
                    if shade[i, j]:
                        continue
                    origin[0] = low[0] + (j + 0.5) * TEXEL
                    origin[1] = low[1] + (i + 0.5) * TEXEL
                    ray[0] = x_lamp - origin[0]
                    ray[1] = y_lamp - origin[1]
                    _into(axes[p], half[p], ray, d)
                    _into(axes[p], half[p], origin - center[p], o)
                    for k in range(3):
                        o[k] -= 0.06 * d[k]
                    if _hit(shape[p], o, d) < 1.0:
                        shade[i, j] = True
        light -= 0.25 * shade
    return light


@njit(cache=True)
def _room(origin, ray, floor, height):
    """Distance to the room's shell and what is hit: an edge of the polygon, -1 the floor, -2 the ceiling, -9 nothing."""
    t, what = np.inf, -9
    if ray[2] < -1e-9:
        t, what = -origin[2] / ray[2], -1
    elif ray[2] > 1e-9:
        t, what = (height - origin[2]) / ray[2], -2
    for e in range(len(floor)):
        x0, y0 = floor[e]
        x1, y1 = floor[(e + 1) % len(floor)]
        ex, ey = x1 - x0, y1 - y0
        across = ray[0] * ey - ray[1] * ex
        if abs(across) < 1e-12:
            continue
        ax, ay = x0 - origin[0], y0 - origin[1]
        s = (ax * ey - ay * ex) / across
        u = (ax * ray[1] - ay * ray[0]) / across
        if NEAR < s < t and 0 <= u <= 1:
            t, what = s, e
    return t, what


@njit(cache=True)
def _shell_colour(what, point, t, pixel, floor_rgb, grout_rgb, wall_rgb, ceiling_rgb, light, low, height, out):
    """Colour of a point on the room's shell into `out` (3,). `pixel` is a pixel's width at unit distance: the floor's
    joints fade where they are finer than a pixel."""
    if what == -1:
        i = min(max(int((point[1] - low[1]) / TEXEL), 0), light.shape[0] - 1)
        j = min(max(int((point[0] - low[0]) / TEXEL), 0), light.shape[1] - 1)
        lit = 0.62 + 0.38 * light[i, j]
        joint = 0.0
        for x in (point[0] - low[0], point[1] - low[1]):
            if x % 0.5 < 0.03:
                joint = min(1.0, 0.03 / (pixel * t))
        for k in range(3):
            out[k] = lit * (floor_rgb[k] + joint * (grout_rgb[k] - floor_rgb[k]))
    elif what >= 0:
        lit = 0.86 + 0.14 * min(1.0, point[2] / 1.2)
        white = point[2] < 0.1
        for k in range(3):
            out[k] = 0.93 * 245.0 if white else lit * wall_rgb[what, k]
    elif what == -2:
        out[:] = ceiling_rgb
    else:
        out[:] = 232.0


@njit(cache=True)
def _bounds(center, axes, half, origin, forward, right, up, sx, sy, width, height):
    """Pixel bounds (left, right, top, bottom) of a primitive's box; the whole image if it crosses the near plane."""
    left, far_right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
    for corner in range(8):
        z = x = y = 0.0
        for k in range(3):
            v = center[k] - origin[k]
            for a in range(3):
                v += (half[a] if corner >> a & 1 else -half[a]) * axes[a, k]
            z += v * forward[k]
            x += v * right[k]
            y += v * up[k]
        if z < NEAR:
            return 0, width, 0, height
        column = (x / z / sx + 1) / 2 * width
        row = (1 - y / z / sy) / 2 * height
        left, far_right = min(left, column), max(far_right, column)
        top, bottom = min(top, row), max(bottom, row)
    clip = 1e6
    return (
        max(0, int(max(left, -clip) - 0.5)),
        min(width, int(min(far_right, clip) + 1.5)),
        max(0, int(max(top, -clip) - 0.5)),
        min(height, int(min(bottom, clip) + 1.5)),
    )


@njit(cache=True)
def _trace(shape, center, axes, half, origin, forward, right, up, sx, sy, width, height, depth, first, normals):
    """Nearest primitive of every sample: fills `depth`, `first` (primitive or -1) and `normals`, all (height, width)."""
    o, d, ahead_d, right_d, up_d, local = np.empty((6, 3))
    for p in range(len(shape)):
        _into(axes[p], half[p], origin - center[p], o)
        _into(axes[p], half[p], forward, ahead_d)
        _into(axes[p], half[p], right, right_d)
        _into(axes[p], half[p], up, up_d)
        inside = True
        ahead = 0.0
        for k in range(3):
            inside = inside and abs(o[k]) < 1 + NEAR / half[p, k]
            ahead += (center[p, k] - origin[k]) * forward[k]
        reach = np.sqrt(half[p, 0] ** 2 + half[p, 1] ** 2 + half[p, 2] ** 2)
        if inside or ahead < -reach:
            continue
        x0, x1, y0, y1 = _bounds(center[p], axes[p], half[p], origin, forward, right, up, sx, sy, width, height)
        for i in range(y0, y1):
            y = (1 - 2 * (i + 0.5) / height) * sy
            for j in range(x0, x1):
                x = (2 * (j + 0.5) / width - 1) * sx
                for k in range(3):
                    d[k] = ahead_d[k] + x * right_d[k] + y * up_d[k]
                t = _hit(shape[p], o, d)
                if t < depth[i, j]:
                    depth[i, j] = t
                    first[i, j] = p
                    for k in range(3):
                        local[k] = o[k] + t * d[k]
                    _normal(shape[p], local, axes[p], half[p], d, normals[i, j])


@njit(cache=True)
def _shade(
    samples, origin, forward, right, up, sx, sy, depth, first, normals, colour, glow, floor, room_height,
    floor_rgb, grout_rgb, wall_rgb, ceiling_rgb, light, low, rgb, id_of, ids, metres,
):  # fmt: skip
    """Colour every sample, average `samples` x `samples` of them into `rgb`; ids and depth of the nearest sample."""
    height, width = depth.shape
    ray = np.empty(3)
    point = np.empty(3)
    out = np.empty(3)
    total = np.zeros((height // samples, width // samples, 3))
    metres[:] = np.inf
    for i in range(height):
        for j in range(width):
            x = (2 * (j + 0.5) / width - 1) * sx
            y = (1 - 2 * (i + 0.5) / height) * sy
            for k in range(3):
                ray[k] = forward[k] + x * right[k] + y * up[k]
            t, what = _room(origin, ray, floor, room_height)
            row, column, p = i // samples, j // samples, first[i, j]
            if p >= 0 and depth[i, j] < t + 0.02:
                t = depth[i, j]
                n = normals[i, j]
                lit = 0.66 + 0.26 * n[2] + 0.10 * n[0] - 0.05 * n[1]
                lit = glow[p] + (1 - glow[p]) * lit
                for k in range(3):
                    out[k] = lit * colour[p, k]
            else:
                p = -1
                for k in range(3):
                    point[k] = origin[k] + t * ray[k]
                _shell_colour(
                    what, point, t, 2 * sx / width * samples, floor_rgb, grout_rgb, wall_rgb, ceiling_rgb, light, low,
                    room_height, out,
                )  # fmt: skip
            total[row, column] += out
            if t < metres[row, column]:
                metres[row, column] = t
                ids[row, column] = id_of[p] if p >= 0 else BACKGROUND
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            for k in range(3):
                rgb[i, j, k] = min(255.0, max(0.0, total[i, j, k] / samples**2 + 0.5))


def basis(yaw: float, pitch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (forward, right, up) of a camera, each (3,)."""
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    return forward, right, np.cross(right, forward)


def project(camera: Camera, frame: int, points: np.ndarray, width: int, height: int) -> np.ndarray:
    """World points (N, 3) -> (N, 3): column and row in pixels (a pixel's centre is at +0.5), depth in metres."""
    forward, right, up = basis(camera.yaw[frame], camera.pitch[frame])
    v = np.asarray(points, float) - camera.position[frame]
    sx = np.tan(camera.fov / 2)
    z = v @ forward
    column = (v @ right / z / sx + 1) / 2 * width
    row = (1 - v @ up / z / (sx * height / width)) / 2 * height
    return np.stack([column, row, z], axis=1)


def _walls(floor: np.ndarray, colours: tuple) -> np.ndarray:
    """One colour an edge by where its wall stands, seen from the middle of the room: east, north, west or south."""
    middles = (floor + np.roll(floor, -1, axis=0)) / 2
    edges = np.roll(floor, -1, axis=0) - floor
    outward = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    outward *= np.sign(((middles - floor.mean(0)) * outward).sum(1, keepdims=True))
    quarter = np.round(np.arctan2(outward[:, 1], outward[:, 0]) / (np.pi / 2)).astype(int) % 4
    return np.array(colours, float)[quarter]


def render(scene: Scene, width: int, height: int, samples: int = 2) -> Frames:
    """All frames of the scene's camera; `samples` x `samples` rays a pixel. Without a camera: `with_camera`."""
    if scene.camera is None:
        scene = with_camera(scene)
    camera, floor = (
        scene.camera,
        np.ascontiguousarray(scene.floor if scene.floor is not None else np.zeros((0, 2)), float),
    )
    parts = primitives(scene)
    palette = PALETTES[scene.palette % len(PALETTES)]
    corners = np.concatenate([floor, parts.center[:, :2], camera.position[:, :2]])
    low, high = corners.min(0), corners.max(0)
    columns, rows = np.maximum(1, np.ceil((high - low) / TEXEL)).astype(int)
    lamp = np.array([*(low + high) / 2, scene.height - 0.05])
    solid = (parts.shape, parts.center, parts.axes, parts.half)
    light = _shadows(*solid, low, columns, rows, lamp, 0.35)
    room = (floor, scene.height, np.array(palette.floor, float), np.array(palette.grout, float))
    room += (_walls(floor, palette.walls), np.array(palette.ceiling, float), light, low)

    sx = np.tan(camera.fov / 2)
    sy = sx * height / width
    count, fine = len(camera), (height * samples, width * samples)
    frames = Frames(
        np.empty((count, height, width, 3), np.uint8),
        np.empty((count, height, width), np.int16),
        np.empty((count, height, width), np.float32),
    )
    first, normals = np.empty(fine, np.int64), np.empty((*fine, 3))
    for t in range(count):
        depth = np.full(fine, np.inf)
        first[:] = -1
        view = (camera.position[t], *basis(camera.yaw[t], camera.pitch[t]), sx, sy)
        _trace(*solid, *view, fine[1], fine[0], depth, first, normals)
        _shade(
            samples, *view, depth, first, normals, parts.colour, parts.glow, *room,
            frames.rgb[t], parts.owner, frames.ids[t], frames.depth[t],
        )  # fmt: skip
    return frames


def with_camera(scene: Scene, frames: int = 8, fov: float = np.radians(75)) -> Scene:
    """A scan's scene with what it lacks to be rendered: a room around its boxes, catalogue shapes, and a camera that
    walks round the middle of the room looking across it."""
    boxes = tuple(_furnished(box) for box in scene.objects)
    floor = scene.floor
    if floor is None:
        if not boxes:
            raise VsrError(f"scene {scene.id}: it has neither objects nor a floor; there is nothing to render")
        primitives(scene)  # names a broken box
        around = shapely.MultiPoint(np.concatenate([box.corners()[:, :2] for box in boxes])).minimum_rotated_rectangle
        floor = np.array(around.buffer(0.15, join_style="mitre").exterior.coords)[:-1]
    turn = np.arange(frames) / frames * 2 * np.pi
    middle = floor.mean(0)
    inset = middle + 0.62 * (floor - middle)
    ring = shapely.LinearRing(inset)
    along = [ring.interpolate(t / (2 * np.pi), normalized=True) for t in turn]
    position = np.array([[p.x, p.y, 1.6] for p in along])
    across = middle - position[:, :2]
    camera = Camera(position, np.arctan2(across[:, 1], across[:, 0]), np.full(frames, -0.3), float(fov))
    low = min((box.corners()[:, 2].min() for box in boxes), default=0.0)
    return dataclasses.replace(_raised(dataclasses.replace(scene, objects=boxes), -low), floor=floor, camera=camera)


def _raised(scene: Scene, by: float) -> Scene:
    boxes = tuple(dataclasses.replace(box, center=box.center + np.array([0, 0, by])) for box in scene.objects)
    return dataclasses.replace(scene, objects=boxes)


def _furnished(box: Box) -> Box:
    """A scan's box drawn as its kind: axes put in the order width, depth, up."""
    if box.label not in CATALOGUE or box.shape != "box":
        return box
    up = int(np.argmax(np.abs(box.axes[:, 2])))
    flat = [k for k in range(3) if k != up]
    wide = max(flat, key=lambda k: box.size[k])
    deep = min(flat, key=lambda k: (box.size[k], k != wide))
    if CATALOGUE[box.label].extents[0] < CATALOGUE[box.label].extents[1]:
        wide, deep = deep, wide
    order = [wide, deep, up]
    axes = box.axes[order].copy()
    axes[2] *= np.sign(axes[2, 2]) or 1.0
    return dataclasses.replace(box, size=np.asarray(box.size)[order], axes=axes, shape=box.label)


def render_mp4(scene: Scene, path: str | Path, width: int, height: int, fps: int) -> Frames:
    """Render and encode; returns the frames as they were before encoding."""
    frames = render(scene, width, height)
    write_mp4(path, frames.rgb, fps)
    return frames
