"""Raw ScanNet scans: where their files are, and what a scan's files say about its room."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.scannet.annotations import Group, read_aggregation, read_alignment, read_segments
from vsr.scannet.labels import Labels, bench_label
from vsr.scannet.mesh import read_vertices
from vsr.scannet.minimal_box import minimal_box
from vsr.scenes.alpha import areas
from vsr.scenes.scene import Box, Scene

NAME = re.compile(r"scene\d{4}_\d{2}")
# mesh, its segments, which segments are which object: the lo-res files that most tools use, then the hi-res ones
RESOLUTIONS = (
    ("{id}_vh_clean_2.ply", "{id}_vh_clean_2.0.010000.segs.json", "{id}.aggregation.json"),
    ("{id}_vh_clean.ply", "{id}_vh_clean.segs.json", "{id}_vh_clean.aggregation.json"),
)
VIDEOS = ("{id}.sens", "{id}.mp4", "{id}.avi", "color")  # ScanNet's stream, an exported video, exported frames


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


@dataclass(frozen=True)
class Scan:
    """What was read of a scan. `scene` has the annotators' labels and no size yet; `areas` are the room's square
    metres by rule set; `notes` say what is odd but no reason to refuse the scan."""

    scene: Scene
    areas: dict[str, float]
    notes: tuple[str, ...]


def find_scans(root: str | Path) -> dict[str, Path]:
    """The scan folders of a ScanNet copy by id, sorted: `root/scans/<id>`, or `root/<id>`."""
    root = Path(root)
    if not root.is_dir():
        raise VsrError(f"{root}: no such folder; expected a copy of ScanNet with scans/scene0000_00/ and so on")
    for parent in (root / "scans", root):
        if parent.is_dir():
            found = {path.name: path for path in parent.iterdir() if NAME.fullmatch(path.name) and path.is_dir()}
            if found:
                return dict(sorted(found.items()))
    raise VsrError(f"{root}: holds no scan folders such as scans/scene0000_00; is this the copy of ScanNet?")


def scan_files(folder: str | Path) -> ScanFiles:
    """The files of a scan folder: the lo-res set where it is whole or nothing is, else the hi-res set."""
    folder = Path(folder)
    name = folder.name

    def pick(patterns: tuple[str, ...]) -> list[Path]:
        return [folder / pattern.format(id=name) for pattern in patterns]

    sets = [pick(patterns) for patterns in RESOLUTIONS]
    chosen = next((paths for paths in sets if all(path.is_file() for path in paths)), sets[0])
    info = folder / f"{name}.txt"
    video = next((path for path in pick(VIDEOS) if path.exists()), None)
    return ScanFiles(name, *chosen, info if info.is_file() else None, video)


def read_scan(files: ScanFiles) -> Scan:
    """The room of one scan: the minimal oriented box and the point-cloud centre of every annotated object, the floor
    area. A missing or damaged file is an error naming the file and field."""
    missing = files.missing()
    if missing:
        raise VsrError(f"{files.mesh.parent}: {', '.join(missing)} missing; download them with ScanNet's script")
    points = read_vertices(files.mesh)
    segments = read_segments(files.segments, files.id, len(points))
    groups = read_aggregation(files.aggregation, files.id, files.segments.name)
    matrix = read_alignment(files.info) if files.info else None
    notes = [] if matrix is not None else ["no axisAlignment: left as scanned"]
    if matrix is not None:
        points = points @ matrix[:3, :3].T + matrix[:3, 3]
    boxes = _boxes(points, segments, groups, notes)
    scene = Scene(files.id, "scannet", tuple(boxes), counts=dict(sorted(Counter(g.label for g in groups).items())))
    return Scan(scene, areas(points, files.id), tuple(notes))


def _boxes(points: np.ndarray, segments: np.ndarray, groups: list[Group], notes: list[str]) -> list[Box]:
    """The boxes of all groups that have points; the others are noted."""
    owner = _owners(segments, groups, notes)
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(groups) + 1))
    boxes = []
    for i, group in enumerate(groups):
        own = points[order[bounds[i] : bounds[i + 1]]]
        found = minimal_box(own)
        if found is None:
            notes.append(f"object {group.object_id} '{group.label}': {len(own)} points, no box")
            continue
        center, size, axes = found
        boxes.append(Box(group.label, center, size, axes, point_center=own.mean(axis=0)))
    return boxes


def _owners(segments: np.ndarray, groups: list[Group], notes: list[str]) -> np.ndarray:
    """The group of each vertex, -1 for none. A segment that two groups list goes to the later one, as in ScanNet's own
    loaders."""
    known, inverse = np.unique(segments, return_inverse=True)
    owner = np.full(len(known), -1)
    for i, group in enumerate(groups):
        listed = np.array(group.segments, dtype=np.int64)
        at = np.minimum(np.searchsorted(known, listed), len(known) - 1)
        real = known[at] == listed
        name = f"object {group.object_id} '{group.label}'"
        if not real.all():
            notes.append(f"{name}: {np.count_nonzero(~real)} segments not in the mesh")
        if (owner[at[real]] >= 0).any():
            notes.append(f"{name}: shares segments with an earlier object")
        owner[at[real]] = i
    return owner[inverse]


def as_scene(scan: Scan, rules: str, labels: Labels) -> Scene:
    """The scan as a rule set sees it: under `vsi100k` the annotators' labels (the paper's "labels of the annotation
    document") and its area rule, under `vsibench` the benchmark's categories, merged and filtered, and its rule."""
    scene = replace(scan.scene, room_size=scan.areas[rules])
    if rules == "vsi100k":
        return scene
    objects = [(bench_label(box.label, labels), box) for box in scene.objects]
    counts: Counter = Counter()
    for raw, number in scene.counts.items():
        counts[bench_label(raw, labels)] += number
    del counts[None]
    kept = tuple(replace(box, label=name) for name, box in objects if name)
    return replace(scene, objects=kept, counts=dict(sorted(counts.items())))
