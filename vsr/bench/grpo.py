"""GRPO's step three ways on the same model, prompt and completion lengths, in one run on one thread: ours; the naive
way in our own code, features cached; TRL's trainer made to see the video in every forward.

Beside what is measured stands what dry runs of the engine count: the speed-up that sharing a prompt allows at most
(the arithmetic of a group with its shared prompt, and of each completion with its own), and what a step of decoding
launches and moves beside the least that it must move, so that a GPU's time can be read off a processor's run."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from torch.autograd.graph import saved_tensors_hooks
from transformers import Qwen2VLConfig

from vsr import profiles
from vsr.bench.others import Naive, SeeingGRPOTrainer
from vsr.bench.subject import NEVER, PHASES, Subject, now, seconds, subject, tabulate, wide
from vsr.engine.inputs import Prompt, video_features
from vsr.engine.logps import packed_logps
from vsr.estimate.dryrun import Model, decode, packed
from vsr.train.data import read_prompt
from vsr.train.group_trainer import GroupTrainer
from vsr.train.grpo import config
from vsr.train.objective import group_advantages, grpo_loss

PROMPTS, GROUPS, COMPLETIONS = (300, 1200), (4, 8, 14), (8, 64)
SLOW = 20.0  # seconds
HEAD = (
    "prompt group tokens |   ours s  naive s    TRL s | x naive    x TRL  x cached (limit) "
    "| rollout scoring update x naive | language part (limit) | memory "
    "| a decoding step: operations a layer, MB (least), MFLOP"
)


def main(prompts=PROMPTS, groups=GROUPS, completions=COMPLETIONS, repeats: int = 3) -> dict:
    """Measure the grid, print a table, return `{"machine", "model", "rows"}`: the shortest of some runs each.

    A row has `prompt`, `group`, `completion` (tokens); whole steps `ours_s`, `naive_s`, `trl_s` (vision in every
    forward) and `trl_cached_s` (features cached for it too); each one's phases as `ours_rollout_s` and so on;
    `vision_s`, what our cache saves; `lm_ours_s` and `lm_naive_s`, the language model's share of scoring and update
    (the reference's forward, the policy's forward and backward), their `lm_ratio` and `lm_flop_limit`, what it can be
    at most; `step_flop_limit` for the whole step; `saved_bytes_*`, what the policy's forward keeps for backward;
    `logp_difference`, the largest between ours and the naive way; `decode_...`, see `decoding`. `wide` has a row on
    Qwen2-VL-2B's widths where there is no GPU."""
    what, title = subject(), f"one question a step\n{HEAD}"
    with tempfile.TemporaryDirectory() as folder:
        grid = itertools.product([what], prompts, groups, completions, [repeats], [Path(folder)])
        found = tabulate(what.name, title, grid, measure, line)
        if not torch.cuda.is_available():  # Qwen2-VL-2B's widths at one point: what a processor can do in minutes
            point = (wide(), prompts[0], groups[0], completions[0], 1, Path(folder))
            found["wide"] = tabulate(point[0].name, title, [point], measure, line)["rows"]
        return found


def measure(what: Subject, prompt: int, group: int, completion: int, repeats: int, folder: Path) -> dict:
    """One row of the grid."""
    row = {"prompt": prompt, "group": group, "completion": completion}
    asked = what.row(prompt)
    read = read_prompt(asked, what.tokenizer, what.see)
    row["vision_s"] = seconds(lambda: video_features(what.model, what.pixels(prompt), what.grid(prompt)), repeats)
    ways = {"ours": _ours, "naive": _naive, "trl": _trl, "trl_cached": _trl}
    for name, way in ways.items():
        adapted = what.adapted()
        step = way(what, adapted, asked, read, group, completion, folder, cached=name != "trl")
        phases = [step()]
        # a slow first run needs no second
        while len(phases) <= repeats and sum(phases[0].values()) < SLOW:
            phases.append(step())
        adapted.model.unload()
        row |= {f"{name}_{phase}_s": min(found[phase] for found in phases) for phase in PHASES}
        row[f"{name}_s"] = min(sum(found.values()) for found in phases)
    row["lm_flop_limit"], row["step_flop_limit"] = limits(what.model.config, prompt, group, completion)
    row |= decoding(what.model.config, prompt, group, completion)
    return row | _language(what, read, group, completion, repeats)


def _ours(what, adapted, asked, read, group, completion, folder, cached):
    arguments = _arguments(group, completion, folder)
    budget = {"token_budget": NEVER, "split_every": NEVER}
    trainer = GroupTrainer(adapted, [asked], [reward], arguments, what.see, **budget)
    trainer.suppress = what.forbidden
    trainer.state.global_step = 1  # not a step that measures parts of the gradient
    return _timed(trainer, [asked], "_sample", "_logps")


