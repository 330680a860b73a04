"""One real group of rollouts under the microscope: sampled, rewarded, scored and learnt from by the trainer itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsr import models, runs
from vsr.engine.inputs import FeatureCache
from vsr.engine.logps import packed_logps
from vsr.errors import VsrError
from vsr.files import read_jsonl
from vsr.models import Loaded
from vsr.profiles import Profile
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.scoring import rewards
from vsr.train import grpo
from vsr.train.data import Rows
from vsr.train.objective import flat, name_of

TRIES = 20  # questions that are asked until the rollouts of one differ in reward


@dataclass(frozen=True)
class OneGroup:
    """G rollouts of `question` before and after one update on them alone: `texts`, their token ids as text (`tokens`),
    `rewards` (G, functions) by the functions' names, `total` and `advantages` (G,); log-probabilities of their tokens
    under the policy that sampled them (`before`; here the reference too) and after the update (`after`),
    both (G, longest) with `mask` 1 on a rollout's tokens; `line` is what the trainer wrote to log.jsonl."""

    question: Question
    texts: list[str]
    tokens: list[list[str]]
    names: list[str]
    rewards: Tensor
    total: Tensor
    advantages: Tensor
    before: Tensor
    after: Tensor
    mask: Tensor
    line: dict


def one_group(profile: Profile, data: QuestionSet, mode: str = "vanilla", kind: str = "", seed: int = 0) -> OneGroup:
    """The first question of `data` (of type `kind`, if given) to which the base's rollouts differ in reward, and
    one step of GRPO on it alone; nothing is kept. VsrError where no question's do."""
    base = models.load(**models.arguments("base", profile))
    see = FeatureCache(base.model, runs.data_folder() / "features", profile.frames, profile.max_pixels)
    rewarded, rows = rewards.trl_rewards(mode, profile.format_rule), Rows("grpo", data, mode, seed)
    places = [i for i, question in enumerate(data.questions) if not kind or question.question_type == kind]
    for place in places[:TRIES]:
        torch.manual_seed(seed)
        adapted = Loaded(models.add_lora(base.model, profile), base.tokenizer, base.info)
        with TemporaryDirectory() as folder:
            how = {"max_steps": 1, "per_device_train_batch_size": profile.num_generations, "num_iterations": 1}
            args = grpo.config(profile, folder, seed=seed, warmup_steps=0, save_strategy="no", **how)
            options = {"token_budget": profile.token_budget, "loss_level": profile.loss_level}
            trainer = grpo.make(adapted, [rows[place]], rewarded, args, see, **options)
            trainer.train()  # one step: nothing to resume, to stop or to follow
            (line,) = read_jsonl(Path(folder) / "log.jsonl")
        if not flat(trainer.batch.total).all():
            return _seen(data.questions[place], trainer, [name_of(one) for one in rewarded], line)
        adapted.model.unload()
    asked = f"the first {TRIES} questions" + (f" of type '{kind}'" if kind else "")
    raise VsrError(f"{data.folder}: no group of {asked} differs in reward; try another type, mode or seed")


def _seen(question: Question, trainer, names: Sequence[str], line: dict) -> OneGroup:
    batch, model = trainer.batch, trainer.accelerator.unwrap_model(trainer.model)
    (rollouts,), keys = batch.completions, [(0, i) for i in range(len(batch.texts[0]))]
    with torch.no_grad(), trainer.accelerator.autocast():
        after, _ = packed_logps(model, batch.prompts, [rollouts], temperature=trainer.args.temperature)
    before, mask = pad_sequence([row for part in batch.old for row in part], batch_first=True), batch.mask(keys)
    tokens = [[trainer.tokenizer.decode(token) for token in rollout] for rollout in rollouts]
    told = (batch.rewards[0], batch.total[0], batch.advantages[0], before, after, mask)
    return OneGroup(question, batch.texts[0], tokens, list(names), *(part.cpu() for part in told), line)
