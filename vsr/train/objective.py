"""Equation 1 of the paper, as short as it is printed, the gradients of its parts, and the rewards it is made of.

As printed, its ratio and its KL term are those of whole answers, pi(o_i | q), averaged over the group:

    1/G sum_i [ min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i) - beta D_KL ],  r_i = pi(o_i | q) / pi_old(o_i | q)

That is `loss_level` 'sequence'. Our reading, 'token_mean', is GRPO's and R1-V's: the same for every token, averaged
over an answer's tokens, then over the group. They part where answers differ in length: as printed, a long answer moves
the policy in proportion to its tokens. 'token' is DAPO's: the mean over all tokens of a step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from vsr.errors import VsrError
from vsr.profiles import CHOICES
from vsr.scoring.rewards import is_shell, repeats_tags

SPREAD_FLOOR = 1e-4  # TRL's, added to the standard deviation; the paper divides by the deviation alone
COUNTS = ("tagged", "tagged_accuracy", "shells", "repeats")  # of a step's groups, in log.jsonl
FLAT = 1e-6  # rewards that spread less than this are equal
LOSS_LEVELS = CHOICES["loss_level"]
RewardFunction = Callable[..., Sequence[float]]


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """A_i = (r_i - mean r) / std r within each group: rewards (groups, G) -> (groups, G), all 0 without spread; without
    `scale` the difference alone (Dr. GRPO).

    The deviation is the unbiased one (G - 1), as in TRL."""
    centred = rewards - rewards.mean(1, keepdim=True)
    scaled = centred / (rewards.std(1, keepdim=True) + SPREAD_FLOOR) if scale else centred
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
    level: str = "token_mean",
) -> Tensor:
    """Minus equation 1: log-probabilities (sequences, tokens) under policy, sampling policy and reference, `advantages`
    (sequences,), `mask` (sequences, tokens) 1 on a completion's tokens -> a scalar.

    `level` is one of LOSS_LEVELS; all groups have equally many sequences, so a mean over them is one over groups."""
    if level == "sequence":  # an answer's log-probability is the sum of its tokens'
        logps, old_logps, ref_logps = ((part * mask).sum(1, keepdim=True) for part in (logps, old_logps, ref_logps))
        mask = torch.ones_like(logps)
    ratio = (logps - old_logps).exp()
    advantages = advantages[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    objective = (surrogate - beta * k3(logps, ref_logps)) * mask
    if level == "token":
        return -objective.sum() / mask.sum()
    return -(objective.sum(1) / mask.sum(1)).mean()


class Gradients:
    """Gradients of named `parts` of the loss, added up over passes; their sum becomes the weights' gradient."""

    def __init__(self, weights: list[Tensor], parts: tuple[str, ...]):
        self.weights = weights
        self.parts = {part: [torch.zeros_like(weight) for weight in weights] for part in parts}

    def add(self, losses: dict[str, Tensor]) -> float:
        """Differentiate the losses of one pass, by part; their sum."""
        left = list(losses)
        for part in losses:
            left.remove(part)
            found = torch.autograd.grad(losses[part], self.weights, retain_graph=bool(left))
            for total, gradient in zip(self.parts[part], found, strict=True):
                total += gradient
        return sum(float(loss.detach()) for loss in losses.values())

    def finish(self, processes: int) -> dict[str, float]:
        """Set the weights' gradients, averaged over processes, and return the norm of every part and of the sum."""
        for weight, *parts in zip(self.weights, *self.parts.values(), strict=True):
            weight.grad = sum(parts[1:], parts[0])
            if processes > 1:  # the engine goes past DistributedDataParallel's forward, so its reducer never runs
                torch.distributed.all_reduce(weight.grad, torch.distributed.ReduceOp.AVG)
        norms = {f"grad_norm/{part}": float(get_total_norm(found)) for part, found in self.parts.items()}
        return norms | {"grad_norm": float(get_total_norm([weight.grad for weight in self.weights]))}


@dataclass
class TokenMeans:
    """Sums over completion tokens, added up pass by pass."""

    tokens: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0

    def add(self, mask: Tensor, kl: Tensor, entropy: Tensor, clipped: Tensor) -> None:
        """All (sequences, tokens)."""
        self.tokens += float(mask.sum())
        self.kl += float((kl * mask).sum())
        self.entropy += float((entropy * mask).sum())
        self.clipped += float((clipped * mask).sum())

    def facts(self) -> dict[str, float]:
        """Means over tokens: KL and entropy in nats, the share of tokens whose gradient the clip stopped."""
        names = {"kl": self.kl, "entropy": self.entropy, "clip_ratio/region_mean": self.clipped}
        return {name: value / self.tokens for name, value in names.items()}


def group_counts(names: Sequence[str], rewards: Tensor, texts: Sequence[Sequence[str]]) -> Tensor:
    """COUNTS of every group (groups, 4), of `rewards` (groups, G, functions) and `texts`: how many rollouts have the
    format, what accuracy these earned in sum, how many are empty shells, how many repeat their tags. Claims 8 and 9
    count all rollouts, group by group. (groups, 0) where nothing rewards the format."""
    if not {"format_reward", "accuracy_reward"} <= set(names):
        return rewards.new_zeros(len(rewards), 0)
    tagged, right = (rewards[..., names.index(f"{part}_reward")] for part in ("format", "accuracy"))
    said = [[[float(test(text)) for text in group] for group in texts] for test in (is_shell, repeats_tags)]
    return torch.stack([part.sum(1) for part in (tagged, tagged * right, *rewards.new_tensor(said))], dim=1)


def name_of(function: RewardFunction) -> str:
    """How logs and errors call a reward function."""
    return getattr(function, "__name__", type(function).__name__)


def rewards_of(
    functions: Sequence[RewardFunction], rows: list[dict], completions: list[str], completion_ids: list[list[int]]
) -> Tensor:
    """Rewards (completions, functions): `rows[i]` is the sample that `completions[i]` answers.

    Functions take `prompts, completions, completion_ids` and every other column of the rows, as in TRL; conversational
    prompts give conversational completions. One that raises, or gives anything but a finite number for each completion,
    is a VsrError naming function and sample."""
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    given = [
        c if isinstance(row["prompt"], list) else text for c, text, row in zip(chats, completions, rows, strict=True)
    ]
    inputs = {"prompts": [row["prompt"] for row in rows], "completions": given, "completion_ids": completion_ids}
    inputs |= {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    scores = []
    for function in functions:
        try:
            values = function(**inputs)
        except Exception as error:
            raise VsrError(
                f"reward '{name_of(function)}' failed on sample '{_culprit(function, inputs, rows)}': "
                f"{type(error).__name__}: {error}"
            ) from error
        if len(values) != len(rows):
            raise VsrError(f"reward '{name_of(function)}' gave {len(values)} values for {len(rows)} completions")
        for value, row, text in zip(values, rows, completions, strict=True):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise VsrError(
                    f"reward '{name_of(function)}' gave {value!r}, not a finite number, for sample '{row['id']}' "
                    f"and completion {text[:80]!r}"
                )
        scores.append(list(values))
    return torch.tensor(scores, dtype=torch.float32).T


def _culprit(function: RewardFunction, inputs: dict[str, list], rows: list[dict]) -> str:
    """The first sample on which the function fails alone; all of them if it fails only on the batch."""
    for index, row in enumerate(rows):
        try:
            function(**{key: values[index : index + 1] for key, values in inputs.items()})
        except Exception:
            return row["id"]
    return ", ".join(dict.fromkeys(row["id"] for row in rows))
