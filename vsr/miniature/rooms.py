"""Rooms for pre-training, rendered once, encoded and decoded as every video of the study is, kept as arrays; and what
every video token should tell of them: dense labels from the boxes and what the camera saw of them."""

import contextlib
import io
import math
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.numpy import load_file, save

from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint
from vsr.miniature.procedural import SPLITS, STUDY, make_room
from vsr.miniature.render import render
from vsr.questions.held_out import clear_times
from vsr.scenes.scene import Box, Camera, Scene
from vsr.video import encode_mp4

LABELS = STUDY.categories
SLOTS = 14  # objects a room at most
SHARD = 250
CELL = 28  # pixels a side of one video token
VIEWS = 8
VALUES = ("x", "y", "reach_x", "reach_y", "z", "half_height", "log_longest", "log_range", "cos", "sin")
NAMED = 5  # categories that a question names at most
GEOMETRY = ("log_distance", "cos_turn", "sin_turn", *(f"log_distance_{i}" for i in range(NAMED - 1)))
ENOUGH = 8  # pixels


@dataclass(frozen=True)
class Rooms:
    """N rooms with V headings each; metres and radians, x and y from the camera's spot."""

    frames: np.ndarray  # uint8 (N, V, H, W, 3), one a heading
    kind: np.ndarray  # int8 (N, SLOTS), index into LABELS or -1
    box: np.ndarray  # float32 (N, SLOTS, 7): x, y, z of the centre, width, depth, height, yaw
    # float32 (N, SLOTS, V, 3): pixels that show an object, their mean column and row
    seen: np.ndarray
    walls: np.ndarray  # float32 (N, 4): metres to the east, north, west and south wall
    seed: np.ndarray  # int64 (N,)

    def __len__(self) -> int:
        return len(self.seed)

    def scene(self, index: int) -> Scene:
        """The room as questions see it; the origin is the camera's spot."""
        boxes = []
        for kind, (x, y, z, *size, yaw) in zip(self.kind[index], self.box[index].astype(float), strict=True):
            if kind >= 0:
                label = LABELS[kind]
                axes = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1.0]])
                boxes.append(Box(label, np.array([x, y, z]), np.array(size), axes, shape=label))
        east, north, west, south = self.walls[index].astype(float)
        floor = np.array([[-west, -south], [east, -south], [east, north], [-west, north]])
        return Scene(
            id=f"room-{self.seed[index]:06d}",
            dataset="rooms",
            objects=tuple(boxes),
            room_size=(east + west) * (north + south),
            counts=dict(Counter(box.label for box in boxes)),
            floor=floor,
        )

    def first_seen(self, index: int) -> dict[str, float]:
        """Seconds at which each category first comes clearly into view."""
        slots = self.kind[index] >= 0
        pixels = self.frames.shape[2] * self.frames.shape[3]
        labels = [LABELS[kind] for kind in self.kind[index][slots]]
        return clear_times(labels, self.seen[index, slots, :, 0].T / pixels, STUDY.fps / STUDY.hold)


def make(folder: str | Path, count: int, seed: int) -> list[Path]:
    """Shards of `count` rooms of the pre-training split, made where they are missing; other seeds, other rooms."""
    first = SPLITS["pretrain"] + 50_000 * seed
    identity = fingerprint(asdict(STUDY))
    paths = []
    for start in range(0, count, SHARD):
        size = min(SHARD, count - start)
        paths.append(Path(folder) / f"rooms-{identity}-{first + start}-{size}.safetensors")
        if not paths[-1].is_file():
            rows = []
            for number in range(first + start, first + start + size):
                # a room too small for its furniture is left out: another seed is as good
                with contextlib.suppress(VsrError):
                    rows.append(room_arrays(make_room(number), number))
            atomic_write(paths[-1], save({key: np.stack([row[key] for row in rows]) for key in rows[0]}))
    return paths


def read(paths: list[Path]) -> Rooms:
    """The rooms of some shards together."""
    shards = [load_file(str(path)) for path in paths]
    return Rooms(**{f.name: np.concatenate([shard[f.name] for shard in shards]) for f in fields(Rooms)})


