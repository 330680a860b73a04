"""Attention over shared prefixes and their branches, on every device by the same plain matrix products."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from vsr.engine.inputs import batches

# tokens of branches computed against each other: a processor is paid for what a mask hides, a GPU for every launch
CHUNK, CHUNK_GPU = 96, 1024


class Packed:
    """One row [prefix 1 | its branches | prefix 2 | its branches ...]: a prefix is causal in itself, a branch sees its
    prefix and, causally, itself. `groups` are (prefix length, branch lengths).

    Branches go in chunks of so many tokens (or one longer branch), so that work stays proportional to tokens however
    many branches there are: in a chunk every branch is computed against every other and masked."""

    def __init__(self, groups: list[tuple[int, list[int]]], heads_per_key: int, device: torch.device):
        self.sizes: list[int] = []  # the row in pieces, prefixes and chunks
        # None for a prefix, a chunk's (heads per key * its tokens, prefix + its tokens)
        self.masks: list[Tensor | None] = []
        mask = cache(lambda *shape: _branch_mask(*shape).repeat(heads_per_key, 1).to(device))
        for prefix, branches in groups:
            together = batches(branches, CHUNK if device.type == "cpu" else CHUNK_GPU)
            chunks = [tuple(branches[i] for i in chunk) for chunk in together]
            self.sizes += [prefix, *map(sum, chunks)]
            self.masks += [None, *(mask(prefix, *chunk) for chunk in chunks)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries (tokens, heads, d), keys and values (tokens, kv heads, d) -> (tokens, heads, d)."""
        outputs = []
        # one split, not a slice a piece: every slice's backward would write zeros as long as the whole row
        pieces = (tensor.transpose(0, 1)[None].split(self.sizes, 2) for tensor in (query, key, value))
        for q, k, v, mask in zip(*pieces, self.masks, strict=True):
            if mask is None:
                # the causal kernel, since any mask would switch the kernels for grouped heads off
                prefix, grouped = (k, v), k.shape[1] != q.shape[1]
                output = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            else:
                # no masked kernel takes grouped heads: fold the queries that share a key head into rows of one,
                # (1, heads, n, d) -> (1, kv heads, heads per key * n, d)
                folded = q.reshape(1, k.shape[1], -1, q.shape[3])
                k, v = (torch.cat(pair, 2) for pair in zip(prefix, (k, v), strict=True))
                output = functional.scaled_dot_product_attention(folded, k, v, attn_mask=mask.to(q.dtype))
            outputs.append(output.reshape(q.shape))
        return torch.cat(outputs, 2)[0].transpose(0, 1)


def _branch_mask(prefix: int, *lengths: int) -> Tensor:
    """Additive mask (branch tokens, prefix + branch tokens)."""
    own = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in lengths))
    seen = functional.pad(own, (prefix, 0), value=True)
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def cascade(query: Tensor, past: Tensor, own: Tensor, beyond: Tensor, hidden: Tensor) -> Tensor:
    """Attention of one token a row over [the prefix of its group | its own tokens], every prefix's keys read once for
    all rows of the group.

    `query` (groups * width, heads, d); keys and values in `past` (2, groups, kv heads, prefix, d) and `own` (2, groups,
    kv heads, width, m, d); what is added to their scores, `beyond` (groups * kv heads, 1, prefix) and `hidden` (groups
    * kv heads * width, 1, m) -> (groups * width, heads, d)."""
    _, groups, kv, prefix, d = past.shape
    width, m = own.shape[3:5]
    # (groups * kv, width * q, d) with the q queries that share a key head: one product a group and key head for the
    # prefix, one a row and key head for its own tokens
    folded = query.view(groups, width, kv, -1, d).transpose(1, 2).contiguous().view(groups * kv, -1, d)
    q, scale = folded.shape[1] // width, d**-0.5
    far = torch.baddbmm(beyond, folded, past[0].flatten(0, 1).transpose(1, 2), alpha=scale)
    near = torch.baddbmm(hidden, folded.view(-1, q, d), own[0].flatten(0, 2).transpose(1, 2), alpha=scale)
    shares = torch.cat((far.view(-1, q, prefix), near), -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    far, near = shares.split((prefix, m), -1)
    mixed = torch.bmm(far.unflatten(0, (-1, width)).flatten(1, 2), past[1].flatten(0, 1))
    mixed = torch.baddbmm(mixed.view(-1, q, d), near, own[1].flatten(0, 2))
    return mixed.view(groups, kv, width, q, d).transpose(1, 2).reshape(query.shape)
