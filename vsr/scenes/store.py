"""Scenes as json lines, exact: what is read back is what was written, bit for bit."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import atomic_write, read_jsonl
from vsr.scenes.scene import Box, Camera, Scene


def save(path: str | Path, scenes: Iterable[Scene]) -> None:
    """One json line a scene; atomic."""
    atomic_write(path, "".join(json.dumps(to_row(scene), ensure_ascii=False) + "\n" for scene in scenes))


def load(path: str | Path) -> list[Scene]:
    """The scenes of a file that `save` wrote; a row that is no scene is an error naming file, scene and field."""
    scenes = []
    for number, row in enumerate(read_jsonl(path), 1):
        name = row.get("id", f"in line {number}") if isinstance(row, dict) else f"in line {number}"
        try:
            scenes.append(from_row(row))
        except KeyError as error:
            raise VsrError(f"{path}: scene {name}: field {error} is missing; build the folder again") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise VsrError(f"{path}: scene {name}: {error}; build the folder again") from None
    return scenes


def to_row(scene: Scene) -> dict:
    """A scene as json values."""
    return {
        "id": scene.id,
        "dataset": scene.dataset,
        "room_size": scene.room_size,
        "height": scene.height,
        "palette": scene.palette,
        "counts": scene.counts,
        "floor": None if scene.floor is None else scene.floor.tolist(),
        "camera": None if scene.camera is None else _camera_row(scene.camera),
        "objects": [_box_row(box) for box in scene.objects],
    }


def from_row(row: dict) -> Scene:
    """The scene of `to_row`'s values."""
    return Scene(
        id=row["id"],
        dataset=row["dataset"],
        objects=tuple(_box(entry) for entry in row["objects"]),
        room_size=row["room_size"],
        counts=dict(row["counts"]),
        floor=None if row["floor"] is None else _array(row["floor"], (-1, 2), "floor"),
        height=row["height"],
        camera=None if row["camera"] is None else _camera(row["camera"]),
        palette=row["palette"],
    )


def _box_row(box: Box) -> dict:
    row = {"label": box.label, "shape": box.shape}
    row.update({name: np.asarray(getattr(box, name)).tolist() for name in ("center", "size", "axes")})
    if box.point_center is not None:
        row["point_center"] = np.asarray(box.point_center).tolist()
    return row


def _box(row: dict) -> Box:
    points = row.get("point_center")
    return Box(
        label=row["label"],
        center=_array(row["center"], (3,), "center"),
        size=_array(row["size"], (3,), "size"),
        axes=_array(row["axes"], (3, 3), "axes"),
        shape=row["shape"],
        point_center=None if points is None else _array(points, (3,), "point_center"),
    )


def _camera_row(camera: Camera) -> dict:
    return {
        "position": camera.position.tolist(),
        "yaw": camera.yaw.tolist(),
        "pitch": camera.pitch.tolist(),
        "fov": camera.fov,
    }


def _camera(row: dict) -> Camera:
    yaw = _array(row["yaw"], (-1,), "yaw")
    return Camera(
        _array(row["position"], (len(yaw), 3), "position"), yaw, _array(row["pitch"], yaw.shape, "pitch"), row["fov"]
    )


def _array(values: list, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.array(values, dtype=float)
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} = {values} is not finite")
    return array
