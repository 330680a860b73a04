"""`transformers.Trainer` with GRPO's step: sample a group for each prompt, reward, score, one packed update.

The model runs through `vsr.engine`; the objective is `vsr.train.objective.grpo_loss`. A step leaves a line in
log.jsonl, under TRL's names where TRL has one, and a few of its completions to read."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, isnan
from pathlib import Path

import torch
from torch import LongTensor, Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer
from trl import GRPOConfig

from vsr.engine.decoding import rollouts
from vsr.engine.inputs import Prompt, as_number, base_model, digest, passes
from vsr.engine.logps import packed_logps, pass_budget, within
from vsr.errors import VsrError
from vsr.files import append_jsonl, fingerprint
from vsr.models import Loaded, end_id, suppressed
from vsr.models.precision import amplified
from vsr.train.data import Rows, Schedule, See, read_prompt
from vsr.train.fit import APART, AdapterTrainer, Clock, over_processes
from vsr.train.objective import (
    COUNTS,
    Gradients,
    RewardFunction,
    TokenMeans,
    clipped,
    flat,
    group_advantages,
    group_counts,
    grpo_loss,
    k3,
    name_of,
    rewards_of,
)

DECODED = 4  # times as many tokens fit in decoding, which keeps keys and values alone
GPU_SHARE = 0.8  # of a GPU's memory, that what is there and a pass's activations may fill
KEPT_COMPLETIONS = 4  # a step, in completions.jsonl
Key = tuple[int, int]  # a group and one of its completions


@dataclass
class Batch:
    """Groups on their way through a step. `completions[g][i]` are token ids (tokens,), `texts` the same as text, both
    answering `prompts[g]`; `rewards` is (groups, G, functions), `total` their weighted sum, `advantages` (groups, G);
    `plan` lists the forward passes, `reference` and `old` each pass's log-probabilities (keys, tokens) under the base
    model and under the policy that sampled, `drawn` (tokens,) those that it sampled with; `inputs` the digest of each
    prompt."""

    rows: list[dict]
    prompts: list[Prompt]
    inputs: list[str]
    drawn: list[list[Tensor]]
    completions: list[list[LongTensor]]
    texts: list[list[str]]
    rewards: Tensor
    total: Tensor
    advantages: Tensor
    plan: list[list[Key]]
    reference: list[Tensor] = field(default_factory=list)
    old: list[Tensor] = field(default_factory=list)

    def mask(self, keys: list[Key]) -> Tensor:
        """1 on the tokens of some completions, 0 beyond a completion's end, (keys, tokens)."""
        return within([len(self.completions[group][i]) for group, i in keys]).float()


