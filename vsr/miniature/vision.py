"""Teaching the vision tower to see: dense labels at every video token, no language yet."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from vsr.miniature.labels import VALUES
from vsr.video import MEAN, STD

GRID = (4, 6)  # patches of a frame, rows and columns


def merge_order(grid: tuple[int, int] = GRID) -> torch.Tensor:
    """Patches of a frame in Qwen2-VL's order (blocks of 2 x 2), as index into row-major order, (P,)."""
    rows, columns = grid
    index = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2)
    return index.permute(0, 2, 1, 3).reshape(-1)


def pixels_of(frames: torch.Tensor) -> torch.Tensor:
    """Normalised patches (views, P, 588) of uint8 or float frames (views, H, W, 3) in [0, 255], one frame a pair."""
    rows, columns = GRID
    x = (frames.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    x = x.view(-1, rows // 2, 2, 14, columns // 2, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(len(frames), rows * columns, 588)


def encode(visual: nn.Module, patches: torch.Tensor, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """Video tokens (views, P / 4, hidden) of patches (views, P, 588) whose two frames of a pair are equal.

    The same numbers as the tower's own forward, which loops over frames in attention; here views are a batch."""
    weight = visual.patch_embed.proj.weight  # (D, 3, 2, 14, 14)
    x = patches @ weight.sum(2).reshape(len(weight), -1).T
    order = merge_order(grid)
    place = torch.stack([order // grid[1], order % grid[1]], dim=1)
    cos, sin = visual.rotary_pos_emb(x, place)
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

    def presence(self, tokens: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Logits (..., C) that a token (..., D) holds each category; `words` (C, D)."""
        return self.scale * self.norm(tokens) @ F.normalize(words, dim=-1).T + self.bias

    def values(self, tokens: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        """VALUES (M, 10) of the object named `word` (M, D) in `tokens` (M, D)."""
        x = self.norm(tokens)
        y = x + 4 * F.normalize(word, dim=-1)
        return self.single(x) + self.down(F.silu(self.gate(y)) * self.up(y))
