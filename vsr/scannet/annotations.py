"""ScanNet's annotation files beside a mesh: segments, aggregation (which segments are which object), alignment."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import read_json_value

SCAN = re.compile(r"scene\d{4}_\d{2}")
LOW = "_vh_clean_2"  # in the names of all lo-res files
REMEDY = "copy or download it again"


@dataclass(frozen=True)
class Group:
    """One annotated object: its number in the annotation, the annotator's label and its segments."""

    object_id: int
    label: str
    segments: tuple[int, ...]


def read_segments(path: str | Path, scan: str, vertices: int) -> np.ndarray:
    """The segment of each vertex, (N,) int64, from a `*.segs.json` of a mesh with so many vertices."""
    content = _object(path)
    _same_scan(path, content, scan)
    found = content.get("segIndices")
    if not isinstance(found, list):
        raise VsrError(f"{path}: field 'segIndices' is {_kind(found)}, expected a list of numbers; {REMEDY}")
    if len(found) != vertices:
        raise VsrError(f"{path}: segIndices has {len(found)} entries, the mesh {vertices} vertices; {REMEDY}")
    try:
        segments = np.array(found)
    except (ValueError, OverflowError):
        segments = np.empty(0)
    if segments.dtype.kind != "i" or segments.shape != (vertices,) or segments.min() < 0:
        bad = next((i for i, entry in enumerate(found) if not _whole(entry)), 0)
        raise VsrError(f"{path}: segIndices[{bad}] = {_short(found[bad])}, expected a whole number from 0; {REMEDY}")
    return segments.astype(np.int64)


def read_aggregation(path: str | Path, scan: str, segments: str) -> list[Group]:
    """The objects of an aggregation file that must refer to the segments file of that name."""
    content = _object(path)
    _same_scan(path, content, scan)
    named = content.get("segmentsFile")
    if named is not None and (LOW in str(named)) != (LOW in segments):
        raise VsrError(f"{path}: segmentsFile = {_short(named)}, expected {segments}; lo-res and hi-res files mixed?")
    entries = content.get("segGroups")
    if not isinstance(entries, list):
        raise VsrError(f"{path}: field 'segGroups' is {_kind(entries)}, expected a list of objects; {REMEDY}")
    groups = [_group(entry, f"{path}: segGroups[{i}]") for i, entry in enumerate(entries)]
    numbers: dict[int, int] = {}
    for i, group in enumerate(groups):
        if numbers.setdefault(group.object_id, i) != i:
            first = numbers[group.object_id]
            raise VsrError(f"{path}: segGroups[{i}]: objectId {group.object_id} is also segGroups[{first}]'s")
    return groups


def _group(entry: object, where: str) -> Group:
    if not isinstance(entry, dict):
        raise VsrError(f"{where} is {_kind(entry)}, expected an object; {REMEDY}")
    number, label, segments = (entry.get(name) for name in ("objectId", "label", "segments"))
    if not _whole(number):
        raise VsrError(f"{where}: objectId = {_short(number)}, expected a whole number from 0; {REMEDY}")
    if not isinstance(label, str) or not label.strip():
        raise VsrError(f"{where}: label = {_short(label)}, expected the object's name; {REMEDY}")
    if not isinstance(segments, list) or not all(map(_whole, segments)):
        raise VsrError(f"{where}: segments = {_short(segments)}, expected a list of segment numbers; {REMEDY}")
    return Group(number, " ".join(label.split()), tuple(segments))


def read_alignment(path: str | Path) -> np.ndarray | None:
    """The matrix (4, 4) that turns a scan upright and parallel to the axes: aligned = M @ (x, y, z, 1). None where the
    file has none, as ScanNet's test scans."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise VsrError(f"{path}: not a text file ({error}); {REMEDY}") from None
    found = [line.partition("=")[2] for line in lines if line.partition("=")[0].strip() == "axisAlignment"]
    if not found:
        return None
    try:
        matrix = np.array([float(word) for word in found[0].split()])
    except ValueError:
        raise VsrError(f"{path}: axisAlignment = {_short(found[0].strip())}, expected 16 numbers; {REMEDY}") from None
    if matrix.shape != (16,) or not np.isfinite(matrix).all():
        raise VsrError(f"{path}: axisAlignment has {len(matrix)} values, expected 16 finite ones; {REMEDY}")
    matrix = matrix.reshape(4, 4)
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise VsrError(f"{path}: axisAlignment is no rotation with a shift; {REMEDY}")
    return matrix


def _object(path: str | Path) -> dict:
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise VsrError(f"{path}: the file is {_kind(content)}, expected an object; {REMEDY}")
    return content


def _same_scan(path: str | Path, content: dict, scan: str) -> None:
    """Ids come as scene0000_00, scannet.scene0000_00 or with the mesh's name behind: only another scan's is wrong."""
    named = content.get("sceneId")
    found = SCAN.search(str(named))
    if found and found[0] != scan:
        raise VsrError(f"{path}: sceneId = {_short(named)}, expected {scan}; is the file in the right folder?")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _kind(value: object) -> str:
    names = {list: "a list", dict: "an object", str: "text", type(None): "missing", bool: "true or false"}
    return names.get(type(value), "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
