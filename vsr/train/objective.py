"""Equation 1 of the paper, as short as it is printed. Pure functions of tensors."""

import torch
from torch import Tensor

SPREAD_FLOOR = 1e-4  # TRL's, added to the standard deviation; the paper divides by the deviation alone
FLAT = 1e-6  # rewards that spread less than this are equal


def group_advantages(rewards: Tensor) -> Tensor:
    """A_i = (r_i - mean r) / std r within each group: rewards (groups, G) -> (groups, G), all 0 without spread.

    The deviation is the unbiased one (G - 1), as in TRL."""
    scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + SPREAD_FLOOR)
    return scaled.masked_fill(flat(rewards)[:, None], 0.0)


def flat(rewards: Tensor) -> Tensor:
    """Which groups (groups,) have no spread in `rewards` (groups, G), hence no policy gradient."""
    return rewards.std(1) < FLAT


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Per-token D_KL(policy || reference) = pi_ref/pi - log(pi_ref/pi) - 1, never negative."""
    log_ratio = ref_logps - logps
    return log_ratio.exp() - log_ratio - 1


def clipped(logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """Where the clip stops the gradient: booleans (sequences, tokens)."""
    ratio, sign = (logps - old_logps).exp(), advantages[:, None].sign()
    return ((ratio > 1 + epsilon) & (sign > 0)) | ((ratio < 1 - epsilon) & (sign < 0))


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float,
    beta: float,
) -> Tensor:
    """Minus equation 1: log-probabilities (sequences, tokens) under policy, sampling policy and reference, `advantages`
    (sequences,), `mask` (sequences, tokens) 1 on a completion's tokens -> a scalar.

    Mean over a sequence's tokens, then over sequences, which all groups have in equal number."""
    ratio = (logps - old_logps).exp()
    advantages = advantages[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    objective = surrogate - beta * k3(logps, ref_logps)
    return -((objective * mask).sum(1) / mask.sum(1)).mean()
