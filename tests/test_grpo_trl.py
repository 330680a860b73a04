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


DRAWN = {}  # the groups of each step: drawn anew, one that lies on the edge of two tokens would part the two for good


class OurTrainer(GroupTrainer):
    def _sample(self, model, prompts):
        shared = [torch.Generator().manual_seed(self.state.global_step)] * len(prompts)
        groups = rollouts(model, prompts, 4, 8, self.eos, self.suppress, generators=shared)
        DRAWN[self.state.global_step] = prompts, groups
        return groups


class TheirTrainer(SeeingGRPOTrainer):
    def _generate_single_turn(self, prompt_ids, *_):
        prompts, groups = DRAWN[self.state.global_step]
        assert prompt_ids == [prompt.ids.tolist() for prompt in prompts for _ in range(4)]
        return [completion.tolist() for group in groups for completion in group], None


def ours(folder, out):
    loaded = adapted(folder)
    trainer = OurTrainer(loaded, QUESTIONS, [letters], arguments(out, **SETTINGS), see, token_budget=10_000)
    trainer.train()
    return loaded


def trls(folder, out):
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
    trainer.train()
    return loaded


@pytest.mark.slow
def test_twenty_steps_equal_trl_made_to_see_the_video(tmp_path):
    folder = small_folder(tmp_path)
    before = adapter_of(adapted(folder))
    found, expected = adapter_of(ours(folder, tmp_path / "ours")), adapter_of(trls(folder, tmp_path / "trl"))
    moved = min(float((expected[name] - before[name]).norm() / expected[name].norm()) for name in expected)
    apart = max(float((found[name] - expected[name]).norm() / (expected[name] - before[name]).norm()) for name in found)
    print(f"adapters moved by {moved:.1e} or more and end {apart:.1e} apart, relative to that")
    assert moved > 0.01
    assert apart < 1e-4