def room_arrays(scene: Scene, seed: int) -> dict[str, np.ndarray]:
    """One room in the layout of `Rooms`, without the first axis; frames are what a reader of its mp4 decodes."""
    camera, hold = scene.camera, STUDY.hold
    once = Camera(camera.position[::hold], camera.yaw[::hold], camera.pitch[::hold], camera.fov)
    seen = render(replace(scene, camera=once), STUDY.width, STUDY.height)
    spot = camera.position[0, :2]
    kind = np.full(SLOTS, -1, np.int8)
    box = np.zeros((SLOTS, 7), np.float32)
    for slot, item in enumerate(scene.objects):
        kind[slot] = LABELS.index(item.label)
        yaw = math.atan2(item.axes[0, 1], item.axes[0, 0])
        box[slot] = [*(item.center[:2] - spot), item.center[2], *item.size, yaw]
    high = scene.floor.max(0) - spot
    low = spot - scene.floor.min(0)
    return {
        "frames": _through_mp4(np.repeat(seen.rgb, hold, axis=0), STUDY.fps)[::hold],
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
        inside = ids[view] >= 0
        index = ids[view][inside]
        pixels = np.bincount(index, minlength=SLOTS)[:SLOTS]
        for k, place in ((1, columns), (2, rows)):
            out[:, view, k] = np.bincount(index, place[inside], SLOTS)[:SLOTS] / np.maximum(pixels, 1)
        out[:, view, 0] = pixels
    return out


@dataclass(frozen=True)
class Labels:
    """What the tokens of N rooms' videos should know."""

    # (N, SLOTS), the token that should know the object, -1 for an empty slot
    home: torch.Tensor
    kind: torch.Tensor  # (N, SLOTS), index into LABELS
    values: torch.Tensor  # (N, SLOTS, len(VALUES)), about unit scale
    # (N, V, 4), log distances east, north, west, south; nan where a view does not show it
    walls: torch.Tensor
    tokens: int  # of a room's video


def facing() -> np.ndarray:
    """Whether a view faces the east, north, west and south wall, (V, 4); views turn to the left from north."""
    headings = np.pi / 2 + np.arange(VIEWS) * 2 * np.pi / VIEWS
    return np.cos(headings[:, None] - np.arange(4) * np.pi / 2) > 0.5


def label(rooms: Rooms) -> Labels:
    """Dense labels of all rooms. An object belongs to one token only, in the view that faces it most squarely, so that
    objects can be counted; if it is hidden there, in the view that shows it best."""
    _, views, height, width, _ = rooms.frames.shape
    columns, rows = width // CELL, height // CELL
    x, y = rooms.box[..., 0], rooms.box[..., 1]
    bearing = np.arctan2(y, x)
    view = np.round((bearing - np.pi / 2) / (2 * np.pi / views)).astype(int) % views
    pixels = rooms.seen[..., 0]
    # squarely faced but hidden there: the view that shows most of it
    faced = np.take_along_axis(pixels, view[..., None], 2)[..., 0]
    view = np.where(faced >= ENOUGH, view, pixels.argmax(2))
    column, row = (np.take_along_axis(rooms.seen[..., k], view[..., None], 2)[..., 0] for k in (1, 2))
    column, row = (np.clip(place // CELL, 0, n - 1).astype(int) for place, n in ((column, columns), (row, rows)))
    home = np.where(rooms.kind >= 0, view * rows * columns + row * columns + column, -1)
    return Labels(
        home=torch.from_numpy(home),
        kind=torch.from_numpy(rooms.kind.astype(np.int64)),
        values=torch.from_numpy(_values(rooms.box)),
        walls=torch.from_numpy(np.where(facing(), np.log(rooms.walls)[:, None], np.nan).astype(np.float32)),
        tokens=views * rows * columns,
    )


def _values(box: np.ndarray) -> np.ndarray:
    """VALUES of every slot, (N, SLOTS, 10) float32; zeros in empty slots."""
    x, y, z, width, depth, height, yaw = np.moveaxis(box.astype(np.float64), -1, 0)
    cos, sin = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
    away = np.hypot(x, y)
    longest = np.maximum(np.maximum(width, depth), height)
    safe = np.where(away > 0, away, 1.0)
    values = np.stack(
        [
            x / 2,
            y / 2,
            (width * cos + depth * sin) / 2,
            (width * sin + depth * cos) / 2,
            z - 0.5,
            height / 2,
            np.log(np.where(longest > 0, longest, 1.0)),
            np.log(safe) - 0.7,
            x / safe,
            y / safe,
        ],
        axis=-1,
    )
    return np.where((longest > 0)[..., None], values, 0.0).astype(np.float32)


def presence(labels: Labels) -> torch.Tensor:
    """How many objects of each category belong to each token, uint8 (N, tokens, categories)."""
    room, slot = (labels.home >= 0).nonzero(as_tuple=True)
    place = (room, labels.home[room, slot], labels.kind[room, slot])
    out = torch.zeros(len(labels.home), labels.tokens, len(LABELS), dtype=torch.uint8)
    return out.index_put_(place, torch.ones((), dtype=torch.uint8), accumulate=True)


def geometry(places: torch.Tensor) -> torch.Tensor:
    """GEOMETRY (Q, 7) of the places (Q, NAMED, 2) that a question names: the distance of the first two; the turn at the
    first from the second to the third, where three or four are named; distances to the fifth. nan where undefined."""
    first = (places[:, 1] - places[:, 0]).norm(dim=-1).log()
    front = places[:, 1] - places[:, 0]
    side = places[:, 2] - places[:, 0]
    scale = front.norm(dim=-1) * side.norm(dim=-1) + 1e-6
    cos = (front * side).sum(-1) / scale
    sin = (front[:, 0] * side[:, 1] - front[:, 1] * side[:, 0]) / scale
    # five names are four choices and a target, which comes last; only fewer ask for a turn
    five = ~places[:, 4, 0].isnan()
    turn = torch.stack([cos, sin], 1).masked_fill(five[:, None], float("nan"))
    others = (places[:, :-1] - places[:, -1:]).norm(dim=-1).clamp(min=1e-3).log()
    return torch.cat([first.masked_fill(five, float("nan"))[:, None], turn, others], 1)
