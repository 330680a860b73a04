"""What every scene is, whichever door it came through, and scenes as json lines: read back bit for bit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import read_jsonl, write_jsonl

# what a row holds of a scene, its camera and its boxes, in the order of the file
PLAIN, CAMERA = ("id", "dataset", "room_size", "height", "palette", "counts"), ("position", "yaw", "pitch", "fov")
BOX, POINTS = ("label", "shape", "center", "size", "axes"), ("point_center",)


@dataclass(frozen=True, eq=False)
class Box:
    """One labelled object as an oriented box; metres, world z up.

    `center` (3,), `size` (3,) full extents along `axes`, whose ROW i is unit axis i (3, 3), as in VSI-Bench's
    meta_info. `shape` says how the renderer draws it (box, ellipsoid, cylinder, or a kind of the catalogue).
    `point_center` (3,) is the mean of the object's points where a scan gives it (the paper's "geometric centre of
    the point cloud"), else the box centre.
    """

    label: str
    center: np.ndarray
    size: np.ndarray
    axes: np.ndarray
    shape: str = "box"
    point_center: np.ndarray | None = None

    def corners(self) -> np.ndarray:
        """The eight corners, (8, 3)."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
        return self.center + (signs * self.size / 2) @ self.axes

    @property
    def middle(self) -> np.ndarray:
        """The point-cloud centre if known, else the box centre, (3,)."""
        return self.center if self.point_center is None else self.point_center


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera path: T poses and one pinhole. `position` (T, 3); `yaw`, `pitch` (T,) radians, yaw counter-clockwise
    from +x, pitch up positive; `fov` is the horizontal field of view in radians."""

    position: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    fov: float

    def __len__(self) -> int:
        return len(self.yaw)


@dataclass(frozen=True, eq=False)
class Scene:
    """One room. `room_size` is its area in m2 (None if unknown); `counts` is the annotation's number of objects per
    label, which in VSI-Bench's files may name objects that have no box. `floor` is the room polygon (N, 2)."""

    id: str
    dataset: str
    objects: tuple[Box, ...]
    room_size: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    floor: np.ndarray | None = None
    height: float = 2.6
    camera: Camera | None = None
    palette: int = 0

    def labelled(self, label: str) -> list[Box]:
        """The boxes of one label; an absent label is an error that names the scene and what it has."""
        found = [box for box in self.objects if box.label == label]
        if not found:
            have = ", ".join(sorted({box.label for box in self.objects}))
            raise VsrError(f"scene {self.id}: no object labelled '{label}'; it has: {have}")
        return found

    def once(self) -> list[Box]:
        """The objects whose label occurs exactly once, sorted by label (the paper's and VSI-Bench's condition)."""
        boxed = Counter(box.label for box in self.objects)
        unique = [box for box in self.objects if boxed[box.label] == 1 and self.counts.get(box.label, 1) == 1]
        return sorted(unique, key=lambda box: box.label)


def save_scenes(path: str | Path, scenes: Iterable[Scene]) -> None:
    """One json line a scene; atomic."""
    write_jsonl(path, map(to_row, scenes))


def load_scenes(path: str | Path) -> list[Scene]:
    """The scenes of a file of `save_scenes`; a row that is no scene is an error naming file, scene and field."""
    scenes = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            scenes.append(from_row(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"field {error} is missing" if isinstance(error, KeyError) else error
            raise VsrError(
                f"{path}: scene {row.get('id', f'in line {number}')}: {why}; build the folder again"
            ) from None
    return scenes


def to_row(scene: Scene) -> dict:
    """A scene as json values."""
    row = _values(scene, (*PLAIN, "floor"))
    row["camera"] = None if scene.camera is None else _values(scene.camera, CAMERA)
    row["objects"] = [_values(box, BOX if box.point_center is None else BOX + POINTS) for box in scene.objects]
    return row


def _values(record: object, names: tuple[str, ...]) -> dict:
    found = {name: getattr(record, name) for name in names}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def from_row(row: dict) -> Scene:
    """The scene of `to_row`'s values; KeyError, TypeError, ValueError or AttributeError where they are others."""
    camera, boxes = row["camera"], []
    if camera is not None:
        yaw = _array(camera, "yaw", -1)
        poses = _array(camera, "position", len(yaw), 3), yaw, _array(camera, "pitch", len(yaw))
        camera = Camera(*poses, camera["fov"])
    for box in row["objects"]:
        arrays = _array(box, "center", 3), _array(box, "size", 3), _array(box, "axes", 3, 3)
        points = None if box.get("point_center") is None else _array(box, "point_center", 3)
        boxes.append(Box(box["label"], *arrays, box["shape"], points))
    floor = None if row["floor"] is None else _array(row, "floor", -1, 2)
    plain = {name: row[name] for name in PLAIN} | {"counts": dict(row["counts"])}
    return Scene(**plain, objects=tuple(boxes), floor=floor, camera=camera)


def _array(row: dict, name: str, *shape: int) -> np.ndarray:
    """The finite numbers of a field; -1 stands for any length."""
    array = np.array(row[name], dtype=float)
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} = {row[name]} is not finite")
    return array
