"""The vision stage: views of rooms -> dense labels at every video token, until the tokens tell what stands where; no
language yet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from vsr.families import QWEN2_VL
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.procedural import STUDY
from vsr.miniature.rooms import VALUES, Labels, Rooms, presence
from vsr.miniature.training import Optimiser, fit

GRID = (STUDY.height // 14, STUDY.width // 14)  # patches of a frame, rows and columns
WARM = 100  # steps


def encode(visual: nn.Module, frames: Tensor) -> Tensor:
    """Video tokens (views, tokens, hidden) of uint8 or float frames (views, H, W, 3) in [0, 255], one frame a pair.

    The same numbers as the tower's own forward, which loops over frames in attention; here views are a batch."""
    rows, columns = GRID
    x = (frames.float() / 255 - torch.tensor(QWEN2_VL.mean)) / torch.tensor(QWEN2_VL.std)
    # patches (views, P, 588) in blocks of 2 x 2, as Qwen2-VL orders them
    x = x.view(-1, rows // 2, 2, 14, columns // 2, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    patches = x.reshape(len(frames), rows * columns, 588)
    order = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).permute(0, 2, 1, 3).reshape(-1)
    # both frames of a pair are the same picture: the convolution over two is a product with the summed weights
    weight = visual.patch_embed.proj.weight  # (D, 3, 2, 14, 14)
    x = patches @ weight.sum(2).reshape(len(weight), -1).T
    cos, sin = visual.rotary_pos_emb(x, torch.stack([order // columns, order % columns], dim=1))
    views, count, width = x.shape
    for block in visual.blocks:
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).view(views, count, 3, attn.num_heads, -1).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + attn.proj(mixed.transpose(1, 2).reshape(views, count, width))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x).view(views, count // 4, -1)


class Heads(nn.Module):
    """Read-outs of the labels from video tokens, for pre-training only.

    Presence compares a token with the word embeddings of the categories, so that words and what they name meet in one
    space; the other values of a category are read with the category's word as the question."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.single = nn.Linear(width, len(VALUES))
        self.gate = nn.Linear(width, 256)
        self.up = nn.Linear(width, 256)
        self.down = nn.Linear(256, len(VALUES))
        self.walls = nn.Linear(width, 4)

    def presence(self, tokens: Tensor, words: Tensor) -> Tensor:
        """Logits (..., C) that a token (..., D) holds each category; `words` (C, D)."""
        return self.scale * self.norm(tokens) @ F.normalize(words, dim=-1).T + self.bias

    def values(self, tokens: Tensor, word: Tensor) -> Tensor:
        """VALUES (M, 10) of the object named `word` (M, D) in `tokens` (M, D)."""
        x = self.norm(tokens)
        # the word as a question: added, so that one small network serves all categories
        y = x + 4 * F.normalize(word, dim=-1)
        return self.single(x) + self.down(F.silu(self.gate(y)) * self.up(y))


# of a view's channels (factor and offset), and of its pixels
BRIGHTNESS, TINT, NOISE = 0.08, 6.0, 2.0


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
        self.present = presence(labels).view(self.count, self.views, self.per_view, -1)

    def losses(self, seeing: Seeing, frames: Tensor, room: Tensor, view: Tensor) -> tuple[dict, float, Tensor]:
        """On `frames` (M, H, W, 3) of rooms (M,) at headings (M,): losses by name, F1 of presence, mean absolute errors
        of VALUES."""
        tokens = encode(seeing.visual, frames)
        truth = self.present[room, view].to(tokens).clamp(max=1)
        logits = seeing.heads.presence(tokens, seeing.words)
        # objects whose home token lies in the view that is shown
        here = self.labels.home[room]
        mine = (here >= 0) & (here // self.per_view == view[:, None])
        at, slot = mine.nonzero(as_tuple=True)
        token = tokens[at, here[at, slot] % self.per_view]
        read = seeing.heads.values(token, seeing.words[self.labels.kind[room[at], slot]])
        values = self.labels.values[room[at], slot]
        walls = self.labels.walls[room, view]
        faced = ~walls.isnan()
        told = seeing.heads.walls(seeing.heads.norm(tokens)).mean(1)
        losses = {
            "presence": F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum((1, 2)).mean(),
            "values": F.smooth_l1_loss(read, values, beta=0.1),
            "walls": F.smooth_l1_loss(told[faced], walls[faced], beta=0.1),
        }
        hits = ((logits > 0) & (truth > 0)).sum()
        claims = (logits > 0).sum() + (truth > 0).sum()
        return losses, 2 * float(hits) / max(1.0, float(claims)), (read - values).abs().mean(0)


def train(seeing: Seeing, views: Views, plan: dict, seed: int, path: Path, log: Callable[..., None]) -> None:
    """Train for the plan's vision steps, from the checkpoint at `path` if there is one."""

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, 1, step])
        room = torch.from_numpy(rng.integers(views.count - plan["held"], size=plan["views"]))
        view = torch.from_numpy(rng.integers(views.views, size=plan["views"]))
        return views.losses(seeing, disturbed(views.frames[room, view], rng), room, view)[0]

    optimiser = Optimiser([seeing], [], plan["vision_muon"], plan["vision_adam"], decay=0.5)
    fit(path, {"seeing": seeing}, optimiser, {plan["vision_steps"]: "see"}, losses, WARM, plan, log)


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
    _, f1, errors = views.losses(seeing, views.frames[room, view].float(), room, view)
    return {name: round(float(x), 4) for name, x in zip(("f1", *VALUES), (f1, *errors), strict=True)}


@torch.no_grad()
def features(visual: nn.Module, frames: np.ndarray) -> Tensor:
    """Video tokens (N, tokens, D) of rooms' frames (N, V, H, W, 3)."""
    parts = []
    for some in torch.from_numpy(frames).split(50):
        parts.append(encode(visual, some.flatten(0, 1)).unflatten(0, some.shape[:2]).flatten(1, 2))
    return torch.cat(parts)
