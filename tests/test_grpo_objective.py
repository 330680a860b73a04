"""Equation 1 by hand, and its gradient through the model by the naive way."""

import math

import pytest
import torch

from vsr.scoring import rewards
from vsr.train.objective import COUNTS, LOSS_LEVELS, clipped, flat, group_advantages, group_counts, grpo_loss, k3


def by_hand(logps, old, ref, advantages, mask, epsilon, beta, level):
    """Equation 1, one number at a time: of whole outputs as it is printed, or of their tokens."""
    parts = []
    for i in range(len(logps)):
        tokens = [t for t in range(len(logps[i])) if mask[i][t]]
        parts.append([])
        for units in [tokens] if level == "sequence" else [[t] for t in tokens]:
            ratio = math.prod(math.exp(logps[i][t]) / math.exp(old[i][t]) for t in units)
            clip = min(max(ratio, 1 - epsilon), 1 + epsilon)
            drift = math.prod(math.exp(ref[i][t]) / math.exp(logps[i][t]) for t in units)
            kl = drift - math.log(drift) - 1
            parts[-1].append(min(ratio * advantages[i], clip * advantages[i]) - beta * kl)
    if level == "token":
        return -sum(map(sum, parts)) / sum(map(len, parts))
    return -sum(sum(part) / len(part) for part in parts) / len(parts)


@pytest.mark.parametrize("level", LOSS_LEVELS)
@pytest.mark.parametrize("beta", [0.0, 1e-4, 0.3])
def test_loss_is_equation_1(beta, level):
    generator = torch.Generator().manual_seed(1)
    logps, old, ref = (-torch.rand(6, 5, generator=generator, dtype=torch.float64) * 2 for _ in range(3))
    mask = (torch.arange(5)[None] < torch.tensor([5, 1, 3, 2, 5, 4])[:, None]).double()
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    expected = by_hand(*(x.tolist() for x in (logps, old, ref, advantages, mask)), 0.2, beta, level)
    assert float(grpo_loss(logps, old, ref, advantages, mask, 0.2, beta, level)) == pytest.approx(expected, rel=1e-12)


def test_on_policy_gradient_is_the_advantage_weighted_score():
    logps = (-torch.rand(4, 3)).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5])
    fixed = logps.detach()
    grpo_loss(logps, fixed, fixed, advantages, torch.ones(4, 3), 0.2, 0.1).backward()
    torch.testing.assert_close(logps.grad, -advantages[:, None].expand(4, 3) / 12)


def test_clip_stops_the_gradient_exactly_where_it_says():
    old = torch.zeros(4, 1)
    logps = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    grpo_loss(logps, old, old, advantages, torch.ones(4, 1), 0.2, 0.0).backward()
    assert (logps.grad == 0)[:, 0].tolist() == [True, False, False, True]
    assert clipped(logps, old, advantages, 0.2)[:, 0].tolist() == [True, False, False, True]


def test_kl_is_never_negative_and_zero_only_at_the_reference():
    ref = torch.linspace(-5, 0, 101, dtype=torch.float64)
    drift = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    values = k3(ref + drift, ref)
    assert (values > -1e-15).all()
    assert ((values < 1e-12) == (drift.abs() < 1e-9)).all()


def test_advantages_have_mean_0_and_deviation_1_in_each_group():
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0], [0.1, 0.2, 0.2, 0.3]], dtype=torch.float64)
    found = group_advantages(rewards)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found.std(1), torch.ones(2, dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(group_advantages(3 * rewards[:1] - 7), found[:1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
def test_a_group_without_spread_has_no_advantage(value):
    rewards = torch.full((1, 14), value)
    assert flat(rewards).all()
    assert not group_advantages(rewards).any()


def test_rollouts_are_counted_group_by_group():
    texts = [
        ["<think>a</think><answer>2</answer>", "<think> </think><answer>2</answer>", "2"],
        ["<think>a</think><think>a</think><answer>3</answer>", "<answer>2</answer>", ""],
    ]
    form = torch.tensor([[rewards.format(text, "think") for text in group] for group in texts])
    right = torch.tensor([[1.0, 0.5, 1.0], [0.25, 1.0, 0.0]])
    counts = group_counts(["accuracy_reward", "format_reward"], torch.stack([right, form], -1), texts)
    assert dict(zip(COUNTS, counts.T.tolist(), strict=True)) == {
        "tagged": [2, 1], "tagged_accuracy": [1.5, 0.25], "shells": [1, 0], "repeats": [0, 1],
    }  # fmt: skip
    assert group_counts(["accuracy_reward"], right[..., None], texts).shape == (2, 0)
