"""GRPO on questions about videos (paper, section 3.2): training on rows, and the study's vsGRPO-V, -T and -O."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from peft import PeftModel
from trl import GRPOConfig

from vsr import models, runs
from vsr.engine.inputs import FeatureCache
from vsr.errors import VsrError
from vsr.files import fingerprint
from vsr.models import Loaded, cards
from vsr.models.adapters import adapter_hash
from vsr.profiles import Profile
from vsr.questions import leak
from vsr.questions.dataset import QuestionSet
from vsr.questions.dataset import load as load_bench
from vsr.runs import Run, Stage
from vsr.scoring import rewards
from vsr.train import options
from vsr.train.data import See, check_rows, sample
from vsr.train.fit import fit
from vsr.train.group_trainer import GroupTrainer
from vsr.train.rewarding import RewardFunction

TOKEN_BUDGET = 1 << 14  # tokens a forward pass: 28 layers of Qwen2-VL-2B keep 1.4 GB of checkpoints for it in bf16
OnStep = Callable[[dict], None]
GRPO = Stage(
    "grpo",
    1,
    (
        *models.SETTINGS,
        *("frames", "max_pixels", "lora_r", "lora_alpha", "lora_targets", "lora_dropout", "num_generations"),
        *("temperature", "beta", "epsilon", "learning_rate", "questions_per_step", "max_steps"),
        "max_completion_length",
    ),
    free=("token_budget", "split_every"),
)


def train_grpo(
    loaded: Loaded,
    rows: list[dict],
    reward_functions: Sequence[RewardFunction],
    args: GRPOConfig,
    see: See,
    *,
    token_budget: int = TOKEN_BUDGET,
    split_every: int = 1,
    on_step: OnStep | None = None,
    deadline: float | None = None,
) -> None:
    """Train the adapter of `loaded.model` in place with GRPO.

    rows: one dict a question with `id`, `prompt` (a conversation, or text), `video` (a path or None) and the columns
    that `reward_functions` read, which have TRL's signature. args: see `vsr.train.options`; `output_dir` receives
    log.jsonl, completions.jsonl and checkpoints, and training continues from the last whole checkpoint found there,
    to the same adapter as without the break. see: features and grid of a video, e.g. `vsr.engine.FeatureCache`.
    deadline: seconds of the monotonic clock. Raises VsrError, naming the sample where one is at fault, after saving a
    checkpoint of the last whole step; Stopped where it stopped in time, see `vsr.train.fit`."""
    options.check(args)
    check_rows(rows)
    if not isinstance(loaded.model, PeftModel):
        raise VsrError("the model has no adapter: GRPO's reference is the model without it; use vsr.models.add_lora")
    if not reward_functions or len(args.reward_weights or reward_functions) != len(reward_functions):
        raise VsrError(f"{len(reward_functions)} reward functions, reward_weights={args.reward_weights}: give one each")
    folder = Path(args.output_dir)
    trainer = GroupTrainer(
        loaded,
        rows,
        reward_functions,
        args,
        see,
        folder,
        token_budget=token_budget,
        split_every=split_every,
        on_step=on_step,
    )
    try:
        fit(trainer, folder, every=args.num_iterations, deadline=deadline)
    except (VsrError, KeyboardInterrupt):
        trainer.keep()
        raise
    finally:
        loaded.model.eval()


def run_name(mode: str, seed: int, beta: float | None = None) -> str:
    """The folder of a run; `beta` None is the profile's."""
    return f"grpo-{mode}-seed{seed}" + ("" if beta is None else f"-beta{beta:g}")


def run_grpo(
    profile: Profile,
    mode: str,
    data: str | Path,
    out: str | Path,
    seed: int = 0,
    *,
    beta: float | None = None,
    loaded: Loaded | None = None,
    on_step: OnStep | None = None,
    fresh: bool = False,
    deadline: float | None = None,
) -> Run:
    """The run `grpo-<mode>-seed<seed>` (with `-beta<beta>` where it is not the profile's): vsGRPO trained with the
    prompts and rewards of `mode` on the questions and videos in folder `data`; its adapter, with a
    model card, is in `adapter/`.

    A finished run is returned as it is, a broken one continued; Stopped where `deadline` ended it. `loaded` saves
    loading the base again; it comes back without an adapter."""
    functions = rewards.trl_rewards(mode)
    if beta is not None:
        profile = replace(profile, beta=beta)
    name = run_name(mode, seed, beta)
    bench = load_bench(data)
    caution = leak.check_folder(bench.folder, (question.scene_name for question in bench.questions))
    info = loaded.info if loaded else models.describe(**models.arguments("base", profile))
    args = options.config(profile, Path(out) / name, seed=seed)  # its errors come before any work
    what = {
        "about": {"method": "grpo", "mode": mode, "model": info, "beta": profile.beta, "budget": None}
        | {"ablated": None if beta is None else "beta"},
        "inputs": {"questions": fingerprint([asdict(q) for q in bench.questions])},
    }
    with args.main_process_first(local=False):  # the one writer of the folder; the others read what it left
        main = args.process_index == 0
        run = Run.open(out, name, GRPO, profile, **what, seed=seed, fresh=fresh) if main else Run.read(Path(out) / name)
    if run.finished:
        return run
    base = loaded or models.load(**models.arguments("base", profile))
    torch.manual_seed(seed)
    adapted = Loaded(models.add_lora(base.model, profile), base.tokenizer, base.info)
    see = FeatureCache(base.model, runs.ROOT / "data" / "features", profile.frames, profile.max_pixels)
    try:
        limits = {"token_budget": profile.token_budget, "split_every": profile.split_every}
        train_grpo(adapted, rows_of(bench, mode), functions, args, see, on_step=on_step, deadline=deadline, **limits)
        if main:
            save_adapter(adapted.model, run.path / "adapter")
    finally:
        adapted.model.unload()
    with args.main_process_first(local=False):
        if main:
            _close(run, base.device_name, caution)
    return run


def _close(run: Run, device: str, caution: str | None) -> None:
    for checkpoint in run.path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    facts = {"adapter": adapter_hash(run.path), "device": device, "warning": caution}
    cards.write(run.path, run.manifest | facts)
    run.finish(**facts)


def rows_of(bench: QuestionSet, mode: str) -> list[dict]:
    """Training rows of all questions of a bench."""
    return [sample(question, bench.video_path(question.scene_name), mode) for question in bench.questions]


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as safetensors; an interrupted save leaves no half folder."""
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging, save_embedding_layers=False)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
