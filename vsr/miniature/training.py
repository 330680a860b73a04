"""How the miniature is trained: every number of the recipe, the optimisers, one loop with checkpoints for both halves.

Muon for weight matrices, AdamW for the rest: at this size Muon needs about half the steps.
"""

import io
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from vsr.files import atomic_write
from vsr.miniature import RECIPE
from vsr.miniature.corpus import embeddings
from vsr.models.folders import build_config

OUTWARD, OUTWARD_SCALE = ("o_proj", "down_proj"), 0.3  # these write into the residual stream
# Jordan et al. 2024, the quintic Newton-Schulz iteration
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LARGEST = 200_000  # a larger matrix costs more to orthogonalise than it gains here
BETAS = (0.9, 0.95)


FULL = RECIPE["full"]
SMOKE = FULL | RECIPE["smoke"] | {"language": [lesson | {"steps": 1} for lesson in FULL["language"]]}


def new_model(tokens: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of the miniature's size with weights that keep the scale of what passes through them."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(RECIPE["sizes"], tokens))
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            scale = OUTWARD_SCALE if any(part in name for part in OUTWARD) else 1.0
            nn.init.normal_(p, std=scale / math.sqrt(p[0].numel()))
    table = embeddings(tokens, RECIPE["sizes"]["text"]["hidden_size"], torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
    return model


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with their singular values moved near 1."""
    a, b, c = COEFFICIENTS
    # the smaller Gram matrix is the cheaper one; x @ x.mT wants few rows
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


# torch.optim.Muon is the same update, but works in bfloat16, one matrix after another: 17 times slower on a CPU.
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
                    # Nesterov's momentum; its scale does not matter, orthogonalising takes it away
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


def keep(path: Path, step: int, modules: Mapping[str, nn.Module], optimiser: Optimiser) -> None:
    """Write a checkpoint: the modules' weights, the optimisers' state and the number of steps taken."""
    weights = {name: module.state_dict() for name, module in modules.items()}
    states = [part.state_dict() for part in optimiser.parts]
    torch.save({"step": step, "modules": weights, "optimisers": states}, buffer := io.BytesIO())
    atomic_write(path, buffer.getvalue())


def take_up(path: Path, modules: Mapping[str, nn.Module], optimiser: Optimiser) -> int:
    """Load a checkpoint into modules and optimiser; returns the steps taken, 0 without a file."""
    if not path.is_file():
        return 0
    found = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(found["modules"][name])
    for part, state in zip(optimiser.parts, found["optimisers"], strict=True):
        part.load_state_dict(state)
    return found["step"]


def fit(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimiser: Optimiser,
    ends: Mapping[int, str],
    losses: Callable[[int], dict[str, Tensor]],
    warm: int,
    plan: dict,
    log: Callable[..., None],
    ended: Callable[[int], None] = lambda end: None,
) -> None:
    """Train until the last of `ends` (steps taken at the end of each named part), from the checkpoint at `path` if it
    exists, with `warm` steps of warm-up. A step's `losses` count as the recipe says; `ended` is called with each of
    `ends`."""
    last, started = max(ends), time.monotonic()
    sums: dict[str, float] = defaultdict(float)
    for step in range(take_up(path, modules, optimiser), last):
        found = losses(step)
        loss = sum(RECIPE["losses"][name] * value for name, value in found.items())
        optimiser.step(loss, step / last, (step + 1) / warm)
        for name, value in found.items():
            sums[name] += float(value.detach()) / plan["log"]
        if (step + 1) % plan["log"] == 0:
            part = ends[min(end for end in ends if step < end)]
            told = {name: round(value, 4) for name, value in sums.items()}
            log(stage=part, step=step + 1, seconds=round(time.monotonic() - started, 1), **told)
            sums.clear()
        if (step + 1) % plan["checkpoint"] == 0 or step + 1 in ends:
            keep(path, step + 1, modules, optimiser)
        if step + 1 in ends:
            ended(step + 1)
