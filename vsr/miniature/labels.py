"""What every video token should tell: dense labels from the rooms' boxes and what the camera saw of them."""

from dataclasses import dataclass

import numpy as np
import torch

from vsr.miniature.rooms import SLOTS, Rooms

CELL = 28  # pixels a side of one video token
VIEWS = 8
VALUES = ("x", "y", "reach_x", "reach_y", "z", "half_height", "log_longest", "log_range", "cos", "sin")
ENOUGH = 8  # pixels


@dataclass(frozen=True)
class Labels:
    """`home` (N, SLOTS), the token of the video that should know the object, -1 for an empty slot; `kind` (N, SLOTS);
    `values` (N, SLOTS, len(VALUES)), about unit scale; `walls` (N, V, 4), log distance to the east, north, west and
    south wall, nan where the view does not show it; `tokens`, video tokens a room."""

    home: torch.Tensor
    kind: torch.Tensor
    values: torch.Tensor
    walls: torch.Tensor
    tokens: int


def headings() -> np.ndarray:
    """Headings of the views in radians, (V,): from north, turning to the left."""
    return np.pi / 2 + np.arange(VIEWS) * 2 * np.pi / VIEWS


def label(rooms: Rooms) -> Labels:
    """Dense labels of all rooms. An object belongs to one token only, in the view that faces it most squarely, so that
    objects can be counted; if it is hidden there, in the view that shows it best."""
    _, views, height, width, _ = rooms.frames.shape
    columns, rows = width // CELL, height // CELL
    x, y = rooms.box[..., 0], rooms.box[..., 1]
    bearing = np.arctan2(y, x)
    view = np.round((bearing - np.pi / 2) / (2 * np.pi / views)).astype(int) % views
    pixels = rooms.seen[..., 0]
    faced = np.take_along_axis(pixels, view[..., None], 2)[..., 0]
    view = np.where(faced >= ENOUGH, view, pixels.argmax(2))
    column, row = (np.take_along_axis(rooms.seen[..., k], view[..., None], 2)[..., 0] for k in (1, 2))
    column, row = (np.clip(place // CELL, 0, n - 1).astype(int) for place, n in ((column, columns), (row, rows)))
    home = np.where(rooms.kind >= 0, view * rows * columns + row * columns + column, -1)
    return Labels(
        home=torch.from_numpy(home),
        kind=torch.from_numpy(rooms.kind.astype(np.int64)),
        values=torch.from_numpy(_values(rooms.box)),
        walls=torch.from_numpy(_walls(rooms.walls)),
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


def _walls(walls: np.ndarray) -> np.ndarray:
    """Log distances by view, (N, V, 4), nan where the wall is not faced."""
    outward = np.arange(4) * np.pi / 2
    faced = np.cos(headings()[:, None] - outward[None]) > 0.5
    return np.where(faced[None], np.log(walls)[:, None], np.nan).astype(np.float32)


def presence(labels: Labels, categories: int) -> torch.Tensor:
    """How many objects of each category belong to each token, uint8 (N, tokens, categories)."""
    count = len(labels.home)
    out = torch.zeros(count, labels.tokens, categories, dtype=torch.uint8)
    room = torch.arange(count)[:, None].expand(-1, SLOTS)
    real = labels.home >= 0
    out.index_put_(
        (room[real], labels.home[real], labels.kind[real]), torch.ones((), dtype=torch.uint8), accumulate=True
    )
    return out