def _trl(what, adapted, asked, read, group, completion, folder, cached):
    trainer = SeeingGRPOTrainer(
        adapted.model,
        reward,
        _arguments(group, completion, folder, generation_kwargs={"suppress_tokens": what.forbidden}),
        Dataset.from_list([{"prompt": asked["id"]}]),
        processing_class=what.tokenizer,
        seen={asked["id"]: read if cached else replace(read, features=None)},
        pixels=what.pixels(len(read.ids)),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return _timed(
        trainer, [{"prompt": asked["id"]}] * group, "_generate_single_turn", "_get_per_token_logps_and_entropies"
    )


def _timed(trainer, inputs: list[dict], rollout: str, logps: str):
    """A step of `trainer` that gives the seconds of its phases: rollout is what its method of that name takes, scoring
    its log-probabilities without gradient, update the rest, with rewards and logging."""
    known = {}

    def watch(phase: str, name: str) -> None:
        method = getattr(trainer, name)

        def call(*args, **kwargs):
            started = now()
            result = method(*args, **kwargs)
            # with gradient they are the update's
            if phase == "rollout" or not torch.is_grad_enabled():
                known[phase] += now() - started
            return result

        setattr(trainer, name, call)

    watch("rollout", rollout)
    watch("scoring", logps)
    trainer.create_optimizer_and_scheduler(1)

    def step() -> dict[str, float]:
        known.update(rollout=0.0, scoring=0.0)
        total = seconds(lambda: trainer.training_step(trainer.model, inputs, None))
        trainer.model.zero_grad()
        return known | {"update": total - sum(known.values())}

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
        "ours": lambda: packed_logps(model, [read], [list(ids)])[0],
        "naive": lambda: Naive(model, read, group, completion).logps(ids),
    }
    found: dict[str, float] = {}
    logps = {}
    for name, way in ways.items():
        # outside the clock: hooks slow a forward down
        logps[name], found[f"saved_bytes_{name}"] = saved_bytes(model, way)
        found[f"lm_{name}_s"] = float("inf")
    for _ in range(2 * repeats):  # in turn, so that both meet the same disturbances
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
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result.detach(), sum(storage.nbytes() for place, storage in saved.items() if place not in weights)


def limits(config: Qwen2VLConfig, prompt: int, group: int, length: int) -> tuple[float, float]:
    """Naive over shared: of scoring and update (the reference's forward, the policy's forward and backward), and of
    the whole step, where a rollout costs about a forward pass over its tokens."""
    model = Model(config, profiles.get("tiny"))
    costs = []
    for branches in (1, group):
        # a shared prompt's last token starts every branch, so its prefix has one token less
        shape = [(prompt - 1, [length] * branches)]
        scoring, update = (float(packed(model, shape, gradients).flops) for gradients in (0, 1))
        costs.append((scoring + update, 2 * scoring + update))
    (language, step), (shared_language, shared_step) = costs
    return group * language / shared_language, group * step / shared_step


def decoding(config: Qwen2VLConfig, prompt: int, group: int, length: int) -> dict[str, float]:
    """A step of decoding half-way through the completions, by a dry run: operations launched, in all and by every
    layer; bytes moved, and the least, weights and keys and values once; arithmetic."""
    model, text = Model(config, profiles.get("tiny")), config.text_config
    cost = decode(model, 1, prompt - 1, group, length // 2)
    key = 2 * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    kept = (prompt - 1 + group * (length // 2)) * key
    least = text.num_hidden_layers * (sum(model.linear) + kept) + text.vocab_size * text.hidden_size
    return {
        "decode_operations": cost.operations,
        "decode_operations_layer": float(len(cost.three.flops) - len(cost.two.flops)),
        "decode_bytes": float(cost.traffic),
        "decode_bytes_least": float(least * model.dtype.itemsize),
        "decode_flops": float(cost.flops),
    }


def line(row: dict) -> str:
    """One row of the table: seconds a step, then how many times faster ours is."""
    ours = row["ours_s"]
    phases = " ".join(f"{row[f'naive_{phase}_s'] / row[f'ours_{phase}_s']:7.1f}" for phase in PHASES)
    return (
        f"{row['prompt']:6} {row['group']:5} {row['completion']:6} | {ours:8.3f} {row['naive_s']:8.3f} "
        f"{row['trl_s']:8.3f} | {row['naive_s'] / ours:7.1f} {row['trl_s'] / ours:8.1f} "
        f"{row['trl_cached_s'] / ours:8.1f}  ({row['step_flop_limit']:4.1f})  | {phases}         | "
        f"{row['lm_ratio']:8.1f}      ({row['lm_flop_limit']:4.1f}) | "
        f"1/{row['saved_bytes_naive'] / row['saved_bytes_ours']:.1f} | {row['decode_operations_layer']:.0f}, "
        f"{row['decode_bytes'] / 1e6:.0f} ({row['decode_bytes_least'] / 1e6:.0f}), {row['decode_flops'] / 1e6:.0f}"
    )
