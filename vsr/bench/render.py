"""How long rooms take: scene generation, rendering and encoding, measured apart on one core."""

import contextlib
import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vsr.miniature.procedural import STUDY, make_room, seeds
from vsr.miniature.render import render
from vsr.video import write_mp4

STAGES = ("generate_s", "render_s", "encode_s")


def main(rooms: int = 200, width: int = 84, height: int = 84, frames: int = 8) -> dict:
    """Rooms of the bench split to mp4 files; prints a table and returns `{"machine", "rows"}`. One row: `rooms`,
    `frames`, `width`, `height`, `compile_s` (numba's first calls, or loading them from its cache), the stages' wall
    seconds, `total_s`, `cpu_s` (processor seconds of all stages), `render_ms_a_frame` and `mp4_bytes` of all files."""
    world = dataclasses.replace(STUDY, frames=frames, hold=1, width=width, height=height)
    start = time.perf_counter()
    render(make_room(seeds("probe", 1)[0], world), width, height)
    compiled = time.perf_counter() - start
    spent, used, size = np.zeros(3), time.process_time(), 0
    with _one_core(), tempfile.TemporaryDirectory() as folder:
        for seed in seeds("bench", rooms):
            path = Path(folder) / f"{seed}.mp4"
            marks = [time.perf_counter()]
            scene = make_room(seed, world)
            marks.append(time.perf_counter())
            rgb = render(scene, width, height).rgb
            marks.append(time.perf_counter())
            write_mp4(path, rgb, world.fps)
            marks.append(time.perf_counter())
            spent += np.diff(marks)
            size += path.stat().st_size
    row = {"rooms": rooms, "frames": frames, "width": width, "height": height, "compile_s": compiled}
    row |= dict(zip(STAGES, spent.tolist(), strict=True))
    row |= {"total_s": float(spent.sum()), "cpu_s": time.process_time() - used}
    row |= {"render_ms_a_frame": 1000 * row["render_s"] / (rooms * frames), "mp4_bytes": size}
    row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
    print(f"{rooms} rooms to {frames}-frame {width}x{height} mp4 on one core")
    for key in STAGES:
        print(f"  {key[:-2]:<9} {row[key]:7.2f} s {1000 * row[key] / rooms:8.1f} ms a room")
    print(f"  {'total':<9} {row['total_s']:7.2f} s, processor {row['cpu_s']:.2f} s")
    print(f"  before it: {compiled:.2f} s of compiling, or of loading what was compiled")
    machine = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "used_cores": 1}
    return {"machine": machine, "rows": [row]}


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Hold this process on one core where the system can (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
