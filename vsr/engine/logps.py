"""Log-probabilities of a group's completions, the prompt they share computed once.

Layout: prefix = prompt[:-1]; branch g = [prompt[-1]] + completion_g[:-1], so that every branch predicts its own tokens.
"""

from functools import cache, partial

import torch
from torch import LongTensor, Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig

from vsr.engine.inputs import Prompt, base_model, batches, embed, placed
from vsr.engine.text import Layer, head_size, language_part, norm, rotation
from vsr.errors import VsrError

MAX_LOGITS = 1 << 27  # logits held at once, 512 MB in fp32
# tokens of branches computed against each other: a processor is paid for what a mask hides, a GPU for every launch
CHUNK, CHUNK_GPU = 96, 1024
KEPT = 1.15  # adapters, copied keys and the rest, on top of what `pass_budget` counts; dry runs say 1.10 to 1.15


def packed_logps(
    model: torch.nn.Module, prompts: list[Prompt], completions: list[list[LongTensor]], *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (nats, without gradient), both (all completions, longest), of several groups in
    one pass without padding: `completions[i]`, 1-D token ids, follow `prompts[i]`; logits are divided by `temperature`;
    0 beyond a row's end. VsrError for a model whose head carries an adapter.

    Differentiable in the adapter's weights; use it under `torch.no_grad()` and `model.disable_adapter()` for the
    reference. Equal to one forward a completion (tests/naive.py) to 1e-5 in fp32."""
    base = base_model(model)
    if type(base.lm_head) is not nn.Linear:
        raise VsrError(f"lm_head is {type(base.lm_head).__name__}: log-probabilities need it plain; leave it unadapted")
    rows = [_row(base, prompt, group) for prompt, group in zip(prompts, completions, strict=True)]
    shape = [(len(prompt.ids) - 1, [len(c) for c in group]) for prompt, group in zip(prompts, completions, strict=True)]
    flat = [completion for group in completions for completion in group]
    embeddings, places = torch.cat([row for row, _ in rows]), torch.cat([place for _, place in rows], 1)
    logps, entropies = branch_logps(base, embeddings, places, shape, torch.cat(flat), temperature)
    inside = within([len(completion) for completion in flat]).to(logps.device)
    logps, entropies = (part.new_zeros(inside.shape).masked_scatter(inside, part) for part in (logps, entropies))
    return logps, entropies


def within(lengths: list[int]) -> Tensor:
    """Where rows of these lengths have tokens, (rows, longest)."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def branch_logps(
    base, embeddings: Tensor, places: LongTensor, shape: list[tuple[int, list[int]]], targets: LongTensor, temperature
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (branch tokens,) of `targets` in a packed row, given as `read` takes it. Its cost
    hangs on shapes alone."""
    hidden = read(base, embeddings, places, shape)
    return _TokenLogps.apply(hidden, base.lm_head.weight, targets.to(hidden.device), temperature)


def pass_budget(config: PreTrainedConfig, itemsize: int, memory: float, most: int, least: int) -> tuple[int, bool]:
    """How many tokens a pass with gradients may hold, `most` or fewer, and whether what it computes is to be made again
    in backward (gradient checkpointing): that costs a third more arithmetic and is left out where `memory` bytes keep
    the activations of `least` tokens, and of a quarter of `most`."""
    text = config.text_config
    head = head_size(config)
    keys, queries = text.num_key_value_heads * head, text.num_attention_heads * head
    # of every token and layer: inputs of the products and of norms; queries, keys, values and what they were joined
    # to; gate, up and their product
    elements = 4 * text.hidden_size + 2 * queries + 4 * keys + 3 * text.intermediate_size
    room = int(memory / (KEPT * itemsize * text.num_hidden_layers * elements))
    if room >= most:
        return most, False
    return (most, True) if room < max(least, most // 4) else (room, False)


def _row(base, prompt: Prompt, completions: list[LongTensor]) -> tuple[Tensor, LongTensor]:
    """Embeddings, as `embed` makes them, and positions (3, tokens) of [prefix | branch 1 | ... | branch G]."""
    last, places = prompt.ids[-1:], placed(base, prompt)
    ids = torch.cat([prompt.ids[:-1], *(part for c in completions for part in (last, c[:-1].to(last)))])
    further = torch.cat([torch.arange(len(c)) for c in completions])
    return embed(base, ids, prompt.features), torch.cat([places[:, :-1], places[:, -1:] + further], 1)


# --- a packed row ---
def read(
    base,
    embeddings: Tensor,
    places: LongTensor,
    shape: list[tuple[int, list[int]]],
    sink: list[tuple[Tensor, Tensor]] | None = None,
    layers: list[Layer] | None = None,
) -> Tensor | None:
    """Hidden states (branch tokens, D) of a packed row: `embeddings` (tokens, D, and D more for each of the first
    layers that a video is added after, see `embed`) at `places` (3, tokens), laid out by `shape`, (prefix length,
    branch lengths) of each group. No branch holds a video.

    `sink` receives every layer's keys and values, (tokens, kv heads, d) each; nothing else is computed then, and the
    result is None. `layers` are the model's, where they are at hand."""
    text = language_part(base)
    x, *deep = embeddings.split(text.config.hidden_size, -1)
    cos, sin = rotation(text, places.to(x.device), x)
    heads = text.config.num_attention_heads // text.config.num_key_value_heads
    layout, last = Packed(shape, heads, x.device), len(text.layers) - 1
    for number, module in enumerate(text.layers):
        if sink is not None:
            layer = layers[number] if layers else Layer(module)
            query, key, value = layer.inputs(x, cos, sin)
            sink.append((key, value))
            if number == last:
                return None
            x = layer.outputs(x, layout.attend(query, key, value))
            x = x + deep[number] if number < len(deep) else x
            continue
        # nothing looks at a prefix after the last layer's keys and values
        kept = layout.branches if number == last else None
        attend = partial(layout.attend, prefixes=kept is None)
        # read inside the function, so that gradient checkpointing holds one layer's merged weights at a time
        run = partial(_layer, module, cos=cos, sin=sin, attend=attend, kept=kept)
        recompute = getattr(module, "gradient_checkpointing", False) and torch.is_grad_enabled()
        x = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
        # after the last layer nothing looks at a video any more
        x = x + deep[number] if number < min(len(deep), last) else x
    return norm(x, text.norm.weight, text.norm.variance_epsilon)


def _layer(module: nn.Module, x: Tensor, **given) -> Tensor:
    return Layer(module)(x, **given)


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
        of_branches = torch.tensor([mask is not None for mask in self.masks])
        self.branches = of_branches.repeat_interleave(torch.tensor(self.sizes)).nonzero()[:, 0].to(device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, prefixes: bool = True) -> Tensor:
        """Queries (tokens, heads, d), keys and values (tokens, kv heads, d) -> (tokens, heads, d), of branches alone
        without `prefixes`."""
        outputs = []
        # one split, not a slice a piece: every slice's backward would write zeros as long as the whole row
        pieces = (tensor.transpose(0, 1)[None].split(self.sizes, 2) for tensor in (query, key, value))
        for q, k, v, mask in zip(*pieces, self.masks, strict=True):
            if mask is None:
                # the causal kernel, since any mask would switch the kernels for grouped heads off
                prefix, grouped = (k, v), k.shape[1] != q.shape[1]
                if not prefixes:
                    continue
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
    branch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    seen = functional.pad((branch[:, None] == branch).tril(), (prefix, 0), value=True)
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


# --- the head ---
class _TokenLogps(Function):
    """Log-probabilities and entropies (n,) of `targets` (n,) after `hidden` (n, D), with `weight` (vocabulary, D) the
    head's; logits are made in pieces and never kept, since a token's gradient,

        d log p(target) / d hidden = (weight[target] - sum_v p(v) weight[v]) / temperature,

    is as short as its hidden state and known when its probabilities are."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        step, found = max(1, MAX_LOGITS // len(weight)), []
        for part, target in zip(hidden.split(step), targets.split(step), strict=True):
            logps = (part @ weight.T).float().div_(temperature).log_softmax(-1)
            shares = logps.exp()
            found.append([logps.gather(-1, target[:, None])[:, 0], -(shares * logps).sum(-1)])
            if ctx.needs_input_grad[0]:
                found[-1].append((weight[target] - shares.to(weight.dtype) @ weight).div_(temperature))
        logps, entropies, *slopes = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx, gradient, _):
        return gradient[:, None].to(ctx.saved_tensors[0].dtype) * ctx.saved_tensors[0], None, None, None
