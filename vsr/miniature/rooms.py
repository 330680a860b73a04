"""Rooms for pre-training: rendered once, encoded and decoded as every video of the study is, kept as arrays."""

import io
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import av
import numpy as np
from safetensors.numpy import load_file, save

from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint
from vsr.miniature.procedural import PRETRAIN, SPLITS, World, make_room
from vsr.miniature.render import render
from vsr.questions.held_out import clear_times
from vsr.scenes.scene import Box, Camera, Scene
from vsr.video import encode_mp4

SLOTS = 14  # objects a room at most
SHARD = 250


@dataclass(frozen=True)
class Rooms:
    """N rooms with V headings each.

    `frames` uint8 (N, V, H, W, 3), one a heading; `kind` int8 (N, SLOTS), index into the world's categories or -1;
    `box` float32 (N, SLOTS, 7): x, y, z of the centre, width, depth, height, yaw, metres and radians, x and y from the
    camera's spot; `seen` float32 (N, SLOTS, V, 3): pixels that show the object in a frame, their mean column and row;
    `walls` float32 (N, 4): distance from the camera to the east, north, west and south wall; `seed` int64 (N,).
    """

    frames: np.ndarray
    kind: np.ndarray
    box: np.ndarray
    seen: np.ndarray
    walls: np.ndarray
    seed: np.ndarray

    def __len__(self) -> int:
        return len(self.seed)

    def scene(self, index: int, world: World) -> Scene:
        """The room as questions see it; the origin is the camera's spot."""
        boxes = []
        for kind, (x, y, z, *size, yaw) in zip(self.kind[index], self.box[index].astype(float), strict=True):
            if kind >= 0:
                label = world.categories[kind]
                axes = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1.0]])
                boxes.append(Box(label, np.array([x, y, z]), np.array(size), axes, shape=label))
        east, north, west, south = self.walls[index].astype(float)
        floor = np.array([[-west, -south], [east, -south], [east, north], [-west, north]])
        counts: dict[str, int] = {}
        for box in boxes:
            counts[box.label] = counts.get(box.label, 0) + 1
        return Scene(
            id=f"room-{self.seed[index]:06d}",
            dataset="rooms",
            objects=tuple(boxes),
            room_size=(east + west) * (north + south),
            counts=counts,
            floor=floor,
        )

    def first_seen(self, index: int, world: World) -> dict[str, float]:
        """Seconds at which each category first comes clearly into view."""
        slots = self.kind[index] >= 0
        pixels = self.frames.shape[2] * self.frames.shape[3]
        labels = [world.categories[kind] for kind in self.kind[index][slots]]
        return clear_times(labels, self.seen[index, slots, :, 0].T / pixels, world.fps / world.hold)


def make(folder: str | Path, count: int, seed: int, world: World = PRETRAIN, workers: int = 1) -> list[Path]:
    """Shards of `count` rooms of the pre-training split, made where they are missing; other seeds, other rooms."""
    folder = Path(folder)
    starts = range(0, count, SHARD)
    first = SPLITS["pretrain"] + 50_000 * seed
    print_ = fingerprint({name.name: getattr(world, name.name) for name in fields(World)})
    paths = [folder / f"rooms-{print_}-{first + start}-{min(SHARD, count - start)}.safetensors" for start in starts]
    todo = [(path, first + s, min(SHARD, count - s), world) for path, s in zip(paths, starts, strict=True)]
    todo = [job for job in todo if not job[0].is_file()]
    if workers == 1 or len(todo) < 2:
        for job in todo:
            _make_shard(*job)
    else:
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(_make_shard, *zip(*todo, strict=True)))
    return paths


def read(paths: list[Path]) -> Rooms:
    """The rooms of some shards together."""
    if not paths:
        raise VsrError("no rooms to read: ask for at least one")
    shards = [load_file(str(path)) for path in paths]
    return Rooms(**{f.name: np.concatenate([shard[f.name] for shard in shards]) for f in fields(Rooms)})


def _make_shard(path: Path, first: int, count: int, world: World) -> None:
    rows = []
    for seed in range(first, first + count):
        try:
            rows.append(room_arrays(make_room(seed, world), seed, world))
        except VsrError:  # a room too small for its furniture; another seed is as good
            continue
    atomic_write(path, save({key: np.stack([row[key] for row in rows]) for key in rows[0]}))


def room_arrays(scene: Scene, seed: int, world: World) -> dict[str, np.ndarray]:
    """One room in the layout of `Rooms`, without the first axis; frames are what a reader of its mp4 decodes."""
    camera, hold = scene.camera, world.hold
    once = Camera(camera.position[::hold], camera.yaw[::hold], camera.pitch[::hold], camera.fov)
    seen = render(replace(scene, camera=once), world.width, world.height)
    spot = camera.position[0, :2]
    kind = np.full(SLOTS, -1, np.int8)
    box = np.zeros((SLOTS, 7), np.float32)
    for slot, item in enumerate(scene.objects):
        kind[slot] = world.categories.index(item.label)
        yaw = math.atan2(item.axes[0, 1], item.axes[0, 0])
        box[slot] = [*(item.center[:2] - spot), item.center[2], *item.size, yaw]
    high, low = scene.floor.max(0) - spot, spot - scene.floor.min(0)
    return {
        "frames": _through_mp4(np.repeat(seen.rgb, hold, axis=0), world.fps)[::hold],
        "kind": kind,
        "box": box,
        "seen": _where(seen.ids),
        "walls": np.array([high[0], high[1], low[0], low[1]], np.float32),
        "seed": np.array(seed),
    }


def _through_mp4(rgb: np.ndarray, fps: int) -> np.ndarray:
    with av.open(io.BytesIO(encode_mp4(rgb, fps))) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _where(ids: np.ndarray) -> np.ndarray:
    """Pixels of every object and their mean column and row, (SLOTS, V, 3); zeros where it is not seen."""
    views, height, width = ids.shape
    out = np.zeros((SLOTS, views, 3), np.float32)
    rows, columns = np.mgrid[:height, :width] + 0.5
    for view in range(views):
        index = ids[view][ids[view] >= 0]
        inside = ids[view] >= 0
        pixels = np.bincount(index, minlength=SLOTS)[:SLOTS]
        for k, place in ((1, columns), (2, rows)):
            out[:, view, k] = np.bincount(index, place[inside], SLOTS)[:SLOTS] / np.maximum(pixels, 1)
        out[:, view, 0] = pixels
    return out
