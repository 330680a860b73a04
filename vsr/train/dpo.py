"""DPO (paper, baselines of Table 2): TRL's trainer on the right answers against wrong ones made from them."""

from pathlib import Path

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from vsr.models import Loaded
from vsr.profiles import Profile
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.train import baseline, compute
from vsr.train.baseline import Method
from vsr.train.collate import AnswerCollator, PairCollator
from vsr.train.fit import AdapterCheckpoints
from vsr.train.grpo import OnStep
from vsr.train.rejected import rejected


def run_dpo(
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
    """The run `dpo-seed<seed>`, or `dpo-compute-seed<seed>` with a `budget`: as `vsr.train.sft.run_sft`, on pairs of a
    right and a rejected answer (`vsr.train.rejected`). The reference is the model without its adapter."""
    how = {"budget": budget, "loaded": loaded, "on_step": on_step, "fresh": fresh, "deadline": deadline}
    return baseline.train(DPO, profile, data, out, seed, **how)


class VideoDPOTrainer(AdapterCheckpoints, DPOTrainer):
    """TRL's, with our checkpoints and rows left to the collator (SFTTrainer has an option for that, this one none)."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def _answers(question: Question, seed: int) -> dict[str, str]:
    return {"answer": question.ground_truth, "rejected": rejected(question, seed)}


def _trainer(profile: Profile, loaded: Loaded, rows: Dataset, collator: AnswerCollator, settings: dict) -> DPOTrainer:
    args = DPOConfig(**settings, beta=profile.dpo_beta)
    trainer = VideoDPOTrainer(loaded.model, None, args, collator, rows, processing_class=loaded.tokenizer)
    # TRL made a copy of the fresh adapter; without it the reference is the model with its adapter switched off
    loaded.model.delete_adapter("ref")
    return trainer


DPO = Method("dpo", compute.DPO, _answers, PairCollator, _trainer, lambda profile: profile.dpo_learning_rate)
