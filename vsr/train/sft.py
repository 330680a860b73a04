"""SFT (paper, baselines of Table 2: "on VSI-100k directly"): TRL's trainer on the right answers."""

from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from vsr.models import Loaded
from vsr.profiles import Profile
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.train import baseline, compute
from vsr.train.baseline import Method
from vsr.train.collate import AnswerCollator
from vsr.train.fit import AdapterCheckpoints
from vsr.train.grpo import OnStep


def run_sft(
    profile: Profile,
    data: QuestionSet,
    out: str | Path,
    seed: int = 0,
    *,
    budget: int | None = None,
    loaded: Loaded | None = None,
    on_step: OnStep | None = None,
    fresh: bool = False,
    deadline: float | None = None,
) -> Run:
    """The run `sft-seed<seed>`: an adapter (in `adapter/`) trained on the answers to the questions of `data`, the very
    questions that GRPO is asked with that seed, in the same order and number.

    With `budget`, in token passes (`compute.token_passes` of a GRPO run), it is `sft-compute-seed<seed>` and trains for
    as long as GRPO computed. A finished run is returned as it is, a broken one continued to the same adapter. `loaded`
    saves loading the base again; it comes back without an adapter. `on_step` gets every line of log.jsonl. A video that
    cannot be read is a VsrError naming the sample; Stopped where `deadline` (monotonic seconds) ended it."""
    how = {"budget": budget, "loaded": loaded, "on_step": on_step, "fresh": fresh, "deadline": deadline}
    return baseline.train(SFT, profile, data, out, seed, **how)


class VideoSFTTrainer(AdapterCheckpoints, SFTTrainer):
    """TRL's, with our checkpoints."""


def _answers(question: Question, seed: int) -> dict[str, str]:
    return {"answer": question.ground_truth}


def _trainer(profile: Profile, loaded: Loaded, rows: Dataset, collator: AnswerCollator, settings: dict) -> SFTTrainer:
    args = SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})
    return VideoSFTTrainer(loaded.model, args, collator, rows, processing_class=loaded.tokenizer)


SFT = Method("sft", compute.SFT, _answers, AnswerCollator, _trainer, lambda profile: profile.sft_learning_rate)
