"""What a raw scan says about its room, and what a rule set sees of it: the annotators' words or the benchmark's.

Many scans are read in parallel and kept, each in one file, so that a killed build goes on where it was.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint, hash_files, read_json
from vsr.progress import track
from vsr.scannet.files import (
    Annotated,
    Labels,
    ScanFiles,
    read_aggregation,
    read_alignment,
    read_segments,
    read_vertices,
    scan_files,
)
from vsr.scenes.geometry import areas, minimal_box
from vsr.scenes.scene import Box, Scene, from_row, to_row

VERSION = 1  # of what is kept of a scan: raise it when `read_scan` or the row changes
KEPT = f"scans-v{VERSION}"  # in the folder of a build; what another version kept stays where it is
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # one a worker: they are inherited when it starts

# VSI-Bench's ScanNet categories, as VLM-3R's copy of the generation scripts lists them: some by NYU40 class, the
# others by ScanNet200 category.
NYU40 = frozenset({"bed", "chair", "sofa", "table", "window", "bookshelf", "counter", "desk", "refrigerator"})
SCANNET200 = frozenset(
    {"pillow", "monitor", "door", "lamp", "printer", "towel", "tv", "nightstand", "plant", "keyboard", "backpack"}
    | {"trash bin", "trash can", "recycling bin", "closet", "microwave", "fan", "washing machine", "mirror", "piano"}
    | {"radiator", "telephone", "clock", "guitar", "bicycle", "oven", "mouse"}
)
MERGED = {"desk": "table", "trash can": "trash bin", "recycling bin": "trash bin", "mouse": "computer mouse"}


@dataclass(frozen=True)
class Scan:
    """What was read of a scan. `scene` has the annotators' labels and no size yet; `areas` are the room's square
    metres by rule set; `notes` say what is odd but no reason to refuse the scan."""

    scene: Scene
    areas: dict[str, float]
    notes: tuple[str, ...]


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
    owner = _owners(segments, groups, notes)
    order = np.argsort(owner, kind="stable")  # the vertices of group i are order[bounds[i]:bounds[i + 1]]
    bounds = np.searchsorted(owner[order], np.arange(len(groups) + 1))
    boxes, counts = [], Counter()
    for i, group in enumerate(groups):
        own = points[order[bounds[i] : bounds[i + 1]]]
        counts[group.label] += len(own) > 0  # an object listed twice has its points once
        found = minimal_box(own)
        if found is None:
            notes.append(f"object {group.object_id} '{group.label}': {len(own)} points, no box")
        else:
            boxes.append(Box(group.label, *found, point_center=own.mean(axis=0)))
    scene = Scene(files.id, "scannet", tuple(boxes), counts={label: n for label, n in sorted(counts.items()) if n})
    return Scan(scene, areas(points, files.id), tuple(notes))


def _owners(segments: np.ndarray, groups: list[Annotated], notes: list[str]) -> np.ndarray:
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


def bench_label(raw: str, labels: Labels) -> str | None:
    """VSI-Bench's name for an annotated label, None for what it does not ask about."""
    category, nyu40 = labels.get(raw, (raw, ""))
    for name, known in ((nyu40, NYU40), (category, SCANNET200), (raw, SCANNET200)):
        name = "refrigerator" if name == "refridgerator" else name  # the label table's spelling
        if name in known:
            return MERGED.get(name, name)
    return None


def read_all(folders: dict[str, Path], kept: Path, workers: int) -> dict[str, str]:
    """Read every scan whose result is not in `kept` yet; the errors by scan id. One scan's damage harms no other."""
    todo = [(folder, kept) for folder in folders.values()]
    return errors_of(_read, todo, workers, "scans")


def errors_of(work: Callable[[tuple], tuple[str, str]], tasks: list[tuple], workers: int, shown: str) -> dict[str, str]:
    """Call an importable function on every task, in this process for one worker; it returns a name and what went wrong
    or ''. The errors by name, sorted. A worker that dies is an error that says how to go on."""
    before = {name: os.environ.get(name) for name in THREADS}
    try:
        with ExitStack() as stack:
            each = map
            if workers > 1 and len(tasks) > 1:
                os.environ.update(dict.fromkeys(THREADS, "1"))
                # spawned: the fork of a process with threads, such as a notebook's, may hang
                pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"))
                each = stack.enter_context(pool).map
            results = list(track(each(work, tasks), shown, len(tasks)))
    except BrokenProcessPool:
        raise VsrError("a worker process died (out of memory?); run it again, with --workers 1 if need be") from None
    finally:
        for name in THREADS:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
    return dict(sorted((name, error) for name, error in results if error))


def _read(task: tuple[Path, Path]) -> tuple[str, str]:
    folder, kept = task
    try:
        files = scan_files(folder)
        if not _is_kept(files, kept):
            keep(kept, read_scan(files), mark=_mark(files), content=hash_files(*files.present()))
    except VsrError as error:
        return folder.name, str(error)
    except (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
        return folder.name, f"{folder}: {type(error).__name__}: {error}"
    return folder.name, ""


def keep(kept: Path, scan: Scan, mark: str, content: str) -> None:
    """Write a scan's result; `mark` tells whether it is still up to date, `content` is the hash of its files."""
    row = {"mark": mark, "hash": content, "scene": to_row(scan.scene), "areas": scan.areas, "notes": scan.notes}
    atomic_write(kept / f"{scan.scene.id}.json", json.dumps(row, ensure_ascii=False) + "\n")


def load(kept: Path, name: str) -> tuple[Scan, str]:
    """A kept scan and the hash of the files that it was read from."""
    path = kept / f"{name}.json"
    row = read_json(path)
    try:
        return Scan(from_row(row["scene"]), row["areas"], tuple(row["notes"])), row["hash"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VsrError(f"{path}: no kept scan ({error}); delete the file and build again") from None


def _is_kept(files: ScanFiles, kept: Path) -> bool:
    try:
        return read_json(kept / f"{files.id}.json").get("mark") == _mark(files)
    except VsrError:
        return False


def _mark(files: ScanFiles) -> str:
    """Tells these very files by size and time: hashing every mesh takes as long as reading it."""
    stats = [(path.name, path.stat()) for path in files.present()]
    return fingerprint([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
