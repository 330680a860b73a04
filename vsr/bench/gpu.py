"""One command for a GPU: what `vsr estimate` predicts beside what is measured, on Qwen2-VL-2B's shapes with random
weights, nf4 and bf16; then the tables of `vsr bench grpo` and `vsr bench eval` on the same shapes.

Nothing is downloaded: the tokenizer is the study's, whose ids fit in the real vocabulary; shapes do not depend on it.
"""

import gc
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vsr import models, profiles
from vsr.bench import eval as bench_eval
from vsr.bench import grpo as bench_grpo
from vsr.bench.clock import seconds
from vsr.bench.subject import PATCH, chat, machine
from vsr.engine.inputs import video_features
from vsr.errors import VsrError
from vsr.estimate import devices, needs, phases, workload
from vsr.estimate.devices import Device
from vsr.estimate.workload import Workload
from vsr.files import read_jsonl
from vsr.models import Loaded, add_lora
from vsr.models.folders import QWEN2_VL, TINY_FOLDER, random_folder
from vsr.profiles import Profile
from vsr.prompts import render
from vsr.train.grpo import config, train_grpo

PROFILES = ("qlora-2b", "paper-2b")  # nf4 and bf16
LENGTHS = (8, 128)  # tokens a completion
STEPS = 4  # the first is not timed: kernels set themselves up, and it measures the gradient's parts
PHASES = ("rollout", "scoring", "update")
MEMORY, TIME = 0.15, 0.30  # how far an estimate may be off
NEVER = 1 << 30
HEAD = "profile    tokens |  GiB estimated  measured   off | s a step estimated  measured   off | vision s  measured"


def main() -> dict:
    """Measure, print a table, return `{"machine", "rows", "grpo", "eval"}`; see `measure` for a row. VsrError without a
    GPU."""
    if not torch.cuda.is_available():
        raise VsrError(
            "bench gpu: no CUDA device here; run the same command on a GPU machine. "
            "'vsr estimate --gpu NAME' predicts without one"
        )
    with tempfile.TemporaryDirectory() as folder:
        sizes = QWEN2_VL["Qwen/Qwen2-VL-2B-Instruct"]
        base = random_folder(Path(folder) / "base", sizes, TINY_FOLDER)
        rows = []
        print(f"Qwen2-VL-2B's sizes, random weights, {machine()['device']}\n{HEAD}", flush=True)
        for name in PROFILES:
            for length in LENGTHS:
                chosen = profiles.get(name, base=str(base), max_completion_length=length)
                rows.append(measure(chosen, Path(folder) / f"{name}-{length}"))
                print(line(rows[-1]), flush=True)
    return {"machine": machine(), "rows": rows, "grpo": bench_grpo.main(), "eval": bench_eval.main()}


def measure(profile: Profile, folder: Path, steps: int = STEPS) -> dict:
    """One row: GRPO's step on random features of camera-sized videos, every completion as long as it may be, since
    random weights do not end an answer. `memory` bytes that PyTorch held at most, `step` and its phases and `vision` (a
    video) in seconds; each as `_estimated` and `_measured`."""
    work = workload.of(profile, "vanilla")
    work = replace(work, completion=work.longest)
    _forget()
    loaded = models.load(**models.arguments("base", profile))
    device = devices.this(models.DTYPES[profile.dtype], loaded.model.config.text_config.hidden_size)
    row = {"profile": profile.name, "quantization": profile.quantization, "prompt": work.prompt}
    row |= {"completion": work.longest, "group": profile.num_generations, "questions": profile.questions_per_step}
    row |= predict(profile, work, loaded, device)
    pixels, grid = torch.randn(int(np.prod(work.grid)), PATCH), torch.tensor([work.grid])
    row["vision_measured"] = min(seconds(lambda: video_features(loaded.model, pixels, grid)) for _ in range(3))
    _forget()
    _train(profile, work, loaded, folder, steps)
    lines = list(read_jsonl(folder / "log.jsonl"))
    for phase in PHASES:
        row[f"{phase}_measured"] = float(np.median([one[f"seconds/{phase}"] for one in lines[1:]]))
    row["step_measured"] = float(np.median([sum(one[f"seconds/{phase}"] for phase in PHASES) for one in lines[1:]]))
    row["memory_measured"] = max(one["peak_memory_mb"] for one in lines) * 2**20
    return row


def predict(profile: Profile, work: Workload, loaded: Loaded, device: Device) -> dict[str, float]:
    """The estimates of a row."""
    dry = phases.Model(loaded.model.config, profile)
    held, moments = needs.memory(profile, work, dry)
    moments.pop("vision")  # features are given
    times = needs.step(replace(profile, split_every=NEVER), work, dry, device)
    found = {f"{phase}_estimated": times[phase] for phase in PHASES} | {"step_estimated": sum(times.values())}
    found["memory_estimated"] = sum(held.values()) + max(moments.values())
    return found | {"vision_estimated": phases.see(dry, *work.grid).seconds(device)}


def _train(profile: Profile, work: Workload, loaded: Loaded, folder: Path, steps: int) -> None:
    """Some steps into `folder`; the base comes back without its adapter."""
    features = torch.randn(work.video, loaded.model.config.text_config.hidden_size, dtype=loaded.model.dtype)
    grid = torch.tensor([work.grid])
    rest = work.prompt - len(render(loaded.tokenizer, chat(0, 0), grid))
    rows = [{"id": f"{i}", "prompt": chat(rest, i), "video": "any"} for i in range(profile.questions_per_step)]
    adapted = Loaded(add_lora(loaded.model, profile), loaded.tokenizer, loaded.info)
    try:
        train_grpo(
            adapted,
            rows,
            [bench_grpo.reward],
            config(profile, folder, max_steps=steps, save_strategy="no"),
            lambda _: (features, grid),
            token_budget=profile.token_budget,
            split_every=profile.split_every,
        )
    finally:
        adapted.model.unload()


def _forget() -> None:
    """Free what earlier rows held and start counting peaks anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def off(row: dict, what: str) -> float:
    """How far an estimate is from what was measured, as a share of that: +0.1 is 10 % too high."""
    return row[f"{what}_estimated"] / row[f"{what}_measured"] - 1


def line(row: dict) -> str:
    """One row of the table; `!` marks an estimate that is further off than it should be."""

    def pair(what: str, unit: float, allowed: float) -> str:
        apart = off(row, what)
        mark = "!" if abs(apart) > allowed else " "
        return f"{row[f'{what}_estimated'] / unit:9.2f} {row[f'{what}_measured'] / unit:9.2f} {apart:+5.0%}{mark}"

    return (
        f"{row['profile']:10} {row['completion']:6} | {pair('memory', 2**30, MEMORY):>30} | "
        f"{pair('step', 1, TIME):>34} | {row['vision_estimated']:8.3f} {row['vision_measured']:9.3f}"
    )
