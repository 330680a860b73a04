"""Log-probabilities of a group's completions, the prompt they share computed once.

Layout: prefix = prompt[:-1]; branch g = [prompt[-1]] + completion_g[:-1], so that every branch predicts its own tokens.
"""

import torch
from torch import LongTensor, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from vsr.engine.attention import UNMASKED, Packed, install
from vsr.engine.inputs import Prompt, base_model, embed, positions

MAX_LOGITS = 1 << 27  # logits held at once, 512 MB in fp32; more are recomputed in backward, piece by piece


def group_logps(
    model: torch.nn.Module, prompt: Prompt, completions: list[LongTensor], *, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (G, longest) of `completions`, each 1-D token ids, after `prompt`; 0 beyond a row's end.

    Differentiable in the trainable weights; use it under `torch.no_grad()` and `model.disable_adapter()` for the
    reference. Equal to one forward a completion (tests/naive.py) to 1e-5 in fp32."""
    return packed_logps(model, [prompt], [completions], temperature=temperature)[0]


def packed_logps(
    model: torch.nn.Module, prompts: list[Prompt], completions: list[list[LongTensor]], *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (nats, without gradient), both (all completions, longest), of several groups in
    one pass without padding: `completions[i]` follow `prompts[i]`; logits are divided by `temperature`."""
    install(model)
    base = base_model(model)
    rows = [_row(base, prompt, group) for prompt, group in zip(prompts, completions, strict=True)]
    shape = [(len(prompt.ids) - 1, [len(c) for c in group]) for prompt, group in zip(prompts, completions, strict=True)]
    flat = [completion for group in completions for completion in group]
    embeddings, places = torch.cat([row for row, _ in rows]), torch.cat([place for _, place in rows], 1)
    logps, entropies = branch_logps(base, embeddings, places, shape, torch.cat(flat), temperature)
    lengths = [len(completion) for completion in flat]
    logps, entropies = (pad_sequence(part.split(lengths), batch_first=True) for part in (logps, entropies))
    return logps, entropies


def branch_logps(
    base, embeddings: Tensor, places: LongTensor, shape: list[tuple[int, list[int]]], targets: LongTensor, temperature
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (branch tokens,) of `targets` in a packed row, given as `read` takes it. Its cost
    hangs on shapes alone."""
    hidden = read(base, embeddings, places, shape)
    in_branch = torch.cat([torch.arange(prefix + sum(lengths)) >= prefix for prefix, lengths in shape])
    return _token_logps(base.lm_head, hidden[in_branch.nonzero()[:, 0].to(hidden.device)], targets, temperature)


def read(
    base, embeddings: Tensor, places: LongTensor, shape: list[tuple[int, list[int]]], cache: Cache | None = None
) -> Tensor:
    """Hidden states (tokens, hidden size) of a packed row: `embeddings` (tokens, hidden size) at `places` (3, tokens),
    laid out by `shape`, (prefix length, branch lengths) of each group. `cache` receives its keys and values."""
    text = base.model.language_model
    return text(
        inputs_embeds=embeddings[None],
        position_ids=places[:, None].to(base.device),
        attention_mask=UNMASKED,
        past_key_values=cache,
        use_cache=cache is not None,  # without: gradient checkpointing would drop it in silence
        layout=Packed(shape, text.config.num_attention_heads // text.config.num_key_value_heads, base.device),
    ).last_hidden_state[0]


def _row(base, prompt: Prompt, completions: list[LongTensor]) -> tuple[Tensor, LongTensor]:
    """Embeddings (tokens, hidden size) and positions (3, tokens) of [prefix | branch 1 | ... | branch G]."""
    last = prompt.ids[-1:]
    ids = torch.cat([prompt.ids[:-1], *(torch.cat((last, c[:-1].to(last))) for c in completions)])
    places = positions(base, prompt.ids, prompt.grid)
    branches = [places[:, -1:] + torch.arange(len(c)) for c in completions]
    return embed(base, ids, prompt.features), torch.cat([places[:, :-1], *branches], 1)


def _token_logps(head, hidden: Tensor, targets: LongTensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (tokens,) of `targets` (tokens,) after `hidden` (tokens, hidden size)."""

    def of(part: Tensor, target: LongTensor) -> tuple[Tensor, Tensor]:
        logps = (head(part).float() / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = -(logps.exp() * logps).sum(-1)
        return logps.gather(-1, target[:, None])[:, 0], entropy

    targets = targets.to(hidden.device)
    step = max(1, MAX_LOGITS // head.out_features)
    if len(hidden) <= step:
        return of(hidden, targets)
    pieces = zip(hidden.split(step), targets.split(step), strict=True)
    parts = [checkpoint(of, *piece, use_reentrant=False) for piece in pieces]
    logps, entropies = map(torch.cat, zip(*parts, strict=True))
    return logps, entropies
