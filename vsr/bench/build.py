"""How long VSI-100k takes from raw scans: reading made-up scans of full size, and asking about 1,513 kept ones."""

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from vsr import markdown, paper
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.progress import track
from vsr.scannet import from_scans, scans
from vsr.scannet.made_up import make_layout, write_scan

SCANNET = 1513  # scans in ScanNet's training and validation splits
READ, VERTICES, WORKERS = 100, 200_000, 2
# metres: hulls of real scans have hundreds of corners, those of clean boxes eight
NOISE = 0.002


def main() -> dict:
    """Read READ raw scans, then ask about 1,513 kept ones; prints a table and returns `{"machine", "rows"}`. Wall and
    processor seconds of both stages, the first projected to 1,513 scans; memory is the peak of the main process plus,
    in the first stage, as many times the largest worker's."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "scannet"
        kept = Path(folder) / "kept"
        names = [f"scene{number:04d}_00" for number in range(SCANNET)]
        for name in track(names[:READ], "making scans"):
            write_scan(root, make_layout(name, 0), VERTICES, noise=NOISE)
        for name in track(names, "making kept scans"):
            truth = make_layout(name, 0).truth(VERTICES)
            areas = {"vsi100k": truth.room_size, "vsibench": truth.room_size}
            scans.keep(kept / scans.KEPT, scans.Scan(truth, areas, ()), "", name)
        read = apart(_read, root)
        asked = apart(_ask, kept, names)
        manifest = read_json(kept / "manifest.json")
    scale = SCANNET / READ / 60
    row = {
        "scans": READ,
        "vertices": VERTICES,
        "workers": WORKERS,
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
    read = row["read"]
    ask = row["ask"]
    projected = row["projected_min"]
    tasks = [(part.task, row["available"].get(part.task, 0), part.samples) for part in paper.VSI_100K]
    return (
        f"{row['scans']} raw scans of {row['vertices']} vertices, {row['workers']} workers\n"
        f"  reading  {read['wall_s']:7.1f} s wall {read['cpu_s']:7.1f} s processor, {read['peak_mb']:.0f} MB at most\n"
        f"  {SCANNET} scans on 2 cores: {projected['wall']:.1f} min by the wall clock here, "
        f"{projected['cpu_on_2_cores']:.1f} min of processor time\n"
        f"  {sum(row['asked'].values())} questions from {SCANNET} kept scans: {ask['wall_s']:.1f} s wall, "
        f"{ask['cpu_s']:.1f} s processor, {ask['peak_mb']:.0f} MB\n"
        "Questions that made-up scans allow, beside the paper's (what real ones allow needs ScanNet):\n"
        + markdown.table(("task", "made-up", "paper"), tasks)
    )


def _read(root: Path) -> int:
    chosen = from_scans.plan(root, split="bench")
    if failed := scans.read_all(chosen.folders, root / "kept", WORKERS):
        raise VsrError(f"made-up scans could not be read:\n{from_scans.summary(failed)}")
    return WORKERS


def _ask(kept: Path, names: list[str]) -> int:
    chosen = from_scans.Plan(kept, {}, (), None, "bench")
    from_scans.ask(kept, chosen, names, {}, "vsi100k", {}, 0, paper_counts=True)
    return 0


def apart(stage: Callable[..., int], *arguments: object) -> dict[str, float]:
    """A stage, which returns the number of its worker processes, in a fresh process, so that its memory is its own."""
    try:
        # a spawned process would begin with our own peak as its own
        with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
            return pool.submit(_measure, stage, *arguments).result()
    except BrokenProcessPool:
        raise VsrError("bench: its process died (out of memory?); see the message above") from None


def _measure(stage: Callable[..., int], *arguments: object) -> dict[str, float]:
    started, used = time.perf_counter(), time.process_time()
    workers = stage(*arguments)
    wall, used = time.perf_counter() - started, time.process_time() - used
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(used + children.ru_utime + children.ru_stime, 2),
        "peak_mb": round((own.ru_maxrss + workers * children.ru_maxrss) / 1024),
    }
