"""How long VSI-100k takes from raw scans: reading made-up scans of full size, and asking about 1,513 kept ones."""

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from vsr import paper
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.progress import track
from vsr.scannet import from_scans, scan_cache
from vsr.scannet.raw_scans import make_layout, write_scan
from vsr.scannet.scans import Scan

SCANNET = 1513  # scans in ScanNet's training and validation splits
NOISE = 0.002  # metres: hulls of real scans have hundreds of corners, those of clean boxes eight
Measured = dict[str, float]


def main(scans: int = 100, vertices: int = 200_000, workers: int = 2) -> dict:
    """Read `scans` raw scans with two processes, then ask about 1,513 kept ones; prints a table and returns
    `{"machine", "rows"}`. Wall and processor seconds of both stages, the first projected to 1,513 scans; memory is the
    peak of the main process plus, in the first stage, as many times the largest worker's."""
    with tempfile.TemporaryDirectory() as folder:
        root, kept = Path(folder) / "scannet", Path(folder) / "kept"
        names = [f"scene{number:04d}_00" for number in range(SCANNET)]
        for name in track(names[:scans], "making scans"):
            write_scan(root, make_layout(name, 0), vertices, noise=NOISE)
        for name in track(names, "making kept scans"):
            truth = make_layout(name, 0).truth(vertices)
            areas = {"vsi100k": truth.room_size, "vsibench": truth.room_size}
            scan_cache.keep(kept / "scans", Scan(truth, areas, ()), "", name)
        read = _apart(_read, root, workers)
        asked = _apart(_ask, kept)
        manifest = read_json(kept / "manifest.json")
    scale = SCANNET / scans / 60
    row = {
        "scans": scans,
        "vertices": vertices,
        "workers": workers,
        "read": read,
        "projected_min": {"wall": read["wall_s"] * scale, "cpu_on_2_cores": read["cpu_s"] * scale / 2},
        "ask": asked,
        "available": manifest["available"],
        "asked": manifest["tasks"],
    }
    print(table(row))
    machine = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
    return {"machine": {**machine, "load": os.getloadavg()[0]}, "rows": [row]}


def table(row: dict) -> str:
    """One measured row in words."""
    read, ask, projected = row["read"], row["ask"], row["projected_min"]
    lines = [
        f"{row['scans']} raw scans of {row['vertices']} vertices, {row['workers']} workers",
        f"  reading  {read['wall_s']:7.1f} s wall {read['cpu_s']:7.1f} s processor, {read['peak_mb']:.0f} MB at most",
        f"  {SCANNET} scans on 2 cores: {projected['wall']:.1f} min by the wall clock here, "
        f"{projected['cpu_on_2_cores']:.1f} min of processor time",
        f"  {sum(row['asked'].values())} questions from {SCANNET} kept scans: {ask['wall_s']:.1f} s wall, "
        f"{ask['cpu_s']:.1f} s processor, {ask['peak_mb']:.0f} MB",
        "  questions that made-up scans allow, beside the paper's (what real ones allow needs ScanNet):",
    ]
    for part in paper.VSI_100K:
        lines.append(f"    {part.task:24} {row['available'].get(part.task, 0):7} {part.samples:>6}")
    return "\n".join(lines)


def _read(root: Path, workers: int) -> None:
    chosen = from_scans.plan(root, split="bench")
    failed = scan_cache.read_all(chosen.folders, root / "kept", workers)
    if failed:
        raise VsrError(f"made-up scans could not be read:\n{from_scans.summary(failed)}")


def _ask(kept: Path) -> None:
    names = {path.stem: path for path in sorted((kept / "scans").iterdir())}
    chosen = from_scans.Plan(kept, names, (), None, "bench")
    from_scans.ask(kept, chosen, list(names), {}, "vsi100k", {}, 0, paper_counts=True)


def _apart(stage: Callable[..., None], *arguments: object) -> Measured:
    """A stage in a fresh process, so that its memory is its own."""
    ours, theirs = Pipe(duplex=False)
    process = get_context("spawn").Process(target=_measure, args=(theirs, stage, *arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise VsrError(f"bench build: its process ended with code {process.exitcode}; see the message above") from None
    finally:
        process.join()


def _measure(pipe: Connection, stage: Callable[..., None], *arguments: object) -> None:
    started = time.perf_counter()
    stage(*arguments)
    wall = time.perf_counter() - started
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    processes = arguments[1] if len(arguments) > 1 else 0
    pipe.send(
        {
            "wall_s": round(wall, 2),
            "cpu_s": round(sum(use.ru_utime + use.ru_stime for use in (own, workers)), 2),
            "peak_mb": round((own.ru_maxrss + processes * workers.ru_maxrss) / 1024),
        }
    )
