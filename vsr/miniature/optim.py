"""Muon for weight matrices, AdamW for the rest: at this size Muon needs about half the steps."""

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, the quintic Newton-Schulz iteration
LARGEST = 200_000  # a larger matrix costs more to orthogonalise than it gains here
BETAS = (0.9, 0.95)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with their singular values moved near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape are taken together."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                    mean.mul_(group["momentum"]).add_(p.grad)
                    shapes.setdefault(p.shape, []).append((p, p.grad + group["momentum"] * mean))
            for shape, pairs in shapes.items():
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonal(torch.stack([update for _, update in pairs]))
                for (p, _), update in zip(pairs, updates, strict=True):
                    p.add_(update, alpha=-group["lr"] * scale)


class Optimiser:
    """Both optimisers under one schedule: warm-up, level, linear decay over the last `decay` of all steps."""

    def __init__(self, inner: list[nn.Module], outer: list[nn.Parameter], muon: float, adam: float, decay: float):
        """`inner`: modules whose matrices Muon trains; `outer`: parameters that AdamW trains, as it does vectors."""
        parameters = [p for module in inner for p in module.parameters()]
        matrices = [p for p in parameters if p.ndim == 2 and p.numel() <= LARGEST]
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen] + outer
        self.all = matrices + rest
        self.parts = [Muon(matrices, muon), torch.optim.AdamW(rest, adam, betas=BETAS, weight_decay=0.0)]
        self.rates, self.decay = (muon, adam), decay

    def step(self, loss: Tensor, done: float, warm: float) -> None:
        """One update; `done` in [0, 1) is the share of all steps taken, `warm` in [0, 1] that of the warm-up."""
        factor = min(warm, 1.0) * max(0.03, min(1.0, (1 - done) / self.decay))
        for part, rate in zip(self.parts, self.rates, strict=True):
            part.param_groups[0]["lr"] = rate * factor
            part.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.all, 5.0)
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        return {
            f"{part}.{index}.{name}": value
            for part, optimiser in enumerate(self.parts)
            for index, entry in optimiser.state_dict()["state"].items()
            for name, value in entry.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state written by `tensors`."""
        for part, optimiser in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, index, name = key.split(".", 2)
                if int(owner) == part:
                    state.setdefault(int(index), {})[name] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
