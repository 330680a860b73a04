"""Gradients of the parts of a loss: how much of a step each carries."""

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


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
