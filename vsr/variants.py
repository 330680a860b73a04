"""QLoRA variants: one training under several quantisations of the base, everything else equal.

Each has a folder of its own, `<results>/qlora/<quantisation>`, which no table or figure of the main study reads.
"""

import gc
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vsr import estimate, evaluate, models
from vsr import train as training
from vsr.errors import unknown
from vsr.files import read_json, write_json
from vsr.models.quantize import QUANTIZATIONS, held_bytes
from vsr.profiles import Profile
from vsr.progress import Counted, duration
from vsr.report.figures_variants import FOLDER, MODE, PLAN
from vsr.report.pictures import Curves
from vsr.runs import Run, Stage
from vsr.study import Study
from vsr.train import run_name
from vsr.workers.pool import Job, run_all

ESTIMATE = Stage("estimate", 1, ())


def studies(study: Study, quantizations: Sequence[str], **changes: object) -> dict[str, Study]:
    """A study for each quantisation, with `changes` to the profile that all share; an empty one (0, "") is none."""
    for name in quantizations:
        if name not in QUANTIZATIONS:
            raise unknown("quantization", name, QUANTIZATIONS)
    profile = replace(study.profile, **{key: value for key, value in changes.items() if value})
    return {n: Study(replace(profile, quantization=n), study.results / FOLDER / n) for n in quantizations}


def plan(variants: dict[str, Study]) -> dict[str, dict]:
    """What each variant is expected to need, by the dry runs of `vsr estimate`, and how large its weights are once
    loaded: the estimate.json of its run `plan`."""
    todo = [Job(n, expect, {"profile": v.profile, "out": v.results}) for n, v in variants.items()]
    run_all(todo, Counted("estimates", len(todo)))
    return {n: read_json(v.results / PLAN / "estimate.json") for n, v in variants.items()}


PLAN_HEAD = ("base", "weights", "loaded", "at most", "a step", "training", "fits")


def plan_rows(plans: dict[str, dict]) -> list[tuple[str, ...]]:
    """PLAN_HEAD's columns: weights estimated and counted, memory at the worst moment, seconds, and what to change."""
    return [
        (
            name,
            *(estimate.gib(found[size]) for size in ("weights", "loaded", "peak")),
            f"{sum(found['step'].values()):.2f} s",
            duration(found["training"]),
            "yes" if found["fits"] else "; ".join(found["changes"]),
        )
        for name, found in plans.items()
    ]


def expect(profile: Profile, out: Path) -> Run:
    """The run `plan` of one variant; nothing is trained. Its estimate.json has `peak` and `weights` (bytes), `step`
    (seconds by phase) and `training` (seconds) as estimated, `loaded` (bytes) as measured, `fits`, and `changes` that
    would make it fit."""
    arguments = models.arguments("base", profile)
    about = {"mode": MODE, "model": models.describe(**arguments), "profile": asdict(profile)}
    run = Run.open(out, PLAN, ESTIMATE, None, about=about, inputs={}, seed=profile.seed)
    if run.finished:
        return run
    found, loaded = estimate.estimate(profile, mode=MODE), models.load(**arguments)
    write_json(
        run.path / "estimate.json",
        {
            "peak": found.peak,
            "weights": found.memory["weights"],
            "loaded": held_bytes(loaded.model),
            "step": found.step,
            "training": found.seconds,
            "fits": found.fits,
            "changes": found.changes,
            "rates": found.device.source,
        },
    )
    run.finish(device=loaded.device_name)
    return run


def train(variants: dict[str, Study]) -> list[Path]:
    """vsGRPO-V of every variant and seed; the run folders. VsrError before any of them where a GPU is too small."""
    todo, names = [], []
    for variant in variants.values():
        estimate.require(variant.profile, MODE)
    for name, variant in variants.items():
        common = {"profile": variant.profile, "mode": MODE, "data": variant.train, "out": variant.results}
        todo += [Job(name, train_alone, {"seed": seed, **common}) for seed in range(variant.profile.seeds)]
        names += [f"{name}, seed {seed}" for seed in range(variant.profile.seeds)]
    folders = [job.arguments["out"] / run_name("grpo", job.arguments["seed"], MODE) for job in todo]
    steps = max(variant.profile.max_steps for variant in variants.values())
    run_all(todo, Curves(folders, steps, labels=names))
    return folders


def train_alone(**arguments: object) -> Run:
    """vsGRPO, its peak of GPU memory free of what ran before in this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return training.train("grpo", **arguments)


def evaluate_all(variants: dict[str, Study], trained: Sequence[Path]) -> dict[str, dict]:
    """The summaries of every variant's base and of its trained models, all on the same questions."""
    todo = []
    for name, variant in variants.items():
        mine = [str(run) for run in trained if run.parent == variant.results]
        common = {"bench": variant.bench, "mode": MODE, "video": "true", "profile": variant.profile}
        for model in ("base", *mine):
            arguments = {"model": model, "out": variant.results, **common}
            todo.append(Job(f"{name}, {'trained' if model in mine else 'base'}", evaluate.evaluate, arguments))
    run_all(todo, Counted("evaluations", len(todo)))
    asked = [(job.name, variants[job.name.split(",")[0]], job.arguments["model"]) for job in todo]
    return {name: variant.evaluate(MODE, "true", model) for name, variant, model in asked}
