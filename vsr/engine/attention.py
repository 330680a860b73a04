"""Attention over shared prefixes and their branches, on every device by the same plain matrix products.

`install` gives a model's language part an attention that equals `sdpa` unless a call carries `layout=`: then the
layout's `attend(layer, query (rows, heads, n, d), key and value (rows, kv heads, m, d), scale)` gives (rows, heads, n,
d). Setting it once and for all, not inside a context, keeps the recomputation of gradient checkpointing right.
"""

from collections import Counter
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vsr.engine.inputs import base_model, batches
from vsr.errors import VsrError

NAME = "shared_prefix"
UNMASKED = {"full_attention": None}  # a layout masks for itself: keeps transformers from building a mask


def _attention(module, query, key, value, attention_mask, layout=None, scaling=None, **kwargs):
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

    Branches go in chunks of at most `CHUNK` tokens (or one longer branch), so that work stays proportional to tokens
    however many branches there are: in a chunk every branch is computed against every other and masked."""

    CHUNK = 128

    def __init__(self, groups: list[tuple[int, list[int]]], heads_per_key: int, device: torch.device):
        self.sizes: list[int] = []  # the row in pieces, prefixes and chunks
        # None for a prefix, a chunk's (heads per key * its tokens, prefix + its tokens)
        self.masks: list[Tensor | None] = []
        mask = cache(lambda *shape: _branch_mask(*shape).repeat(heads_per_key, 1).to(device))
        for prefix, branches in groups:
            chunks = [tuple(branches[i] for i in chunk) for chunk in batches(branches, self.CHUNK)]
            self.sizes += [prefix, *map(sum, chunks)]
            self.masks += [None, *(mask(prefix, *chunk) for chunk in chunks)]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See the module; rows is 1."""
        outputs = []
        # one split, not a slice a piece: every slice's backward would write zeros as long as the whole row
        pieces = (tensor.split(self.sizes, 2) for tensor in (query, key, value))
        for q, k, v, mask in zip(*pieces, self.masks, strict=True):
            if mask is None:
                # the causal kernel, since any mask would switch the kernels for grouped heads off
                prefix, grouped = (k, v), key.shape[1] != query.shape[1]
                output = functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
                )
            else:
                # no masked kernel takes grouped heads: fold the queries that share a key head into rows of one,
                # (1, heads, n, d) -> (1, kv heads, heads per key * n, d)
                folded = q.reshape(1, k.shape[1], -1, q.shape[3])
                k, v = (torch.cat(pair, 2) for pair in zip(prefix, (k, v), strict=True))
                output = functional.scaled_dot_product_attention(folded, k, v, attn_mask=mask.to(q.dtype), scale=scale)
            outputs.append(output.reshape(q.shape))
        return torch.cat(outputs, 2)


def _branch_mask(prefix: int, *lengths: int) -> Tensor:
    """Additive mask (branch tokens, prefix + branch tokens)."""
    own = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in lengths))
    seen = functional.pad(own, (prefix, 0), value=True)
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


class Decoding:
    """Branches that continue shared prefixes, one new token a row; all groups in one padded batch.

    `past` holds for each group its prefix's keys and values by layer, (1, kv heads, prefix, d) each, and is emptied
    into the batch; they are stored once however many branches read them. `sizes` says how many rows belong to each
    group. `seen` (rows, m), to be set before each forward, says which of a row's own tokens are real, not padding at
    the left; the new one counts."""

    seen: Tensor

    def __init__(self, past: list[list[tuple[Tensor, Tensor]]], sizes: list[int]):
        lengths = torch.tensor([layers[0][0].shape[2] for layers in past])
        self.past: list[list[Tensor]] = []  # by layer, keys and values (groups, kv heads, longest, d)
        while past[0]:  # layer by layer, so that only one is held twice
            self.past.append([_stacked(parts) for parts in zip(*(layers.pop(0) for layers in past), strict=True)])
        beyond = torch.arange(max(lengths)) >= lengths[:, None]
        self.beyond = beyond[:, None, None].to(self.past[0][0].device)  # (groups, 1, 1, longest): behind a prefix
        self._arrange([index for index, size in enumerate(sizes) for _ in range(size)])

    def _arrange(self, group: list[int]) -> None:
        """`group` is each row's, ascending; `place` (rows,) where it stands if every group had `width` rows."""
        counts = Counter(group)
        self.group, self.width = group, max(counts.values())
        place = [number * self.width + i for number, count in counts.items() for i in range(count)]
        self.place = torch.tensor(place).to(self.beyond.device)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only; a group without rows leaves with its prefix."""
        group, self.seen = [self.group[row] for row in rows], self.seen[rows]
        left = sorted(set(group))
        if len(left) < len(self.beyond):
            self.past = [[tensor[left] for tensor in layer] for layer in self.past]
            self.beyond = self.beyond[left]
        self._arrange([left.index(index) for index in group])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See the module; n is 1, `key` and `value` are the rows' own, `past` adds the prefix's."""
        own = query * scale, key, value, ~self.seen[:, None, None]
        return _cascade(*own, *self.past[layer], self.beyond, self.width, self.place)


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    """(1, kv heads, n, d) each -> (parts, kv heads, longest, d), zeros at the right."""
    return pad_sequence([part[0].transpose(0, 1) for part in parts], batch_first=True).transpose(1, 2).contiguous()


def _cascade(query, key, value, hidden, prefix_key, prefix_value, beyond, width: int, place: Tensor) -> Tensor:
    """softmax over [prefix | own] for every row, each prefix's keys read once for all its rows (no copy a row)."""
    groups, kv = prefix_key.shape[:2]
    rows, _, _, d = query.shape
    own = query.view(rows, kv, -1, d)  # (rows, kv heads, q, d): the q queries that share a key head
    # a group's rows stand one under the other, so that one matrix product serves them all:
    # (rows, kv, q, d) -> (groups, width, kv, q, d), unused places zero -> (groups, kv, width * q, d)
    together = own.new_zeros(groups * width, *own.shape[1:]).index_copy_(0, place, own)
    together = together.view(groups, width, kv, -1, d).transpose(1, 2).reshape(groups, kv, -1, d)
    far = [
        part.view(groups, kv, width, -1, part.shape[3]).transpose(1, 2).reshape(groups * width, kv, -1, part.shape[3])
        for part in _softmax(together, prefix_key, prefix_value, beyond)
    ]
    far_output, far_top, far_total = (part[place] for part in far)  # back to (rows, kv, q, d or 1)
    near_output, near_top, near_total = _softmax(own, key, value, hidden)
    # two softmaxes become one: each had its own maximum taken out of its exponents
    top = torch.maximum(far_top, near_top)
    far_share, near_share = (far_top - top).exp_(), (near_top - top).exp_()
    total = far_total * far_share + near_total * near_share
    output = (far_output * far_share + near_output * near_share) / total
    return output.to(query.dtype).view(query.shape)


def _softmax(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention before its division: sums (..., q, d), and in float32 the maxima and totals (..., q, 1)."""
    scores = (query @ key.transpose(-1, -2)).float().masked_fill_(hidden, -torch.inf)
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    return weights.to(value.dtype) @ value, top, weights.sum(-1, keepdim=True)
