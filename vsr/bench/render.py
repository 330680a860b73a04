"""How long rooms take: scene generation, rendering and encoding, measured apart; all three run on one thread."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from vsr.bench.subject import machine
from vsr.miniature.procedural import STUDY, make_room, seeds
from vsr.miniature.render import render
from vsr.video import write_mp4

WORLD = replace(STUDY, frames=8, hold=1, width=84, height=84)
STAGES = ("generate_s", "render_s", "encode_s")


def main(rooms: int = 200) -> dict:
    """Rooms of the bench split to mp4 files; prints a table and returns `{"machine", "rows"}`. One row: `rooms`,
    `frames`, `width`, `height`, `compile_s` (numba's first calls, or loading them from its cache), the stages' wall
    seconds, `total_s`, `cpu_s` (processor seconds of all stages), `render_ms_a_frame` and `mp4_bytes` of all files."""
    size = {"frames": WORLD.frames, "width": WORLD.width, "height": WORLD.height}
    start = time.perf_counter()
    render(make_room(seeds("probe", 1)[0], WORLD), WORLD.width, WORLD.height)
    compiled = time.perf_counter() - start
    spent, used, written = np.zeros(3), time.process_time(), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds("bench", rooms):
            path, marks = Path(folder) / f"{seed}.mp4", [time.perf_counter()]
            scene = make_room(seed, WORLD)
            marks.append(time.perf_counter())
            rgb = render(scene, WORLD.width, WORLD.height).rgb
            marks.append(time.perf_counter())
            write_mp4(path, rgb, WORLD.fps)
            marks.append(time.perf_counter())
            spent += np.diff(marks)
            written += path.stat().st_size
    row = {"compile_s": compiled, **dict(zip(STAGES, spent.tolist(), strict=True)), "total_s": float(spent.sum())}
    row |= {"cpu_s": time.process_time() - used, "render_ms_a_frame": 1000 * row["render_s"] / (rooms * WORLD.frames)}
    row = {"rooms": rooms, **size, **{key: round(value, 3) for key, value in row.items()}, "mp4_bytes": written}
    print(f"{rooms} rooms to {WORLD.frames}-frame {WORLD.width}x{WORLD.height} mp4")
    for key in (*STAGES, "total_s"):
        print(f"  {key[:-2]:<9} {row[key]:7.2f} s {1000 * row[key] / rooms:8.1f} ms a room")
    print(f"  processor {row['cpu_s']:.2f} s; before it {compiled:.2f} s of compiling, or of loading what was compiled")
    return {"machine": machine(), "rows": [row]}
