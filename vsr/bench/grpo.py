"""GRPO's step three ways on the same model, prompt and completion lengths, in one run on one thread: ours; the naive
way in our own code, features cached; TRL's trainer made to see the video in every forward."""

import tempfile
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from torch.autograd.graph import saved_tensors_hooks

from vsr import profiles
from vsr.bench.clock import now, seconds
from vsr.bench.flops import limits
from vsr.bench.naive_step import Naive
from vsr.bench.subject import Subject, machine, subject
from vsr.bench.trl_video import SeeingGRPOTrainer, Seen
from vsr.engine.inputs import Prompt, video_features
from vsr.engine.logps import group_logps
from vsr.estimate.devices import one_thread
from vsr.train.data import read_prompt
from vsr.train.group_trainer import GroupTrainer
from vsr.train.grpo import config
from vsr.train.objective import group_advantages, grpo_loss

PROMPTS, GROUPS, COMPLETIONS = (300, 1200), (4, 8, 14), (8, 64)
PHASES = ("rollout", "scoring", "update")
RANK = profiles.get("tiny").lora_r
NEVER = 1 << 30
SLOW = 20.0  # seconds


def main(prompts=PROMPTS, groups=GROUPS, completions=COMPLETIONS, repeats: int = 3) -> dict:
    """Measure the grid, print a table, return `{"machine", "model", "rows"}`: the shortest of some runs each.

    A row has `prompt`, `group`, `completion` (tokens); whole steps `ours_s`, `naive_s`, `trl_s` (vision in every
    forward) and `trl_cached_s` (features cached for it too); each one's phases as `ours_rollout_s` and so on;
    `vision_s`, what our cache saves; `lm_ours_s` and `lm_naive_s`, the language model's share of scoring and update
    (the reference's forward, the policy's forward and backward), their `lm_ratio` and `lm_flop_limit`, what it can be
    at most; `step_flop_limit` for the whole step; `saved_bytes_*`, what the policy's forward keeps for backward;
    `logp_difference`, the largest between ours and the naive way."""
    with one_thread(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        what, rows = subject(), []
        print(f"{what.name}; one question a step, {machine()['device']}, one thread\n{HEAD}", flush=True)
        for prompt in prompts:
            for group in groups:
                for completion in completions:
                    rows.append(measure(what, prompt, group, completion, repeats, Path(folder)))
                    print(line(rows[-1]), flush=True)
        return {"machine": machine(), "model": what.name, "rows": rows}


def measure(what: Subject, prompt: int, group: int, completion: int, repeats: int, folder: Path) -> dict:
    """One row of the grid."""
    row = {"prompt": prompt, "group": group, "completion": completion}
    asked = what.row(prompt)
    read = read_prompt(asked, what.tokenizer, what.see)
    row["vision_s"] = min(
        seconds(lambda: video_features(what.model, what.pixels(prompt), what.grid(prompt))) for _ in range(repeats)
    )
    ways = {"ours": _ours, "naive": _naive, "trl": _trl, "trl_cached": _trl}
    for name, way in ways.items():
        adapted = what.adapted()
        step = way(what, adapted, asked, read, group, completion, folder, cached=name != "trl")
        phases = [step()]
        while len(phases) <= repeats and sum(phases[0].values()) < SLOW:  # a slow first run needs no second
            phases.append(step())
        adapted.model.unload()
        row |= {f"{name}_{phase}_s": min(found[phase] for found in phases) for phase in PHASES}
        row[f"{name}_s"] = min(sum(found.values()) for found in phases)
    row["lm_flop_limit"], row["step_flop_limit"] = limits(what.model.config, prompt, group, completion, RANK)
    return row | _language(what, read, group, completion, repeats)


def _ours(what, adapted, asked, read, group, completion, folder, cached):
    trainer = GroupTrainer(
        adapted, [asked], [reward], _arguments(group, completion, folder), what.see,
        token_budget=NEVER, split_every=NEVER,
    )  # fmt: skip
    trainer.create_optimizer_and_scheduler(1)
    trainer.suppress = what.forbidden
    trainer.state.global_step = 1  # not a step that measures parts of the gradient
    known = {"rollout": 0.0, "scoring": 0.0}

    def timed(phase: str, method):
        def call(*args):
            started = now()
            result = method(*args)
            known[phase] = now() - started
            return result

        return call

    trainer._sample, trainer._score = timed("rollout", trainer._sample), timed("scoring", trainer._score)

    def step() -> dict[str, float]:
        total = seconds(lambda: trainer.training_step(trainer.model, [asked]))
        trainer.model.zero_grad()
        return known | {"update": total - sum(known.values())}  # with rewards and logging, as for TRL

    return step


def _trl(what, adapted, asked, read, group, completion, folder, cached):
    pixels = None if cached else what.pixels(len(read.ids))
    trainer = SeeingGRPOTrainer(
        adapted.model,
        reward,
        _arguments(group, completion, folder, generation_kwargs={"suppress_tokens": what.forbidden}),
        Dataset.from_list([{"prompt": asked["id"]}]),
        processing_class=what.tokenizer,
        seen={asked["id"]: Seen(read.ids, read.grid, pixels, read.features if cached else None)},
    )
    trainer.create_optimizer_and_scheduler(1)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    def step() -> dict[str, float]:
        before = dict(trainer.seconds)
        trainer.training_step(trainer.model, [{"prompt": asked["id"]}] * group, None)
        trainer.model.zero_grad()
        return {phase: trainer.seconds[phase] - before[phase] for phase in PHASES}

    return step


def _naive(what, adapted, asked, read, group, completion, folder, cached):
    naive = Naive(adapted.model, read, group, completion)
    generator = torch.Generator().manual_seed(0)

    def step() -> dict[str, float]:
        marks, made = {}, {}
        marks["rollout"] = seconds(lambda: made.update(ids=naive.rollout(what.forbidden, generator)))
        with torch.no_grad(), adapted.model.disable_adapter():
            marks["scoring"] = seconds(lambda: made.update(ref=naive.logps(made["ids"])))

        def update() -> None:
            rewards = torch.tensor([reward(made["ids"].tolist(), made["ids"].tolist())])
            logps = naive.logps(made["ids"])
            advantages = group_advantages(rewards)[0].to(logps)
            grpo_loss(logps, logps.detach(), made["ref"], advantages, torch.ones_like(logps), 0.2, 1e-4).backward()

        marks["update"] = seconds(update)
        adapted.model.zero_grad()
        return marks

    return step


def reward(completions, completion_ids, **_) -> list[float]:
    """Anything that differs between completions."""
    return [sum(ids) % 97 / 97 for ids in completion_ids]


def _arguments(group: int, completion: int, folder: Path, **changes):
    sizes = {"num_generations": group, "per_device_train_batch_size": group, "max_completion_length": completion}
    fixed = {"max_steps": 1, "save_strategy": "no", "activation_checkpointing": False}
    return config(profiles.get("tiny"), folder, **sizes, **fixed, **changes)


def _language(what: Subject, read: Prompt, group: int, completion: int, repeats: int) -> dict[str, float]:
    """The language model alone, ours and the naive way in turn on the same completions: seconds, bytes kept for
    backward, and how far the log-probabilities are apart."""
    model = what.adapted().model
    ids = torch.randint(7, 200, (group, completion), generator=torch.Generator().manual_seed(0))
    ways = {
        "ours": lambda: group_logps(model, read, list(ids)),
        "naive": lambda: Naive(model, read, group, completion).logps(ids),
    }
    found: dict[str, float] = {}
    logps = {}
    for name, way in ways.items():
        logps[name], found[f"saved_bytes_{name}"] = saved_bytes(model, way)
        found[f"lm_{name}_s"] = float("inf")
    for _ in range(2 * repeats):
        for name, way in ways.items():
            with torch.no_grad(), model.disable_adapter():
                spent = seconds(way)
            spent += seconds(lambda way=way: way().sum().backward())
            model.zero_grad()
            found[f"lm_{name}_s"] = min(found[f"lm_{name}_s"], spent)
    model.unload()
    found["lm_ratio"] = found["lm_naive_s"] / found["lm_ours_s"]
    return found | {"logp_difference": float((logps["ours"] - logps["naive"]).abs().max())}


def saved_bytes(model: torch.nn.Module, forward) -> tuple[torch.Tensor, int]:
    """What `forward` returns, and the bytes it saves for backward, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held.append(storage)  # so that no address is used twice
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result.detach(), sum(storages.values())


HEAD = (
    "prompt group tokens |   ours s  naive s    TRL s | x naive    x TRL  x cached (limit) "
    "| rollout scoring update x naive | language part (limit) | memory"
)


def line(row: dict) -> str:
    """One row of the table: seconds a step, then how many times faster ours is."""
    ours = row["ours_s"]
    phases = " ".join(f"{row[f'naive_{phase}_s'] / row[f'ours_{phase}_s']:7.1f}" for phase in PHASES)
    return (
        f"{row['prompt']:6} {row['group']:5} {row['completion']:6} | {ours:8.3f} {row['naive_s']:8.3f} "
        f"{row['trl_s']:8.3f} | {row['naive_s'] / ours:7.1f} {row['trl_s'] / ours:8.1f} "
        f"{row['trl_cached_s'] / ours:8.1f}  ({row['step_flop_limit']:4.1f})  | {phases}         | "
        f"{row['lm_ratio']:8.1f}      ({row['lm_flop_limit']:4.1f}) | "
        f"1/{row['saved_bytes_naive'] / row['saved_bytes_ours']:.1f}"
    )
