"""One command for a GPU: what `vsr estimate` predicts beside what is measured, on Qwen2-VL-2B's shapes with random
weights, nf4 and bf16; then the tables of `vsr bench grpo` and `vsr bench eval` on the same shapes.

Nothing is downloaded: the tokenizer is the study's, whose ids fit in the real vocabulary; shapes do not depend on it.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from vsr import models, profiles
from vsr.bench import eval as bench_eval
from vsr.bench import grpo as bench_grpo
from vsr.bench.subject import NEVER, PATCH, PHASES, QWEN2_VL_2B, chat, seconds, tabulate
from vsr.engine import rollouts, slots
from vsr.engine.inputs import Prompt, video_features
from vsr.errors import VsrError
from vsr.estimate import Estimate, devices
from vsr.estimate.dryrun import Model, packed
from vsr.estimate.workload import Workload, workload
from vsr.files import read_jsonl
from vsr.models import Loaded, add_lora, end_id, suppressed
from vsr.models.folders import TINY_FOLDER, random_folder
from vsr.profiles import Profile
from vsr.prompts import render
from vsr.train.grpo import config, train_grpo
from vsr.variants import forget

PROFILES = ("qlora-2b", "paper-2b")  # nf4 and bf16
LENGTHS = (8, 128)  # tokens a completion
# the first is not timed: kernels set themselves up, and it measures the gradient's parts
STEPS = 4
MEMORY, TIME = 0.15, 0.30  # how far an estimate may be off
HEAD = (
    "profile    tokens |  GiB estimated  measured   off | s a step estimated  measured   off | vision s  measured "
    "| rollout captured plain tokens"
)


def main() -> dict:
    """Measure, print a table, return `{"machine", "model", "rows", "grpo", "eval"}`; see `measure` for a row. VsrError
    without a GPU."""
    if not torch.cuda.is_available():
        raise VsrError(
            "bench gpu: no CUDA device here; run the same command on a GPU machine. "
            "'vsr estimate --gpu NAME' predicts without one"
        )
    with tempfile.TemporaryDirectory() as folder:
        base = random_folder(Path(folder) / "base", QWEN2_VL_2B, TINY_FOLDER)
        points = (
            (profiles.get(name, base=str(base), max_completion_length=length), Path(folder) / f"{name}-{length}")
            for name in PROFILES
            for length in LENGTHS
        )
        result = tabulate("Qwen2-VL-2B's sizes", f"random weights\n{HEAD}", points, measure, line)
    return result | {"grpo": bench_grpo.main(), "eval": bench_eval.main()}


def measure(profile: Profile, folder: Path, steps: int = STEPS) -> dict:
    """One row: GRPO's step on random features of camera-sized videos, every completion as long as it may be, since
    random weights do not end an answer. `memory` bytes that PyTorch held at most, `step` and its phases and `vision` (a
    video) in seconds; each as `_estimated` and `_measured`."""
    length = profile.max_completion_length
    work = replace(workload(profile, "vanilla"), completion=length)
    forget()
    loaded = models.load(**models.arguments("base", profile))
    row = {"profile": profile.name, "quantization": profile.quantization, "prompt": work.prompt}
    row |= {"completion": length, "group": profile.num_generations, "questions": profile.questions_per_step}
    row |= {f"{what}_estimated": value for what, value in predict(work, loaded).items()}
    pixels = torch.randn(int(np.prod(work.grid)), PATCH)
    grid = torch.tensor([work.grid])
    row["vision_measured"] = seconds(lambda: video_features(loaded.model, pixels, grid), 3)
    row |= _captured(work, loaded)
    forget()
    _train(work, loaded, folder, steps)
    lines = list(read_jsonl(folder / "log.jsonl"))
    # (steps, phases)
    times = np.array([[one[f"seconds/{phase}"] for phase in PHASES] for one in lines[1:]])
    for phase, column in zip(PHASES, times.T, strict=True):
        row[f"{phase}_measured"] = float(np.median(column))
    row["step_measured"] = float(np.median(times.sum(1)))
    row["memory_measured"] = max(one["peak_memory_mb"] for one in lines) * 2**20
    return row


def predict(work: Workload, loaded: Loaded) -> dict[str, float]:
    """The estimates of a row."""
    profile, shapes = work.profile, loaded.model.config
    device = devices.this(loaded.model.dtype, shapes.text_config.hidden_size)
    # the timed steps do not measure the gradient's parts
    work = replace(work, profile=replace(profile, split_every=NEVER))
    found = Estimate(work, Model(shapes, profile), device)
    # features are given; the update keeps as much as the trainer lets it
    budget, recompute = found.budget
    longest = max(work.passes(work.completion, budget), key=sum)
    kept = packed(found.model, [(work.prompt - 1, [work.completion] * count) for count in longest], 1, recompute).peak
    worst = max(kept, found.phases["rollout"], found.phases["scoring"])
    whole = {"step": sum(found.step.values()), "memory": sum(found.memory.values()) + worst}
    return found.step | whole | {"vision": found.vision}


def _captured(work: Workload, loaded: Loaded) -> dict[str, float | bool]:
    """Seconds of a step's rollouts as CUDA graphs and as the plain loop, and whether they gave the same tokens; where
    nothing is captured (4-bit weights, no GPU) they are the same thing."""
    profile, grid = work.profile, torch.tensor([work.grid])
    features = torch.randn(work.video, loaded.model.config.text_config.hidden_size, dtype=loaded.model.dtype)
    ids = [render(loaded.tokenizer, chat(0, i), grid) for i in range(profile.questions_per_step)]
    prompts = [Prompt(one, features, grid) for one in ids]
    shape = profile.num_generations, profile.max_completion_length
    ends, found, tokens = (end_id(loaded.tokenizer), suppressed(loaded.tokenizer)), {}, []

    def sample() -> None:
        sources = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        groups = rollouts(loaded.model, prompts, *shape, *ends, generators=sources)
        tokens.append([completion.tolist() for group in groups for completion in group])

    for name, warm in (("captured", slots.WARM), ("plain", NEVER)):
        with mock.patch.object(slots, "WARM", warm):
            sample()
            found[f"rollout_{name}_s"] = seconds(sample)
    return found | {"same_tokens": tokens[0] == tokens[-1]}


def _train(work: Workload, loaded: Loaded, folder: Path, steps: int) -> None:
    """Some steps into `folder`; the base comes back without its adapter."""
    profile, grid = work.profile, torch.tensor([work.grid])
    features = torch.randn(work.video, loaded.model.config.text_config.hidden_size, dtype=loaded.model.dtype)
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


def line(row: dict) -> str:
    """One row of the table, how far an estimate is off as a share of what was measured; `!` marks what is too far."""

    def pair(what: str, unit: float, allowed: float) -> str:
        apart = row[f"{what}_estimated"] / row[f"{what}_measured"] - 1
        mark = "!" if abs(apart) > allowed else " "
        return f"{row[f'{what}_estimated'] / unit:9.2f} {row[f'{what}_measured'] / unit:9.2f} {apart:+5.0%}{mark}"

    return (
        f"{row['profile']:10} {row['completion']:6} | {pair('memory', 2**30, MEMORY):>30} | "
        f"{pair('step', 1, TIME):>34} | {row['vision_estimated']:8.3f} {row['vision_measured']:9.3f} | "
        f"{row['rollout_captured_s']:8.2f} {row['rollout_plain_s']:6.2f} {'same' if row['same_tokens'] else 'OTHER'}"
    )
