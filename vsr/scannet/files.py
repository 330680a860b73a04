"""The files of a raw ScanNet scan: mesh, segments, aggregation (which segments are which object), alignment, labels."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from vsr.errors import VsrError
from vsr.files import read_json_value, read_text

NAME = re.compile(r"scene\d{4}_\d{2}")
LOW = "_vh_clean_2"  # in the names of all lo-res files
# mesh, its segments, which segments are which object: the lo-res files that most tools use, then the hi-res ones
RESOLUTIONS = (
    ("{id}_vh_clean_2.ply", "{id}_vh_clean_2.0.010000.segs.json", "{id}.aggregation.json"),
    ("{id}_vh_clean.ply", "{id}_vh_clean.segs.json", "{id}_vh_clean.aggregation.json"),
)
VIDEOS = ("{id}.sens", "{id}.mp4", "{id}.avi", "color")  # ScanNet's stream, an exported video, exported frames
TRIANGLES = {"face": {"vertex_indices": 3, "vertex_index": 3}}  # lists of known length are mapped, not parsed
TABLE = "scannetv2-labels.combined.tsv"
COLUMNS = ("raw_category", "category", "nyu40class")
Labels = dict[str, tuple[str, str]]  # raw category -> (category, nyu40 class)
JSON_KINDS = {list: "a list", dict: "an object", str: "text", type(None): "missing", bool: "true or false"}
REMEDY = "copy or download it again"


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan; `info` (alignment) and `video` are None where the folder has none."""

    id: str
    mesh: Path
    segments: Path
    aggregation: Path
    info: Path | None
    video: Path | None

    def missing(self) -> list[str]:
        """The names of files without which the scan cannot be read."""
        return [path.name for path in (self.mesh, self.segments, self.aggregation) if not path.is_file()]

    def present(self) -> list[Path]:
        """The files that decide what `read_scan` gives."""
        return [path for path in (self.mesh, self.segments, self.aggregation, self.info) if path and path.is_file()]


def find_scans(root: str | Path) -> dict[str, Path]:
    """The scan folders of a ScanNet copy by id, sorted: `root/scans/<id>`, or `root/<id>`."""
    root = Path(root)
    if not root.is_dir():
        raise VsrError(f"{root}: no such folder; expected a copy of ScanNet with scans/scene0000_00/ and so on")
    for parent in (root / "scans", root):
        folders = sorted(parent.iterdir()) if parent.is_dir() else ()
        if found := {path.name: path for path in folders if NAME.fullmatch(path.name) and path.is_dir()}:
            return found
    raise VsrError(f"{root}: holds no scan folders such as scans/scene0000_00; is this the copy of ScanNet?")


def scan_files(folder: str | Path) -> ScanFiles:
    """The files of a scan folder: the lo-res set where it is whole or nothing is, else the hi-res set."""
    folder = Path(folder)
    name = folder.name
    sets = [[folder / pattern.format(id=name) for pattern in patterns] for patterns in (*RESOLUTIONS, VIDEOS)]
    videos = sets.pop()
    chosen = next((paths for paths in sets if all(path.is_file() for path in paths)), sets[0])
    info = folder / f"{name}.txt"
    video = next((path for path in videos if path.exists()), None)
    return ScanFiles(name, *chosen, info if info.is_file() else None, video)


def read_vertices(path: str | Path) -> np.ndarray:
    """The mesh's vertices in metres as scanned, (N, 3) float64; its faces are never held in memory. A file cut short,
    counts that do not fit it, missing coordinates and values that are not finite are errors naming file and field."""
    path = Path(path)
    try:
        vertices = PlyData.read(str(path), known_list_len=TRIANGLES)["vertex"].data
        points = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1)
    except PlyParseError as error:
        what = "a mesh of triangles" if "list length" in str(error) else "a whole ply mesh"
        raise VsrError(f"{path}: not {what} ({error}); {REMEDY}") from None
    except KeyError as error:
        raise VsrError(f"{path}: no element {error}; is this a mesh?") from None
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError) as error:
        raise VsrError(f"{path}: not a readable ply mesh ({error}); {REMEDY}") from None
    if not len(points):
        raise VsrError(f"{path}: element vertex: the mesh has no vertices; {REMEDY}")
    broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(broken):
        x, y, z = points[broken[0]]
        raise VsrError(f"{path}: vertex {broken[0]} is ({x}, {y}, {z}), and {len(broken)} in all are not finite")
    return points


