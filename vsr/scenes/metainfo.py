"""Real scenes from VSI-Bench's meta_info json (ScanNet, ScanNet++ and ARKitScenes files have one form).

The files give what the benchmark's ground truth was made from: room size, object counts and oriented boxes. They hold
no floor plan and no camera.
"""

import sys
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import read_json_value
from vsr.scenes.scene import Box, Scene

REMEDY = "mend the file or download it again (thinking-in-space, data/meta_info)"
FIELDS = ("dataset", "room_size", "object_counts", "object_bbox")
NUMBERS = {"centroid": 3, "axesLengths": 3, "normalizedAxes": 9}  # of a box


def read_scenes(path: str | Path) -> list[Scene]:
    """The scenes of a meta_info file, in its order. A bad value is an error naming file, scene, field and value."""
    content = read_json_value(path)
    if not isinstance(content, dict) or not content:
        raise VsrError(f"{path}: expected an object of scenes, found {_short(content)}; {REMEDY}")
    return [_scene(name, entry, f"{path}: scene {name}") for name, entry in content.items()]


def _scene(name: str, entry: object, where: str) -> Scene:
    if not isinstance(entry, dict):
        raise _bad(where, "entry", entry, "an object")
    if missing := [key for key in FIELDS if key not in entry]:
        raise VsrError(f"{where}: field '{missing[0]}' is missing; {REMEDY}")
    dataset, size, counts, boxes = (entry[key] for key in FIELDS)
    if not _is_number(size) or size <= 0:
        raise _bad(where, "room_size", size, "a positive number of square metres")
    if not isinstance(counts, dict) or any(not isinstance(n, int) or n < 0 for n in counts.values()):
        raise _bad(where, "object_counts", counts, "a whole number per label")
    if not isinstance(boxes, dict) or not all(isinstance(found, list) for found in boxes.values()):
        raise _bad(where, "object_bbox", boxes, "a list of boxes per label")
    # without exact repetitions: the ScanNet file lists every printer twice, once from each of two label lists
    objects: dict[tuple, Box] = {}
    for label, found in boxes.items():
        for i, values in enumerate(found):
            box = _box(label, values, f"{where}: object_bbox['{label}'][{i}]")
            objects.setdefault((label, *box.center, *box.size, *box.axes.ravel()), box)
    return Scene(name, str(dataset), tuple(objects.values()), room_size=float(size), counts=dict(counts))


def _box(label: str, entry: object, where: str) -> Box:
    if not isinstance(entry, dict):
        raise _bad(where, "box", entry, "an object")
    for field, length in NUMBERS.items():
        value = entry.get(field)
        if not isinstance(value, list) or len(value) != length or not all(map(_is_number, value)):
            raise _bad(where, field, value, f"{length} finite numbers")
    center, size, axes = (np.array(entry[field], dtype=float) for field in NUMBERS)
    if (size <= 0).any():
        raise _bad(where, "axesLengths", entry["axesLengths"], "3 positive lengths in metres")
    axes = axes.reshape(3, 3)  # rows are axes
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
        raise _bad(where, "normalizedAxes", entry["normalizedAxes"], "3 orthogonal unit rows")
    return Box(label, center, size, axes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _bad(where: str, field: str, value: object, expected: str) -> VsrError:
    return VsrError(f"{where}: {field} = {_short(value)}, expected {expected}; {REMEDY}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
