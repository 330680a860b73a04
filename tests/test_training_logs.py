"""Training logs: what a step writes by task, and curves, seeds and ablations read back from run folders."""

import torch

from vsr.train.diagnostics import task_facts


# --- writing ---
def test_rewards_are_told_apart_by_question_type():
    rewards = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]])  # 2 groups, 2 completions, 2 rewards
    rows = [{"question_type": "a"}, {"question_type": "b"}]
    facts = task_facts(["accuracy", "format"], rewards, rows, ["a", "b", "c"])
    assert facts["reward/accuracy/a"] == 0.5
    assert facts["reward/format/b"] == 0.5
    assert facts["reward/accuracy/b"] == facts["reward/format/a"] == 1
    assert facts["reward/accuracy/c"] != facts["reward/accuracy/c"]  # nan: not asked
