"""Attention over a shared prefix and its branches, on every device by the same plain matrix products.

`install` gives a model's language part an attention that equals `sdpa` unless a call carries `layout=`: then the layout
computes it. Setting it once and for all, not inside a context, keeps the recomputation of gradient checkpointing right.
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vsr.engine.inputs import base_model
from vsr.errors import VsrError

NAME = "shared_prefix"
UNMASKED = {"full_attention": None}  # a layout masks for itself: keeps transformers from building a mask
MAX_SCORES = 1 << 26  # attention scores held at once while decoding: 256 MB in fp32


class Layout(Protocol):
    """Who attends to whom in one forward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (rows, heads, n, d), key and value (rows, kv heads, m, d) -> (rows, heads, n, d)."""


def _attention(module, query, key, value, attention_mask, layout: Layout | None = None, scaling=None, **kwargs):
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return layout.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(model: torch.nn.Module) -> None:
    """Let the language part of `model` take `layout=`; everything else stays as with `sdpa`. May be called again."""
    text = base_model(model).model.language_model
    if text.has_sliding_layers:
        raise VsrError("use_sliding_window=true: the engine shares whole prefixes; set it to false in config.json")
    text.config._attn_implementation = NAME


class Decoding:
    """Branches that continue shared prefixes, new tokens at the right. `past` holds for each group its prefix's keys
    and values by layer, (1, kv heads, prefix, d) each, stored once however many branches read them; `sizes` how many
    rows belong to each group; `mask` (rows, n, m) which of a row's own tokens each query may see."""

    def __init__(self, past: list[list[tuple[Tensor, Tensor]]], sizes: list[int], mask: Tensor | None = None):
        self.past, self.sizes, self.mask = past, sizes, mask

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout`; `key` and `value` are the rows' own, `past` adds the prefix's."""
        output = torch.empty_like(query)
        start = 0
        for past, size in zip(self.past, self.sizes, strict=True):
            prefix = past[layer]
            step = max(1, MAX_SCORES // (query.shape[1] * query.shape[2] * (prefix[0].shape[2] + key.shape[2])))
            for first in range(start, start + size, step):
                rows = slice(first, min(first + step, start + size))
                output[rows] = _cascade(query[rows], key[rows], value[rows], *prefix, self.mask[rows], scale)
            start += size
        return output


def _cascade(query, key, value, prefix_key, prefix_value, mask, scale: float) -> Tensor:
    """softmax over [prefix | own] for every row, the prefix's keys read once for all rows (no copy a row)."""
    rows, heads, n, d = query.shape
    kv, p = prefix_key.shape[1], prefix_key.shape[2]
    per = heads // kv * n  # queries of a row that share a key head
    own = query.reshape(rows, kv, per, d) * scale
    together = own.transpose(0, 1).reshape(kv, rows * per, d)
    far = (together @ prefix_key[0].transpose(1, 2)).view(kv, rows, per, p).transpose(0, 1)
    near = (own @ key.transpose(2, 3)).view(rows, kv, heads // kv, n, -1)
    near = near.masked_fill(~mask[:, None, None], -torch.inf).view(rows, kv, per, -1)
    weights = torch.cat((far, near), -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    far = weights[..., :p].transpose(0, 1).reshape(kv, rows * per, p) @ prefix_value[0]
    near = weights[..., p:] @ value
    return (far.view(kv, rows, per, d).transpose(0, 1) + near).reshape(rows, heads, n, d)