class GroupTrainer(AdapterTrainer, Trainer):
    """See the module and `vsr.train.grpo.make`; `see` gives a video's features, `on_step` gets each line of the log. A
    forward pass holds at most `token_budget` tokens; every `split_every`-th step measures policy and KL gradient apart,
    which costs a second backward pass."""

    def __init__(
        self,
        loaded: Loaded,
        rows: Sequence[dict],
        reward_functions: Sequence[RewardFunction],
        args: GRPOConfig,
        see: See,
        *,
        token_budget: int,
        split_every: int = 1,
        loss_level: str = "token_mean",
        on_step: Callable[[dict], None] | None = None,
    ):
        self.questions = args.per_device_train_batch_size // args.num_generations
        size, repeat = self.questions * args.world_size, args.num_iterations
        asked = args.num_train_epochs * len(rows) / size if args.max_steps < 1 else args.max_steps / repeat
        how = {"repeat": repeat, "shuffle": args.shuffle_dataset}
        schedule = Schedule(rows, max(1, ceil(asked)), size, args.seed, **how)
        super().__init__(loaded.model, args, data_collator=list, train_dataset=schedule)
        self.remove_callback(PrinterCallback)
        self.tokenizer, self.see, self.folder = loaded.tokenizer, see, Path(args.output_dir)
        self.reward_functions, self.on_step = reward_functions, on_step
        self.reward_weights = torch.tensor(args.reward_weights or [1.0] * len(reward_functions))
        self.token_budget, self.split_every, self.budget = token_budget, split_every, token_budget
        self.loss_level, self.scale = loss_level, args.scale_rewards == "group"
        self.device_memory = self.allocated = 0
        if args.device.type == "cuda":  # as found here, the same whenever this run goes on
            self.device_memory = torch.cuda.get_device_properties(args.device).total_memory
            self.allocated = torch.cuda.memory_allocated(args.device)
        self.eos, self.suppress = end_id(loaded.tokenizer), suppressed(loaded.tokenizer)
        known = [kind for (kind,) in rows.data.questions.distinct("question_type")] if isinstance(rows, Rows) else None
        self.kinds = sorted(known or {row["question_type"] for row in rows if "question_type" in row})
        # off but in an update. The rest stays in training mode: turning it takes 2 ms a step, and bitsandbytes' int8
        # layers on a CPU round inputs in eval mode, by what is in the batch: drawn and scored would be two policies
        self.dropouts = nn.ModuleList(m for m in loaded.model.train().modules() if isinstance(m, nn.Dropout)).eval()
        self.batch: Batch
        self.drawn: list[list[Tensor]] = []  # log-probabilities of the last rollouts

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Batches of questions: TRL's batch size counts completions."""
        return self._get_dataloader(self.train_dataset, "Training", self.questions, SequentialSampler, is_training=True)

    def training_step(self, model, inputs: list[dict], num_items_in_batch=None) -> Tensor:
        """Leave equation 1's gradient over the groups of `inputs` on the weights; the loss, a scalar."""
        clock = Clock()
        model = self.accelerator.unwrap_model(model)
        # `num_iterations` steps share their rollouts; the first of them collects
        collects = self.state.global_step % self.args.num_iterations == 0
        if collects:
            self.batch = self._collect(model, inputs, clock)
        self.dropouts.train()
        loss, facts = self._update(model, self.batch)
        self.dropouts.eval()
        self.require_finite("loss", [loss], self.state.global_step + 1)
        clock.mark("update")
        sampled = sum(len(c) for group in self.batch.completions for c in group)
        read = sampled + sum(len(prompt.ids) for prompt in self.batch.prompts)
        tokens = {"rollout": sampled, "scoring": read, "update": read}
        facts |= self._apart(self.batch) if collects else {}
        facts |= self._batch_facts(self.batch) | clock.facts(tokens if collects else {"update": read})
        self._write(loss, facts, self.batch)
        return loss

    def _collect(self, model, rows: list[dict], clock: "Clock") -> Batch:
        """Sample, reward and score under the reference (at beta 0 too, where it only measures the KL)."""
        prompts = [read_prompt(row, self.tokenizer, self.see) for row in rows]
        clock.mark("vision")
        inputs, self.drawn = [digest(model, prompt) for prompt in prompts], []
        groups = self._sample(model, prompts)
        clock.mark("rollout")
        texts = [[self.tokenizer.decode(c, skip_special_tokens=True) for c in group] for group in groups]
        rewards = rewards_of(
            self.reward_functions,
            [row for row in rows for _ in range(self.args.num_generations)],
            [text for group in texts for text in group],
            [completion.tolist() for group in groups for completion in group],
        ).view(len(rows), self.args.num_generations, -1)
        total = rewards @ self.reward_weights
        self._choose_budget(model, max(len(prompt.ids) for prompt in prompts))
        plan = self._plan(prompts, [[len(c) for c in group] for group in groups], ~flat(total))
        advantages = group_advantages(total, self.scale)
        batch = Batch(rows, prompts, inputs, self.drawn, groups, texts, rewards, total, advantages, plan)
        clock.mark("reward")
        model.base_model.disable_adapter_layers()  # not `disable_adapter`, which looks through all modules first
        try:
            with torch.no_grad():
                batch.reference = [self._logps(model, batch, keys)[0] for keys in batch.plan]
        finally:
            model.base_model.enable_adapter_layers()
        clock.mark("scoring")
        return batch

    def _sample(self, model, prompts: list[Prompt]) -> list[list[LongTensor]]:
        """Rollouts that depend on (seed, step, place in the whole batch) alone, so that a resumed run draws what an
        unbroken one draws, and several processes what one draws."""
        first = self.args.process_index * len(prompts)
        marks = [f"{self.args.seed} {self.state.global_step} {first + place}" for place in range(len(prompts))]
        seeds = [int.from_bytes(hashlib.sha256(mark.encode()).digest()[:6], "big") for mark in marks]
        what = self.args.num_generations, self.args.max_completion_length, self.eos, self.suppress
        how = {"temperature": self.args.temperature, "token_budget": DECODED * self.token_budget}
        how["generators"] = [torch.Generator().manual_seed(seed) for seed in seeds]
        with self.accelerator.autocast():
            return rollouts(model, prompts, *what, **how, logps=self.drawn)

    def _choose_budget(self, model, prompt: int) -> None:
        """On a GPU with room for a pass's activations, passes of that many tokens without checkpointing. What hangs on
        a machine's memory is in which parts a sum is taken, nothing else."""
        if self.device_memory and self.args.activation_checkpointing:
            free, base = GPU_SHARE * self.device_memory - self.allocated, base_model(model)
            sizes = base.config, base.dtype.itemsize, free, self.token_budget
            self.budget, recompute = pass_budget(*sizes, least=prompt + self.args.max_completion_length)
            for layer in base.model.language_model.layers:
                layer.gradient_checkpointing = recompute

    def _plan(self, prompts: list[Prompt], lengths: list[list[int]], live: Tensor) -> list[list[Key]]:
        """Forward passes within the token budget; groups with and without reward spread never share one, so that
        their gradients can be told apart."""
        plan = []
        for kind in (live, ~live):
            chosen = kind.nonzero()[:, 0].tolist()
            sizes = [len(prompts[group].ids) for group in chosen], [lengths[group] for group in chosen]
            for one in passes(*sizes, self.budget):
                plan.append([(chosen[group], i) for group, members in one for i in members])
        return plan

    def _logps(self, model, batch: Batch, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (keys, tokens). VsrError where a prompt is not what the rollouts read."""
        order = list(dict.fromkeys(group for group, _ in keys))
        for group in order:
            if (found := digest(model, batch.prompts[group])) != batch.inputs[group]:
                what = f"question '{batch.rows[group]['id']}' was sampled on input {batch.inputs[group]}"
                raise VsrError(f"{self.folder.name}: {what}, scored on {found}; report this")
        members = [[batch.completions[group][i] for g, i in keys if g == group] for group in order]
        with self.accelerator.autocast():
            return packed_logps(model, [batch.prompts[g] for g in order], members, temperature=self.args.temperature)

    def _update(self, model, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Add up the gradients of all passes, each over some completions (K) of some groups, padded to T tokens."""
        beta, split = self.args.beta, self.state.global_step % self.split_every == 0
        # live: groups whose rewards differ; flat: those without spread, whose loss is the KL term alone
        gradients = Gradients(self.weights(), ("policy", "kl_live", "kl_flat") if split else ("live", "kl_flat"))
        means, loss = TokenMeans(), torch.zeros((), device=self.args.device)
        whole = batch.advantages.numel()
        if self.loss_level == "token":  # of all processes, whose gradients are averaged
            sampled = torch.tensor([float(sum(len(c) for group in batch.completions for c in group))])
            whole = float(self.accelerator.gather(sampled.to(self.args.device)).mean())
        for number, keys in enumerate(batch.plan):
            logps, entropy = self._logps(model, batch, keys)  # (K, T) with a graph, (K, T)
            logps = amplified(logps, self.model)
            if number == len(batch.old):
                # the first update on these rollouts is on-policy: its own log-probabilities are the sampling policy's
                batch.old.append(logps.detach())
            old, ref, mask = batch.old[number], batch.reference[number], batch.mask(keys).to(logps)  # (K, T)
            advantages = torch.stack([batch.advantages[key] for key in keys]).to(logps)  # (K,)
            # grpo_loss is a mean over the pass; its share makes the passes' sum the mean over the whole step
            share = (float(mask.sum()) if self.loss_level == "token" else len(keys)) / whole
            how = {"mask": mask, "epsilon": self.args.epsilon, "level": self.loss_level}
            policy = share * grpo_loss(logps, old, ref, advantages, beta=0.0, **how)
            kl = share * grpo_loss(logps, old, ref, torch.zeros_like(advantages), beta=beta, **how)
            if not advantages.any():  # equation 1 is its KL term there
                parts = {"kl_flat": kl}
            else:
                parts = {"policy": policy, "kl_live": kl} if split else {"live": policy + kl}
            # at beta 0 the KL term has no gradient, and differentiating it would cost a backward pass
            loss += gradients.add({part: value for part, value in parts.items() if beta or not part.startswith("kl")})
            with torch.no_grad():
                means.add(mask, k3(logps, ref), entropy, clipped(logps, old, advantages, self.args.epsilon))
        return loss, means.facts() | gradients.finish(self.args.world_size)

    def _apart(self, batch: Batch) -> dict[str, float]:
        """The largest difference between a token's log-probability when it was drawn and when it was scored, both under
        the same weights: the two are one policy only as far as it is small."""
        gaps = [
            (pad_sequence([batch.drawn[g][i] for g, i in keys], batch_first=True).to(old.device) - old).abs().max()
            for keys, old in zip(batch.plan, batch.old, strict=True)
            if batch.drawn
        ]
        return {APART: float(torch.stack(gaps).max())} if gaps else {}

    def _batch_facts(self, batch: Batch) -> dict[str, float]:
        """Rewards and lengths. A `std` is the mean over groups of the deviation within a group: what the advantages are
        made of. Every question type is there on every process, nan where this step asks none of it."""
        asked = {kind: torch.tensor([row["question_type"] == kind for row in batch.rows]) for kind in self.kinds}
        spread = {"reward": batch.total.mean(), "reward_std": batch.total.std(1).mean()}
        facts = spread | {"frac_reward_zero_std": flat(batch.total).float().mean()}
        for index, function in enumerate(self.reward_functions):
            name, part = f"rewards/{name_of(function)}", batch.rewards[..., index]  # (groups, G)
            facts |= {f"{name}/mean": part.mean(), f"{name}/std": part.std(1).mean()}
            facts |= {f"{name}/{kind}": part[rows].mean() for kind, rows in asked.items()}
        completions = [completion for group in batch.completions for completion in group]
        lengths = torch.tensor(list(map(len, completions)), dtype=torch.float32)
        facts |= {f"completions/{name}_length": getattr(lengths, name)() for name in ("mean", "min", "max")}
        cut = torch.tensor([float(completion[-1] != self.eos) for completion in completions])  # not ended by the model
        return {key: float(value) for key, value in (facts | {"completions/clipped_ratio": cut.mean()}).items()}

    def _write(self, loss: Tensor, facts: dict[str, float], batch: Batch) -> None:
        """A line of log.jsonl, over all processes, and some completions of the first group."""
        facts, gather, device = {"loss": float(loss), **facts}, self.accelerator.gather, self.args.device
        values = torch.tensor([list(facts.values())], dtype=torch.float64, device=device)
        gathered = over_processes(list(facts), gather(values).cpu())
        counts = group_counts([name_of(one) for one in self.reward_functions], batch.rewards, batch.texts)
        counts = gather(counts.to(device)).T.tolist()
        read = gather(torch.tensor([as_number(one) for one in batch.inputs], device=device)).tolist()
        if not self.is_world_process_zero():
            return
        step, read = self.state.global_step + 1, as_number(fingerprint(read))
        line = {"step": step, "loss": gathered.pop("loss"), "learning_rate": self._get_learning_rate(), "inputs": read}
        line |= {key: value for key, value in gathered.items() if not (key.startswith("rewards/") and isnan(value))}
        if counts:
            line["groups"] = {name: [round(x, 3) for x in row] for name, row in zip(COUNTS, counts, strict=True)}
        append_jsonl(self.folder / "log.jsonl", line)
        for i in range(min(KEPT_COMPLETIONS, self.args.num_generations)):
            kept = {"step": step, "id": batch.rows[0]["id"], "truth": batch.rows[0].get("ground_truth")}
            kept |= {"completion": batch.texts[0][i], "reward": float(batch.total[0, i])}
            append_jsonl(self.folder / "completions.jsonl", kept | {"advantage": float(batch.advantages[0, i])})
        if self.on_step is not None:
            self.on_step(line)
