"""The vision stage: views of rooms -> dense labels, until the tokens tell what stands where."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.labels import VALUES, Labels, presence
from vsr.miniature.optim import Optimiser
from vsr.miniature.recipe import Plan
from vsr.miniature.rooms import Rooms
from vsr.miniature.state import keep, take_up
from vsr.miniature.vision import Heads, encode, pixels_of

BRIGHTNESS, TINT, NOISE = 0.08, 6.0, 2.0  # of a view's channels (factor and offset), and of its pixels
VALUES_WEIGHT = 2.0
WARM = 100


class Seeing(nn.Module):
    """The vision tower with its read-outs and the categories' words."""

    def __init__(self, visual: nn.Module, width: int):
        super().__init__()
        self.visual, self.heads = visual, Heads(width)
        self.words = nn.Parameter(torch.randn(len(CATALOGUE), width) * 0.06)


class Views:
    """Frames and labels by room and heading."""

    def __init__(self, rooms: Rooms, labels: Labels):
        self.frames = torch.from_numpy(rooms.frames)
        self.count, self.views = self.frames.shape[:2]
        self.per_view = labels.tokens // self.views
        self.labels = labels
        self.present = presence(labels, len(CATALOGUE)).view(self.count, self.views, self.per_view, -1)

    def losses(self, seeing: Seeing, frames: Tensor, room: Tensor, view: Tensor) -> dict[str, Tensor]:
        """Losses on `frames` (M, H, W, 3) of rooms (M,) at headings (M,), and what the gates need."""
        tokens = encode(seeing.visual, pixels_of(frames))
        truth = self.present[room, view].to(tokens).clamp(max=1)
        logits = seeing.heads.presence(tokens, seeing.words)
        here = self.labels.home[room]
        mine = (here >= 0) & (here // self.per_view == view[:, None])
        at, slot = mine.nonzero(as_tuple=True)
        token = tokens[at, here[at, slot] % self.per_view]
        read = seeing.heads.values(token, seeing.words[self.labels.kind[room[at], slot]])
        values = self.labels.values[room[at], slot]
        walls = self.labels.walls[room, view]
        faced = ~walls.isnan()
        told = seeing.heads.walls(seeing.heads.norm(tokens)).mean(1)
        return {
            "presence": F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum((1, 2)).mean(),
            "values": F.smooth_l1_loss(read, values, beta=0.1),
            "walls": F.smooth_l1_loss(told[faced], walls[faced], beta=0.1),
            "hits": ((logits > 0) & (truth > 0)).sum(),
            "claims": (logits > 0).sum() + (truth > 0).sum(),
            "errors": (read - values).abs().mean(0),
        }


def train(seeing: Seeing, views: Views, plan: Plan, seed: int, path: Path, log: Callable[..., None]) -> None:
    """Train for the plan's vision steps, from the checkpoint at `path` if there is one."""
    optimiser = Optimiser([seeing], [], plan.vision_muon, plan.vision_adam, decay=0.5)
    done, state = take_up(path, {"seeing": seeing})
    optimiser.restore(state)
    started = time.monotonic()
    for step in range(done, plan.vision_steps):
        rng = np.random.default_rng([seed, 1, step])
        room = torch.from_numpy(rng.integers(views.count - plan.held, size=plan.views))
        view = torch.from_numpy(rng.integers(views.views, size=plan.views))
        losses = views.losses(seeing, disturbed(views.frames[room, view], rng), room, view)
        loss = losses["presence"] + VALUES_WEIGHT * losses["values"] + losses["walls"]
        optimiser.step(loss, step / plan.vision_steps, (step + 1) / WARM)
        if (step + 1) % plan.log == 0:
            told = {name: round(float(losses[name].detach()), 4) for name in ("presence", "values", "walls")}
            log(stage="see", step=step + 1, seconds=round(time.monotonic() - started, 1), **told)
        if (step + 1) % plan.checkpoint == 0 or step + 1 == plan.vision_steps:
            keep(path, step + 1, {"seeing": seeing}, optimiser.tensors())


def disturbed(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Views (M, H, W, 3) in other light and with camera noise."""
    noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shape = (len(frames), 1, 1, 3)
    bright, tint = (torch.randn(shape, generator=noise) for _ in range(2))
    return frames * (1 + BRIGHTNESS * bright) + TINT * tint + NOISE * torch.randn(frames.shape, generator=noise)


@torch.no_grad()
def gate(seeing: Seeing, views: Views, held: int) -> dict[str, float]:
    """F1 of presence and mean absolute errors of the values on the held-out rooms."""
    room = torch.arange(views.count - held, views.count).repeat_interleave(views.views)
    view = torch.arange(views.views).repeat(held)
    found = views.losses(seeing, views.frames[room, view].float(), room, view)
    f1 = 2 * float(found["hits"]) / max(1.0, float(found["claims"]))
    return {"f1": round(f1, 4)} | {
        name: round(float(error), 4) for name, error in zip(VALUES, found["errors"], strict=True)
    }


@torch.no_grad()
def features(visual: nn.Module, frames: np.ndarray, batch: int = 50) -> Tensor:
    """Video tokens (N, tokens, D) of rooms' frames (N, V, H, W, 3)."""
    parts = []
    for start in range(0, len(frames), batch):
        some = torch.from_numpy(frames[start : start + batch])
        parts.append(encode(visual, pixels_of(some.flatten(0, 1))).unflatten(0, some.shape[:2]).flatten(1, 2))
    return torch.cat(parts)
