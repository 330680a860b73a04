"""`transformers.Trainer` with GRPO's step: sample a group for each prompt, reward, score, one packed update.

The model runs through `vsr.engine`; the objective is `vsr.train.objective.grpo_loss`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import torch
from torch import LongTensor, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer
from trl import GRPOConfig

from vsr.engine.decoding import rollouts
from vsr.engine.inputs import Prompt, passes
from vsr.engine.logps import packed_logps
from vsr.files import append_jsonl
from vsr.models import Loaded, end_id, suppressed
from vsr.train import diagnostics
from vsr.train.data import See, read_prompt
from vsr.train.fit import AdapterCheckpoints
from vsr.train.gradients import Gradients
from vsr.train.objective import clipped, flat, group_advantages, grpo_loss, k3
from vsr.train.rewarding import RewardFunction, name_of, rewards_of
from vsr.train.schedule import Schedule

DECODED = 4  # times as many tokens fit in decoding, which keeps keys and values alone
Key = tuple[int, int]  # a group and one of its completions
KEPT_COMPLETIONS = 4  # a step, in completions.jsonl


@dataclass
class Batch:
    """Groups on their way through a step. `completions[g][i]` are token ids (tokens,), `texts` the same as text, both
    answering `prompts[g]`; `rewards` is (groups, G, functions), `total` their weighted sum, `advantages` (groups, G);
    `plan` lists the forward passes, `reference` and `old` the log-probabilities (tokens,) under the base model and
    under the policy that sampled."""

    rows: list[dict]
    prompts: list[Prompt]
    completions: list[list[LongTensor]]
    texts: list[list[str]]
    rewards: Tensor
    total: Tensor
    advantages: Tensor
    plan: list[list[Key]]
    reference: dict[Key, Tensor] = field(default_factory=dict)
    old: dict[Key, Tensor] = field(default_factory=dict)


class GroupTrainer(AdapterCheckpoints, Trainer):
    """See the module; `see` gives a video's features, `folder` receives log.jsonl and completions.jsonl, `on_step` each
    line of the log. A forward pass holds at most `token_budget` tokens; every `split_every`-th step measures policy
    and KL gradient apart, which costs a second backward pass."""

    def __init__(
        self,
        loaded: Loaded,
        rows: list[dict],
        reward_functions: Sequence[RewardFunction],
        args: GRPOConfig,
        see: See,
        folder: Path,
        *,
        token_budget: int,
        split_every: int = 1,
        on_step: Callable[[dict], None] | None = None,
    ):
        self.questions = args.per_device_train_batch_size // args.num_generations
        super().__init__(loaded.model, args, data_collator=list, train_dataset=Schedule(rows, args, self.questions))
        self.remove_callback(PrinterCallback)
        self.tokenizer, self.see, self.folder = loaded.tokenizer, see, folder
        self.reward_functions, self.on_step = reward_functions, on_step
        self.reward_weights = torch.tensor(args.reward_weights or [1.0] * len(reward_functions))
        self.token_budget, self.split_every = token_budget, split_every
        self.eos, self.suppress = end_id(loaded.tokenizer), suppressed(loaded.tokenizer)
        self.kinds = sorted({row["question_type"] for row in rows if "question_type" in row})
        self.batch: Batch

    def keep(self) -> None:
        """Save a checkpoint of the last whole step, if there is one and its rollouts are used up; the main process."""
        if not self.is_world_process_zero():
            return
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        if self.state.global_step % self.args.num_iterations == 0 < self.state.global_step and not folder.exists():
            self._save_checkpoint(self.model, trial=None)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Batches of questions: TRL's batch size counts completions."""
        return self._get_dataloader(self.train_dataset, "Training", self.questions, SequentialSampler, is_training=True)

    def training_step(self, model, inputs: list[dict], num_items_in_batch=None) -> Tensor:
        """Leave equation 1's gradient over the groups of `inputs` on the weights; the loss, a scalar."""
        clock, tokens = diagnostics.Clock(), {}
        model = self.accelerator.unwrap_model(model)
        if self.state.global_step % self.args.num_iterations == 0:
            self.batch = self._collect(model.eval(), inputs, clock)
            tokens["rollout"] = sum(len(c) for group in self.batch.completions for c in group)
            tokens["scoring"] = tokens["rollout"] + sum(len(prompt.ids) for prompt in self.batch.prompts)
        loss, facts = self._update(model.train(), self.batch)
        clock.mark("update")
        tokens["update"] = sum(map(len, sum(self.batch.completions, [p.ids for p in self.batch.prompts])))
        names = [name_of(function) for function in self.reward_functions]
        facts |= diagnostics.reward_facts(names, self.batch.rewards, self.batch.total)
        facts |= diagnostics.task_facts(names, self.batch.rewards, self.batch.rows, self.kinds)
        facts |= diagnostics.length_facts(self.batch.completions, self.eos) | clock.facts(tokens)
        self._write(loss, facts, self.batch)
        return loss

    def _collect(self, model, rows: list[dict], clock: diagnostics.Clock) -> Batch:
        """Sample, reward and score under the reference (at beta 0 too, where it only measures the KL)."""
        prompts = [read_prompt(row, self.tokenizer, self.see) for row in rows]
        clock.mark("vision")
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
        plan = self._plan(prompts, [[len(c) for c in group] for group in groups], ~flat(total))
        batch = Batch(rows, prompts, groups, texts, rewards, total, group_advantages(total), plan)
        clock.mark("reward")
        self._score(model, batch)
        clock.mark("scoring")
        return batch

    @torch.no_grad()
    def _score(self, model, batch: Batch) -> None:
        """Log-probabilities under the reference, which is the model without its adapter."""
        with model.disable_adapter():
            for keys in batch.plan:
                logps, _ = self._logps(model, batch, keys)
                batch.reference |= _rows(keys, logps, batch.completions)

    def _sample(self, model, prompts: list[Prompt]) -> list[list[LongTensor]]:
        """Rollouts that depend on (seed, step, place in the whole batch) alone, so that a resumed run draws what an
        unbroken one draws, and several processes what one draws."""
        first = self.args.process_index * len(prompts)
        marks = [f"{self.args.seed} {self.state.global_step} {first + place}" for place in range(len(prompts))]
        with self.accelerator.autocast():
            return rollouts(
                model,
                prompts,
                self.args.num_generations,
                self.args.max_completion_length,
                self.eos,
                self.suppress,
                temperature=self.args.temperature,
                generators=[_generator(mark) for mark in marks],
                token_budget=DECODED * self.token_budget,
            )

    def _plan(self, prompts: list[Prompt], lengths: list[list[int]], live: Tensor) -> list[list[Key]]:
        """Forward passes within the token budget; groups with and without reward spread never share one, so that
        their gradients can be told apart."""
        plan = []
        for kind in (live, ~live):
            chosen = kind.nonzero()[:, 0].tolist()
            sizes = [len(prompts[group].ids) for group in chosen], [lengths[group] for group in chosen]
            for one in passes(*sizes, self.token_budget):
                plan.append([(chosen[group], i) for group, members in one for i in members])
        return plan

    def _logps(self, model, batch: Batch, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (keys, tokens)."""
        order = list(dict.fromkeys(group for group, _ in keys))
        members = [[batch.completions[group][i] for g, i in keys if g == group] for group in order]
        with self.accelerator.autocast():
            return packed_logps(model, [batch.prompts[g] for g in order], members, temperature=self.args.temperature)

    def _update(self, model, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Add up the gradients of all passes."""
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        beta, split = self.args.beta, self.state.global_step % self.split_every == 0
        gradients = Gradients(weights, ("policy", "kl_live", "kl_flat") if split else ("live", "kl_flat"))
        means, loss = diagnostics.TokenMeans(), torch.zeros((), device=self.args.device)
        for keys in batch.plan:
            logps, entropy = self._logps(model, batch, keys)
            for key, row in _rows(keys, logps.detach(), batch.completions).items():
                batch.old.setdefault(key, row)
            old, ref, mask = (
                pad_sequence([kept[key] for key in keys], batch_first=True)
                for kept in (batch.old, batch.reference, {key: torch.ones_like(batch.old[key]) for key in keys})
            )
            advantages = torch.stack([batch.advantages[key] for key in keys]).to(logps)
            share = len(keys) / batch.advantages.numel()
            policy = share * grpo_loss(logps, old, ref, advantages, mask, self.args.epsilon, 0.0)
            kl = share * grpo_loss(logps, old, ref, torch.zeros_like(advantages), mask, self.args.epsilon, beta)
            if not advantages.any():  # equation 1 is its KL term there
                parts = {"kl_flat": kl}
            else:
                parts = {"policy": policy, "kl_live": kl} if split else {"live": policy + kl}
            loss += gradients.add({part: value for part, value in parts.items() if beta or not part.startswith("kl")})
            with torch.no_grad():
                means.add(mask, k3(logps, ref), entropy, clipped(logps, old, advantages, self.args.epsilon))
        return loss, means.facts() | gradients.finish(self.args.world_size)

    def _write(self, loss: Tensor, facts: dict[str, float], batch: Batch) -> None:
        """A line of log.jsonl, over all processes, and some completions of the first group."""
        facts = {"loss": float(loss), **facts}
        values = torch.tensor([list(facts.values())], dtype=torch.float64, device=self.args.device)
        gathered = diagnostics.over_processes(list(facts), self.accelerator.gather(values).cpu())
        if not self.is_world_process_zero():
            return
        step = self.state.global_step + 1
        line = {"step": step, "loss": gathered.pop("loss"), "learning_rate": self._get_learning_rate()}
        line |= {key: value for key, value in gathered.items() if not (key.startswith("reward/") and isnan(value))}
        append_jsonl(self.folder / "log.jsonl", line)
        for i in range(min(KEPT_COMPLETIONS, self.args.num_generations)):
            kept = {"step": step, "id": batch.rows[0]["id"], "truth": batch.rows[0].get("ground_truth")}
            kept |= {"completion": batch.texts[0][i], "reward": float(batch.total[0, i])}
            append_jsonl(self.folder / "completions.jsonl", kept | {"advantage": float(batch.advantages[0, i])})
        if self.on_step is not None:
            self.on_step(line)


def _generator(mark: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(mark.encode()).digest()[:6], "big"))


def _rows(keys: list[Key], padded: Tensor, completions: list[list[LongTensor]]) -> dict[Key, Tensor]:
    return {(g, i): row[: len(completions[g][i])] for (g, i), row in zip(keys, padded, strict=True)}