def read_segments(path: str | Path, scan: str, vertices: int) -> np.ndarray:
    """The segment of each vertex, (N,) int64, from a `*.segs.json` of a mesh with so many vertices."""
    found = _field(path, scan, "segIndices", "numbers")
    if len(found) != vertices:
        raise VsrError(f"{path}: segIndices has {len(found)} entries, the mesh {vertices} vertices; {REMEDY}")
    try:
        segments = np.array(found)
    except (ValueError, OverflowError):
        segments = np.empty(0)
    if segments.dtype.kind != "i" or segments.shape != (vertices,) or segments.min() < 0:
        # numpy checks 200,000 numbers in a blink; only a bad file is searched one by one
        bad = next((i for i, entry in enumerate(found) if not _whole(entry)), 0)
        raise VsrError(f"{path}: segIndices[{bad}] = {_short(found[bad])}, expected a whole number from 0; {REMEDY}")
    return segments.astype(np.int64)


@dataclass(frozen=True)
class Annotated:
    """One annotated object: its number in the annotation, the annotator's label and its segments."""

    object_id: int
    label: str
    segments: tuple[int, ...]


def read_aggregation(path: str | Path, scan: str, segments: str) -> list[Annotated]:
    """The objects of an aggregation file that must refer to the segments file of that name."""
    groups, numbers = [], {}
    for i, entry in enumerate(_field(path, scan, "segGroups", "objects", segments)):
        where = f"{path}: segGroups[{i}]"
        if not isinstance(entry, dict):
            raise VsrError(f"{where} is {_kind(entry)}, expected an object; {REMEDY}")
        number, label, listed = (entry.get(name) for name in ("objectId", "label", "segments"))
        if not _whole(number):
            raise VsrError(f"{where}: objectId = {_short(number)}, expected a whole number from 0; {REMEDY}")
        if not isinstance(label, str) or not label.strip():
            raise VsrError(f"{where}: label = {_short(label)}, expected the object's name; {REMEDY}")
        if not isinstance(listed, list) or not all(map(_whole, listed)):
            raise VsrError(f"{where}: segments = {_short(listed)}, expected a list of segment numbers; {REMEDY}")
        if numbers.setdefault(number, i) != i:
            raise VsrError(f"{where}: objectId {number} is also segGroups[{numbers[number]}]'s")
        groups.append(Annotated(number, " ".join(label.split()), tuple(listed)))
    return groups


def _field(path: str | Path, scan: str, field: str, entries: str, segments: str | None = None) -> list:
    """A list in a scan's json file, which must be of that scan and refer to the segments file of that name."""
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise VsrError(f"{path}: the file is {_kind(content)}, expected an object; {REMEDY}")
    # ids come as scene0000_00, scannet.scene0000_00 or with the mesh's name behind: only another scan's is wrong
    named = NAME.search(str(content.get("sceneId")))
    if named and named[0] != scan:
        wrong = _short(content["sceneId"])
        raise VsrError(f"{path}: sceneId = {wrong}, expected {scan}; is the file in the right folder?")
    refers = content.get("segmentsFile") if segments else None
    if refers is not None and (LOW in str(refers)) != (LOW in segments):
        raise VsrError(f"{path}: segmentsFile = {_short(refers)}, expected {segments}; lo-res and hi-res files mixed?")
    if not isinstance(content.get(field), list):
        raise VsrError(
            f"{path}: field '{field}' is {_kind(content.get(field))}, expected a list of {entries}; {REMEDY}"
        )
    return content[field]


def read_alignment(path: str | Path) -> np.ndarray | None:
    """The matrix (4, 4) that turns a scan upright and parallel to the axes: aligned = M @ (x, y, z, 1). None where the
    file has none, as ScanNet's test scans."""
    lines = [line.partition("=") for line in read_text(path).split("\n")]
    found = [value for name, _, value in lines if name.strip() == "axisAlignment"]
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


def read_labels(path: str | Path) -> Labels:
    """The label table of ScanNet v2. Rows may lack their last columns, as one of the real 607 does."""
    text = read_text(path, f"it comes with ScanNet ({TABLE}), or name it with --labels")
    rows = [line.split("\t") if line.strip() else [] for line in text.split("\n")]
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise VsrError(f"{path}: column '{missing[0]}' is missing; expected ScanNet's {TABLE}")
    raw, category, nyu40 = (rows[0].index(name) for name in COLUMNS)
    labels: Labels = {}
    for number, row in enumerate(rows[1:], 2):
        if row and (len(row) <= max(raw, category, nyu40) or not row[raw].strip()):
            raise VsrError(f"{path}, line {number}: {len(row)} columns, no {COLUMNS[2]}; {REMEDY}")
        if row:
            labels.setdefault(" ".join(row[raw].split()), (row[category].strip(), row[nyu40].strip()))
    if not labels:
        raise VsrError(f"{path}: holds no labels; {REMEDY}")
    return labels


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _kind(value: object) -> str:
    return JSON_KINDS.get(type(value), "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
