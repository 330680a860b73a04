"""Qwen2-VL-2B at full depth with random weights, in bf16 and in nf4, through the study's own commands: load, two
questions, one step of GRPO with the paper's group; what `vsr estimate` says beside the memory and time that they took.

On a CPU memory is what the process holds beyond its start; of mapped files, the weights that still lie in one. On a GPU
it is PyTorch's."""

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from vsr import models, profiles
from vsr.bench.subject import QWEN2_VL_2B, machine
from vsr.estimate import Estimate, devices
from vsr.estimate.dryrun import Model
from vsr.estimate.workload import CAMERA, workload
from vsr.evaluate import evaluate
from vsr.files import read_jsonl
from vsr.models.folders import TINY_FOLDER, random_folder
from vsr.models.quantize import held_bytes
from vsr.profiles import Profile
from vsr.questions.dataset import load
from vsr.questions.question import Question, write_questions
from vsr.train import train
from vsr.variants import forget
from vsr.video import write_mp4

PROFILES = ("paper-2b", "qlora-2b")  # bf16 and nf4
STEP = {"questions_per_step": 1, "max_steps": 1, "max_completion_length": 8, "max_new_tokens": 4, "bench_rooms": 1}
ASKED = ("How many chair(s) are in this room?", "3"), ("How many table(s) are in this room?", "2")
EVERY = 0.005  # seconds between two looks at the memory
ALLOWED = 0.15  # how far an estimate may be off
HEAD = "profile     GiB: weights estimated   held | a step estimated  measured   off | seconds: load  2 answers  step"


def main() -> dict:
    """Measure, print a table, return `{"machine", "rows"}`; see `measure` for a row."""
    print(f"Qwen2-VL-2B, all layers, random weights, {machine()['device']}\n{HEAD}", flush=True)
    rows = []
    # glibc would keep what is freed between what is not: half as much again where 4-bit weights are written out
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    with tempfile.TemporaryDirectory() as folder:
        base = random_folder(Path(folder) / "base", QWEN2_VL_2B, TINY_FOLDER, dtype=torch.bfloat16)
        for name in PROFILES:  # each in a process of its own: what one left behind is no other's
            profile = profiles.get(name, base=str(base), **STEP)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (profile, Path(folder) / name)))
            print(line(rows[-1]), flush=True)
    return {"machine": machine(), "rows": rows}


def measure(profile: Profile, folder: Path) -> dict:
    """One row, bytes and seconds: `weights` and the worst moment of a `step` (weights, adapter, optimiser and
    activations), each as `_estimated` and `_measured`; `load_s`, `answers_s` and `step_s`."""
    work = workload(profile, "vanilla")
    data = load(_questions(folder / "data"))
    row = {"profile": profile.name, "quantization": profile.quantization, "prompt": work.prompt}
    row |= {"group": profile.num_generations, "completion": profile.max_completion_length}
    before = held()
    started = time.perf_counter()
    loaded = models.load(**models.arguments("base", profile))
    row |= {"load_s": time.perf_counter() - started, "weights_measured": held_bytes(loaded.model)}
    forget()
    mapped = max(0, row["weights_measured"] - (held() - before))  # safetensors copies what changes its type alone
    shapes = loaded.model.config
    found = Estimate(work, Model(shapes, profile), devices.this(loaded.model.dtype, shapes.text_config.hidden_size))
    row["weights_estimated"] = found.memory["weights"]
    row["step_estimated"] = found.peak
    started = time.perf_counter()
    evaluate(loaded, data, "vanilla", "true", profile, folder / "runs")
    row["answers_s"] = time.perf_counter() - started
    forget()
    with Peak() as peak:
        started = time.perf_counter()
        run = train("grpo", profile, data, folder / "runs", loaded=loaded).path
        row["step_s"] = time.perf_counter() - started
    row["step_measured"] = mapped + peak.highest - before
    (log,) = read_jsonl(run / "log.jsonl")
    return row | {name: value for name, value in log.items() if name.startswith("seconds/")}


class Peak:
    """The most that is held while it is open, in `highest`."""

    def __enter__(self) -> "Peak":
        self.highest, self.over = 0, threading.Event()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watcher.join()

    def _watch(self) -> None:
        while not self.over.wait(EVERY):
            self.highest = max(self.highest, held())


def held() -> int:
    """Bytes of this process now; on a GPU the most since it was asked to count."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)


def _questions(folder: Path) -> Path:
    """Two questions on one video as large as ScanNet's."""
    (folder / "videos").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (16, *(side // 8 for side in CAMERA), 3), np.uint8)
    write_mp4(folder / "videos" / "room.mp4", noise.repeat(8, 1).repeat(8, 2), 8)
    asked = [
        Question(f"{i}", "scannet", "room", "object_counting", *one[:1], None, one[1]) for i, one in enumerate(ASKED)
    ]
    write_questions(folder / "questions.jsonl", asked)
    return folder


def line(row: dict) -> str:
    """One row of the table; `!` marks an estimate that is too far off."""
    apart = row["step_estimated"] / row["step_measured"] - 1
    sizes = (row[name] / 2**30 for name in ("weights_estimated", "weights_measured", "step_estimated", "step_measured"))
    weights, held, step, measured = sizes
    return (
        f"{row['profile']:10} {weights:22.2f} {held:6.2f} | {step:16.2f} {measured:9.2f} {apart:+5.0%}"
        f"{'!' if abs(apart) > ALLOWED else ' '} | {row['load_s']:13.1f} {row['answers_s']:10.1f} {row['step_s']:5.1f}"
    )
