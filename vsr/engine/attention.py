"""Attention over a shared prefix and its branches, on every device by the same plain matrix products.

`install` gives a model's language part an attention that equals `sdpa` unless a call carries `layout=`: then the layout
computes it. Setting it once and for all, not inside a context, keeps the recomputation of gradient checkpointing right.
"""

from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
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


class Packed:
    """One row [prefix 1 | its branches | prefix 2 | its branches ...]: a prefix is causal in itself, a branch sees its
    prefix and, causally, itself. `groups` are (prefix length, branch lengths).

    Prefixes take the device's causal kernel without a mask. Branches take the masked kernel in chunks of whole branches
    of at least `CHUNK` tokens, so that work stays proportional to tokens however many branches there are; queries that
    share a key head are folded into rows, since no device has a masked kernel for grouped heads."""

    CHUNK = 192

    def __init__(self, groups: list[tuple[int, list[int]]], heads_per_key: int, device: torch.device):
        self.groups = [(prefix, _chunks(branches, self.CHUNK)) for prefix, branches in groups]
        self.masks = {
            (prefix, chunk): _branch_mask(prefix, chunk).repeat(heads_per_key, 1).to(device)
            for prefix, chunks in self.groups
            for chunk in chunks
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout`; rows is 1."""
        pieces, start = [], 0
        for prefix, chunks in self.groups:
            stop = start + prefix
            past = key[:, :, start:stop], value[:, :, start:stop]
            pieces.append(
                functional.scaled_dot_product_attention(
                    query[:, :, start:stop],
                    *past,
                    is_causal=True,
                    scale=scale,
                    enable_gqa=key.shape[1] != query.shape[1],
                )
            )
            for chunk in chunks:
                start, stop = stop, stop + sum(chunk)
                here = slice(start, stop)
                keys = torch.cat((past[0], key[:, :, here]), 2)
                values = torch.cat((past[1], value[:, :, here]), 2)
                pieces.append(_grouped(query[:, :, here], keys, values, self.masks[prefix, chunk], scale))
            start = stop
        return torch.cat(pieces, 2)


def _chunks(lengths: list[int], least: int) -> list[tuple[int, ...]]:
    chunks: list[tuple[int, ...]] = [()]
    for length in lengths:
        chunks = [*chunks, (length,)] if sum(chunks[-1]) >= least else [*chunks[:-1], (*chunks[-1], length)]
    return chunks


def _branch_mask(prefix: int, lengths: tuple[int, ...]) -> Tensor:
    """Additive mask (branch tokens, prefix + branch tokens)."""
    own = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in lengths))
    seen = functional.pad(own, (prefix, 0), value=True)
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def _grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    rows, heads, n, d = query.shape
    folded = query.reshape(rows, key.shape[1], -1, d)
    mask = mask.to(query.dtype)[None, None]
    output = functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale)
    return output.reshape(rows, heads, n, d)


class Decoding:
    """Branches that continue shared prefixes, new tokens at the right. `past` holds for each group its prefix's keys
    and values by layer, (1, kv heads, prefix, d) each, stored once however many branches read them; `sizes` how many
    rows belong to each group; `seen` (rows, m) which of a row's own tokens are real, not padding at the left."""

    def __init__(self, past: list[list[tuple[Tensor, Tensor]]], sizes: list[int]):
        self.past = past
        self.group = [index for index, size in enumerate(sizes) for _ in range(size)]
        self.seen: Tensor

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        self.group, self.seen = [self.group[row] for row in rows], self.seen[rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout`; `key` and `value` are the rows' own, `past` adds the prefix's."""
        output = torch.empty_like(query)
        n, m = query.shape[2], key.shape[2]
        mask = self.seen[:, None] & torch.ones(n, m, dtype=torch.bool, device=key.device).tril(m - n)
        for index, members in groupby(range(len(query)), lambda row: self.group[row]):
            prefix = self.past[index][layer]
            members = list(members)
            step = max(1, MAX_SCORES // (query.shape[1] * n * (prefix[0].shape[2] + m)))
            for first in members[::step]:
                rows = slice(first, min(first + step, members[-1] + 1))
                output[rows] = _cascade(query[rows], key[rows], value[rows], *prefix, mask[rows], scale)
        return output


def _cascade(query, key, value, prefix_key, prefix_value, mask, scale: float) -> Tensor:
    """softmax over [prefix | own] for every row, the prefix's keys read once for all rows (no copy a row)."""
    rows, heads, n, d = query.shape
    kv = prefix_key.shape[1]
    per = heads // kv * n  # queries of a row that share a key head
    own = query.reshape(rows, kv, per, d) * scale
    together = own.transpose(0, 1).reshape(kv, rows * per, d)
    far = (together @ prefix_key[0].transpose(1, 2)).float()  # (kv heads, rows * per, prefix)
    near = (own @ key.transpose(2, 3)).float().view(rows, kv, heads // kv, n, -1)
    near = near.masked_fill_(~mask[:, None, None], -torch.inf).view(rows, kv, per, -1).transpose(0, 1)
    near = near.reshape(kv, rows * per, -1)
    top = torch.maximum(far.amax(-1, keepdim=True), near.amax(-1, keepdim=True))
    far, near = far.sub_(top).exp_(), near.sub_(top).exp_()
    total = far.sum(-1, keepdim=True) + near.sum(-1, keepdim=True)
    output = far.to(value.dtype) @ prefix_value[0]
    near = near.to(value.dtype).view(kv, rows, per, -1).transpose(0, 1) @ value
    output = (output + near.transpose(0, 1).reshape(output.shape)) / total
    return output.to(query.dtype).view(kv, rows, per, d).transpose(0, 1).reshape(rows, heads, n, d)
