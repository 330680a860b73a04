"""One way to train: a run folder with an adapter, by vsGRPO on the engine, or by SFT or DPO with TRL's trainers.

Both baselines see GRPO's questions in GRPO's order. Equal data is their default: as many optimiser steps of as many
questions as GRPO takes. Equal compute is a `budget` of token passes: the questions come round as often as it allows.
"""

import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from vsr import models, runs
from vsr.engine.inputs import FeatureCache
from vsr.errors import VsrError, unknown
from vsr.files import as_the_umask_says, fingerprint, read_jsonl
from vsr.models import Loaded, cards
from vsr.models.adapters import adapter_hash
from vsr.profiles import Profile
from vsr.questions import leak
from vsr.questions.dataset import QuestionSet
from vsr.runs import Run, Stage
from vsr.scoring import rewards
from vsr.train.fit import APART

OnStep = Callable[[dict], None]
SHARED = (
    *models.SETTINGS,
    *("frames", "max_pixels", "lora_r", "lora_alpha", "lora_targets", "lora_dropout", "questions_per_step"),
    *("max_steps", "optim", "lr_scheduler", "warmup_steps", "weight_decay", "max_grad_norm"),
)
GRPO_ONLY = (
    *("num_generations", "temperature", "beta", "epsilon", "learning_rate", "max_completion_length", "num_iterations"),
    *("loss_level", "scale_rewards", "format_rule", "length_weight"),
)
PROBED = ("probe_every", "probe_questions")
STAGES = {
    "grpo": Stage("grpo", 2, (*SHARED, *GRPO_ONLY), free=("token_budget", "split_every", *PROBED)),
    "sft": Stage("sft", 2, (*SHARED, "sft_learning_rate")),
    "dpo": Stage("dpo", 2, (*SHARED, "dpo_learning_rate", "dpo_beta")),
}


def train(
    method: str,
    profile: Profile,
    data: QuestionSet,
    out: str | Path,
    seed: int = 0,
    *,
    mode: str = "vanilla",
    beta: float | None = None,
    budget: int | None = None,
    probe: QuestionSet | None = None,
    loaded: Loaded | None = None,
    on_step: OnStep | None = None,
    fresh: bool = False,
) -> Run:
    """The run `run_name` names in `out`: an adapter (in `adapter/`, with a model card) trained on the questions of
    `data` by `method`, 'grpo', 'sft' or 'dpo'. A finished run is returned as it is, a broken one continued to the same
    adapter.

    `mode` (grpo only) chooses prompts and rewards, `beta` (grpo only) replaces the profile's KL coefficient, `budget`
    (sft, dpo) is a number of token passes, see `token_passes`, `probe` (grpo) what a model in training is asked, see
    `vsr.train.probe`. `loaded` saves loading the base again; it comes back
    without an adapter. `on_step` gets every line of log.jsonl. Of several processes each takes its share of every
    step's questions, and the first one writes. Raises VsrError for what cannot be trained, naming setting or sample,
    and where a number is not finite; Stopped where its time was over (`vsr.workers.stop_after`)."""
    if method not in STAGES:
        raise unknown("method", method, STAGES)
    if method != "grpo" and (mode != "vanilla" or beta is not None):
        raise VsrError(f"mode={mode}, beta={beta}: they are for grpo; {method} learns the bare answer")
    if method == "grpo" and budget:
        raise VsrError(f"budget={budget}: it is for sft and dpo, which are measured against a GRPO run")
    from vsr.train import baselines, grpo
    from vsr.train.data import Rows
    from vsr.train.fit import fit
    from vsr.train.probe import Probe
    from vsr.train.trackers import Reports

    path = Path(out) / run_name(profile, method, seed, mode, beta, budget)
    ablated = "beta" if beta not in (None, profile.beta) else None
    profile = profile if beta is None else replace(profile, beta=beta)

    def rewarded(settings: runs.Settings):
        return rewards.trl_rewards(mode, settings.format_rule, with_length=settings.length_weight > 0)

    def arguments(settings: runs.Settings):
        if method != "grpo":
            return baselines.config(method, settings, path, seed=seed)
        weights = [1.0, 1.0, settings.length_weight][: len(rewarded(settings))]
        return grpo.config(settings, path, seed=seed, reward_weights=weights)

    args = arguments(STAGES[method].view(profile))  # its errors come before any work
    grpo.check_devices(args, method)
    caution = leak.check_folder(data.folder, (scene for (scene,) in data.questions.distinct("scene_name")))
    about = {
        "method": method,
        "mode": mode,
        "beta": profile.beta if method == "grpo" else None,
        "budget": budget,
        "ablated": ablated,
        "model": loaded.info if loaded else models.describe(**models.arguments("base", profile)),
    }
    profile = replace(profile, quantization=about["model"]["quantization"])  # a base may be kept quantised
    inputs = {"questions": data.questions.fingerprint()}
    main = args.process_index == 0
    with args.main_process_first(local=False):  # the one writer of the folder; the others read what it left
        if main:
            how = {"about": about, "inputs": inputs, "seed": seed, "fresh": fresh}
            run = Run.open(out, path.name, STAGES[method], profile, **how)
        else:
            run = Run.read(path, STAGES[method].view(profile))
    if run.finished:
        return run
    settings = run.settings  # from here on nothing reads a setting that the stage does not declare
    args, rows = arguments(settings), Rows(method, data, mode, seed)
    base = loaded or models.load(**models.arguments("base", settings))
    torch.manual_seed(seed)
    with _guest(base.model):
        adapted = Loaded(models.add_lora(base.model, settings), base.tokenizer, base.info)
        reports = Reports(run.path)

        def told(line: dict) -> None:
            reports.line(line)
            if on_step is not None:
                on_step(line)

        see = FeatureCache(base.model, runs.data_folder() / "features", settings.frames, settings.max_pixels)
        try:
            if method == "grpo":
                how = {name: getattr(settings, name) for name in ("token_budget", "split_every", "loss_level")}
                probed = settings.probe_questions, settings.probe_every
                trainer = grpo.make(adapted, rows, rewarded(settings), args, see, on_step=told, **how)
            else:
                trainer = baselines.make(method, settings, adapted, rows, see, args, budget=budget, on_step=told)
            probes = [Probe(trainer, probe, mode, *probed)] if probe and method == "grpo" else []
            fit(trainer, reports, *probes)
            if main:
                save_adapter(adapted.model, run.path / "adapter")
        finally:
            reports.close()
            adapted.model.unload()
            base.model.eval()
    with args.main_process_first(local=False):
        if main:
            facts = {
                "adapter": adapter_hash(run.path),
                "device": base.device_name,
                "dtype": base.info["dtype"],  # float32 where 'auto' found that float16 overflows
                "steps": trainer.args.max_steps,
                "token_passes": token_passes(run.path),
                "inputs_read": fingerprint([line.get("inputs") for line in read_jsonl(run.path / "log.jsonl")]),
                "data": profile.data,
                "base": profile.base,  # its place, for `vsr export`
                "warning": caution,
            }
            if method == "grpo":
                facts["on_policy"] = on_policy(run.path, settings.epsilon)
            cards.write(run.path, run.manifest | facts)
            run.finish(**facts)
            for checkpoint in run.path.glob("checkpoint-*"):  # not before: a run killed above goes on from them
                shutil.rmtree(checkpoint)
    return run


