"""The language stages: questions about rooms whose video tokens are known, the vision tower at rest."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from vsr.engine.decoding import answer_many
from vsr.miniature.corpus import Corpus
from vsr.miniature.language import GRID, Objective, Packer
from vsr.miniature.optim import Optimiser
from vsr.miniature.recipe import Plan, Stage
from vsr.miniature.state import keep, take_up
from vsr.models import suppressed
from vsr.questions.question import Question
from vsr.scoring import score
from vsr.scoring.answers import final_answer

WEIGHTS = {
    "answer": 1.0,
    "retrieve": 0.3,
    "collect": 0.3,
    "found": 2.0,
    "counted": 0.3,
    "inside": 2.0,
    "derived": 1.0,
    "choose": 0.3,
}
WARM = 50
ANSWER_TOKENS = 3


class Talking:
    """What all language stages share. `features` (rooms, video tokens, D); the last `plan.held` rooms are for gates."""

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, packer: Packer, corpus: Corpus, features: Tensor, plan: Plan
    ):
        self.model, self.packer, self.corpus, self.features, self.plan = model, packer, corpus, features, plan
        self.objective = Objective(model, packer.tokenizer, packer.video)
        text = model.model.language_model
        outer = [model.get_input_embeddings().weight, *self.objective.parameters()]
        self.optimiser = Optimiser([text.layers, text.norm], outer, plan.language_muon, plan.language_adam, plan.decay)
        self.modules = {"model": model, "probes": self.objective.probes}

    def train(self, seed: int, path: Path, log: Callable[..., None], gate: Callable[[Stage], None]) -> None:
        """All stages, from the checkpoint at `path` if there is one; `gate` is called at the end of each."""
        plan = self.plan
        done, state = take_up(path, self.modules)
        self.optimiser.restore(state)
        ends = np.cumsum([stage.steps for stage in plan.language])
        sums: dict[str, float] = defaultdict(float)
        started = time.monotonic()
        for step in range(done, ends[-1]):
            stage = plan.language[int(np.searchsorted(ends, step, side="right"))]
            losses = self._losses(stage, np.random.default_rng([seed, 2, step]))
            loss = sum(WEIGHTS[name] * value for name, value in losses.items())
            self.optimiser.step(loss, step / ends[-1], (step + 1) / WARM)
            for name, value in losses.items():
                sums[name] += float(value.detach()) / plan.log
            if (step + 1) % plan.log == 0:
                told = {name: round(value, 4) for name, value in sums.items()}
                log(stage=stage.name, step=step + 1, seconds=round(time.monotonic() - started, 1), **told)
                sums.clear()
            ended = step + 1 in ends
            if (step + 1) % plan.checkpoint == 0 or ended:
                keep(path, step + 1, self.modules, self.optimiser.tensors())
            if ended:
                gate(stage)

    def _losses(self, stage: Stage, rng: np.random.Generator) -> dict[str, Tensor]:
        rooms = rng.integers(len(self.features) - self.plan.held, size=self.plan.rooms_per_step)
        count = range(self.plan.questions_per_room)
        asked = [[self.corpus.item(room, stage.weights, stage.tags, rng) for _ in count] for room in rooms]
        return self.objective(self.packer.pack(rooms, asked, self.features[torch.from_numpy(rooms)]))

    @torch.no_grad()
    def exam(self, weights: Mapping[str, float], shuffled: bool = False) -> dict[str, float]:
        """Mean score in percent by kind of question on the held-out rooms, with their own or with the next one's
        video."""
        rng = np.random.default_rng(0)
        held = range(len(self.features) - self.plan.held, len(self.features))
        end = self.model.config.text_config.eos_token_id
        scores = defaultdict(list)
        for number, room in enumerate(held):
            shown = held[(number + 1) % len(held)] if shuffled else room
            kinds = [kind for kind in weights if kind in self.corpus.drafts[room]]
            items = [self.corpus.item(room, {kind: 1.0}, 0.0, rng) for kind in kinds]
            prompts = [self.packer.prompt(item) for item in items]
            told = answer_many(
                self.model, None, GRID, prompts, ANSWER_TOKENS, end, suppressed(self.packer.tokenizer),
                features=self.features[shown],
            )  # fmt: skip
            for kind, item, ids in zip(kinds, items, told, strict=True):
                text = self.packer.tokenizer.decode(ids, skip_special_tokens=True)
                scores[kind].append(_score(item.response, text))
        return {kind: round(100 * float(np.mean(found)), 1) for kind, found in scores.items()}


def _score(truth: str, text: str) -> float:
    kind = "object_abs_distance" if truth[0].isdigit() else "object_rel_direction"
    return score(Question("", "", "", kind, "", None, truth), final_answer(text))
