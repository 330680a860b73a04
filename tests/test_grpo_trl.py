"""Twenty steps of our trainer and of TRL's, made to see the video, on the same rollouts: the same adapter."""

import pytest
import torch
from datasets import Dataset
from grpo_setup import ROWS, adapted, adapter_of, arguments, letters, see, small_folder

from vsr.bench.others import SeeingGRPOTrainer
from vsr.engine.decoding import rollouts
from vsr.train.data import read_prompt
from vsr.train.group_trainer import GroupTrainer

SETTINGS = {"max_steps": 20, "shuffle_dataset": False, "save_strategy": "no", "learning_rate": 3e-3, "beta": 0.1}
QUESTIONS = ROWS[:6]  # whole batches: TRL drops the rest of an epoch


class OurTrainer(GroupTrainer):
    def _sample(self, model, prompts):
        return draw(model, prompts, self)


class TheirTrainer(SeeingGRPOTrainer):
    def _generate_single_turn(self, prompt_ids, *_):
        prompts = [self._prompt_of(torch.tensor(ids)) for ids in prompt_ids[::4]]  # each stands there four times
        return [completion.tolist() for group in draw(self.model, prompts, self) for completion in group], None


def draw(model, prompts, trainer):
    """Rollouts from the step's own generator; `trainer` is ours or TRL's."""
    shared = [torch.Generator().manual_seed(trainer.state.global_step)] * len(prompts)
    found = rollouts(model.eval(), prompts, 4, 8, trainer.eos, trainer.suppress, generators=shared)
    model.train()
    return found


def ours(folder, out):
    loaded = adapted(folder)
    trainer = OurTrainer(loaded, QUESTIONS, [letters], arguments(out, **SETTINGS), see, token_budget=10_000)
    trainer.train()
    return loaded, trainer.eos, trainer.suppress


def trls(folder, out, eos, suppress):
    loaded = adapted(folder)

    def rewards(completions, ground_truth, **_):
        return letters([[{"content": text}] for text in completions], ground_truth)

    trainer = TheirTrainer(
        loaded.model,
        rewards,
        arguments(out, **SETTINGS),
        Dataset.from_list([{"prompt": row["id"], "ground_truth": row["ground_truth"]} for row in QUESTIONS]),
        processing_class=loaded.tokenizer,
        seen={row["id"]: read_prompt(row, loaded.tokenizer, see) for row in QUESTIONS},
    )
    trainer.eos, trainer.suppress = eos, suppress
    trainer.train()
    return loaded


@pytest.mark.slow
def test_twenty_steps_equal_trl_made_to_see_the_video(tmp_path):
    folder = small_folder(tmp_path)
    before = adapter_of(adapted(folder))
    our_model, eos, suppress = ours(folder, tmp_path / "ours")
    found, expected = adapter_of(our_model), adapter_of(trls(folder, tmp_path / "trl", eos, suppress))
    moved = min(float((expected[name] - before[name]).norm() / expected[name].norm()) for name in expected)
    apart = max(float((found[name] - expected[name]).norm() / (expected[name] - before[name]).norm()) for name in found)
    print(f"adapters moved by {moved:.1e} or more and end {apart:.1e} apart, relative to that")
    assert moved > 0.01
    assert apart < 1e-4