def run_name(
    profile: Profile,
    method: str,
    seed: int,
    mode: str = "vanilla",
    beta: float | None = None,
    budget: int | None = None,
) -> str:
    """The folder of a run: grpo-<mode>-seed<seed>, with -beta<beta> where it is not the profile's (given or None);
    <method>-seed<seed>, or <method>-compute-seed<seed> with a budget."""
    if method == "grpo":
        return f"grpo-{mode}-seed{seed}" + ("" if beta in (None, profile.beta) else f"-beta{beta:g}")
    return f"{method}-{'compute-' if budget else ''}seed{seed}"


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as safetensors; an interrupted save leaves no half folder, a full disk is a VsrError."""
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        model.save_pretrained(staging, save_embedding_layers=False)
        as_the_umask_says(staging)
        for file in staging.iterdir():  # on the disk before its name is: the checkpoints go next
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError as error:
        raise VsrError(f"{folder}: could not be written ({error}); free some space and run it again") from None


def on_policy(run: str | Path, epsilon: float) -> dict[str, float | bool | None]:
    """Whether a GRPO run may call itself on-policy: the largest difference, over its log.jsonl, between a token's
    log-probability when it was drawn and when it was scored; the bound, which would bring the ratio of equation 1 to
    its clip; and whether it holds. One that does not is said on stderr."""
    known = [line[APART] for line in read_jsonl(Path(run) / "log.jsonl") if APART in line]
    largest, bound = max(known, default=None), math.log1p(epsilon)
    holds = largest is not None and largest <= bound
    if known and not holds:
        told = f"{Path(run).name}: not on-policy: what was drawn and what was scored differ by up to {largest:.3g} nats"
        print(f"{told} a token, over {bound:.3g}; see {APART} in its log.jsonl", file=sys.stderr, flush=True)
    return {"largest": largest, "bound": bound, "holds": holds}


def token_passes(run: str | Path) -> int:
    """How much a run computed, in a unit that no machine changes: tokens passing the language model, from its
    log.jsonl. VsrError where that tells none.

    A forward pass of a token counts 1, its backward pass too, since frozen weights need no gradient of their own and
    the adapter is small. Vision is left out: every method reads the same cached features. GRPO reads prompts and
    completions once to sample, once for the reference, and updates on them; measuring gradient parts is not counted."""
    return sum(_passes(line, run) for line in read_jsonl(Path(run) / "log.jsonl"))


def _passes(line: dict, run: str | Path) -> int:
    if "token_passes" in line:
        return line["token_passes"]
    if "tokens_per_second/update" not in line:
        raise VsrError(f"{run}: step {line.get('step')} of its log tells no tokens; train it again with 'vsr train'")

    def tokens(phase: str) -> float:
        return line.get(f"tokens_per_second/{phase}", 0.0) * line.get(f"seconds/{phase}", 0.0)

    return round(2 * tokens("scoring") + 2 * tokens("update"))


@contextmanager
def _guest(model: PreTrainedModel) -> Iterator[None]:
    """Lets TRL work on `model`: the `forward` it replaces for good comes back, its use of old names is not reported."""
    before = model.__dict__.get("forward")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        model.__dict__.pop("forward", None)
        if before is not None:
            model.forward = before
