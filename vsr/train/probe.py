"""Answers sampled at temperature 1: how they spread, of a base or, every few steps, of a model in training."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from vsr import runs
from vsr.engine.decoding import rollouts
from vsr.engine.inputs import FeatureCache, Prompt, base_model
from vsr.files import append_jsonl, read_jsonl
from vsr.models import Loaded, end_id, read, suppressed
from vsr.paper import TRAINED
from vsr.profiles import Profile
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.scoring import Sampled, score, task_of
from vsr.scoring.answers import final_answer
from vsr.train.data import Rows, read_prompt
from vsr.train.group_trainer import DECODED, GroupTrainer

SAMPLES = 14  # answers a question, as many as GRPO's rollouts
LOG = "probe.jsonl"


@torch.no_grad()
def sampled(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    longest: int,
    seed: int,
    token_budget: int = 1 << 16,
    temperature: float = 1.0,
) -> list[list[str]]:
    """SAMPLES answers to each prompt; the draws hang on `seed` alone, so that two models are asked alike."""
    generators = [torch.Generator().manual_seed(seed * len(prompts) + i) for i in range(len(prompts))]
    ends = end_id(tokenizer), suppressed(tokenizer)
    how = {"generators": generators, "token_budget": token_budget, "temperature": temperature}
    found = rollouts(model, prompts, SAMPLES, longest, *ends, **how)
    return [[read(tokenizer, answer.tolist()) for answer in group] for group in found]


def spread(asked: Sequence[Question], texts: list[list[str]]) -> dict[str, dict[str, float]]:
    """By task and over the trained six, in percent: the mean score of an answer, of the most frequent one and of the
    best one of each question's group. Between the first and the last lies what reinforcement can use."""
    found: dict[str, list] = defaultdict(list)
    for question, group in zip(asked, texts, strict=True):
        scores = [score(question, text) for text in group]
        # thoughts hardly ever agree, answers do
        most = Counter(map(final_answer, group)).most_common(1)[0][0]
        found[task_of(question.question_type)].append((np.mean(scores), score(question, most), max(scores)))
    tasks = {task: np.mean(rows, axis=0) for task, rows in sorted(found.items())}
    tasks |= {"trained": np.mean(list(tasks.values()), axis=0)}
    names = [f"{what}@{SAMPLES}" for what in ("mean", "maj", "best")]
    rows = ((task, [round(100 * float(number), 1) for number in row]) for task, row in tasks.items())
    return {task: dict(zip(names, row, strict=True)) for task, row in rows}


def ask(model: Loaded, data: QuestionSet, profile: Profile, mode: str = "vanilla", number: int = 60) -> Sampled:
    """SAMPLES answers at the training's temperature to `number` questions, as many of each trained task, under the
    prompt of training."""
    rows, places = Rows("grpo", data, mode), chosen(data, number)
    see = FeatureCache(base_model(model.model), runs.data_folder() / "features", profile.frames, profile.max_pixels)
    prompts = [read_prompt(rows[i], model.tokenizer, see) for i in places]
    how = {"token_budget": DECODED * profile.token_budget, "temperature": profile.temperature}
    texts = sampled(model.model, model.tokenizer, prompts, profile.max_completion_length, 0, **how)
    return Sampled.of([data.questions[i] for i in places], texts)


def chosen(data: QuestionSet, number: int) -> list[int]:
    """The places of `number` questions, drawn once and for all, as many of each trained task."""
    by_task: dict[str, list[int]] = defaultdict(list)
    kinds = [task_of(question.question_type) for question in data.questions]
    for i in np.random.default_rng(0).permutation(len(kinds)).tolist():
        by_task[kinds[i]].append(i)
    return [i for task in TRAINED for i in by_task[task][: max(1, number // len(TRAINED))]]


class Probe(TrainerCallback):
    """Before the first step, every `every` steps and after the last one, a line of probe.jsonl with the `spread` of
    `number` fixed questions of `data`, as many of each trained task; the main process. Nothing of the training hangs
    on it: its draws are its own."""

    def __init__(self, trainer: GroupTrainer, data: QuestionSet, mode: str, number: int, every: int):
        rows, places = Rows("grpo", data, mode), chosen(data, number)
        self.trainer, self.every = trainer, every
        self.asked = [data.questions[i] for i in places]
        self.prompts = [read_prompt(rows[i], trainer.tokenizer, trainer.see) for i in places]

    def on_train_begin(self, args, state, control, **_):
        """The base; or what a training that goes on was interrupted at."""
        path = Path(args.output_dir) / LOG
        if state.global_step not in {row["step"] for row in (read_jsonl(path) if path.is_file() else ())}:
            self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **_):
        """The model as it is after this step."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(state)

    def _measure(self, state) -> None:
        if not state.is_world_process_zero:
            return
        args, model = self.trainer.args, self.trainer.accelerator.unwrap_model(self.trainer.model)
        how = args.max_completion_length, args.seed, DECODED * self.trainer.token_budget
        with self.trainer.accelerator.autocast():
            texts = sampled(model, self.trainer.tokenizer, self.prompts, *how)
        append_jsonl(Path(args.output_dir) / LOG, {"step": state.global_step, "tasks": spread(self.asked, texts)})
