"""One loop that continues many branches of shared prefixes: the rollouts of a group, the questions on a video."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from vsr.engine.attention import UNMASKED, Decoding, install
from vsr.engine.inputs import Prompt, base_model, embed

# logits (rows, vocabulary), which rows they are, how many tokens these have had -> one token a row
Pick = Callable[[Tensor, list[int], int], LongTensor]


@dataclass(frozen=True)
class Group:
    """A prefix read once and the branches that continue it: tokens `branches[i]` (n,) at `positions[i]` (3, n)."""

    prefix: Prompt
    prefix_positions: LongTensor
    branches: list[LongTensor]
    positions: list[LongTensor]


@torch.no_grad()
def decode(
    model: torch.nn.Module, groups: list[Group], pick: Pick, max_new_tokens: int, eos: int, suppress: list[int]
) -> list[list[int]]:
    """Continue every branch until `eos` (kept as its last token) or `max_new_tokens`; rows in the order of the groups.

    Each prefix is read once; a row that has ended leaves the batch. A new token's position is its predecessor's + 1, as
    `get_rope_index` gives it for the whole sequence. `suppress` lists tokens never chosen (the special vision tokens
    crash the next forward)."""
    install(model)
    base = base_model(model)
    cache = DynamicCache(config=base.config.get_text_config())
    layout = Decoding([_prefill(base, group) for group in groups], [len(group.branches) for group in groups])
    branches = [branch for g in groups for branch in zip(g.branches, g.positions, strict=True)]
    ids, places, layout.seen = (tensor.to(base.device) for tensor in _left_padded(branches))
    answers: list[list[int]] = [[] for _ in branches]
    running = list(range(len(branches)))
    for step in range(max_new_tokens):
        hidden = base.model.language_model(
            inputs_embeds=base.get_input_embeddings()(ids),
            position_ids=places,
            attention_mask=UNMASKED,
            past_key_values=cache,
            use_cache=True,
            layout=layout,
        ).last_hidden_state[:, -1]
        logits = base.lm_head(hidden).float()
        logits[:, suppress] = -torch.inf
        tokens = pick(logits, running, step)
        for row, token in zip(running, tokens.tolist(), strict=True):
            answers[row].append(token)
        kept = [i for i, row in enumerate(running) if answers[row][-1] != eos]
        if not kept:
            break
        if len(kept) < len(running):
            running = [running[i] for i in kept]
            cache.batch_select_indices(torch.tensor(kept, device=ids.device))
            tokens, places = tokens[kept], places[:, kept]
            layout.keep(kept)
        ids, places = tokens[:, None], places[:, :, -1:] + 1
        layout.seen = pad(layout.seen, (0, 1), value=True)
    return answers


def _prefill(base, group: Group) -> list[tuple[Tensor, Tensor]]:
    cache = DynamicCache(config=base.config.get_text_config())
    base.model.language_model(
        inputs_embeds=embed(base, group.prefix.ids, group.prefix.features)[None],
        position_ids=group.prefix_positions[:, None].to(base.device),
        attention_mask=UNMASKED,
        past_key_values=cache,
        use_cache=True,
    )
    return [(layer.keys, layer.values) for layer in cache.layers]


def _left_padded(branches: list[tuple[LongTensor, LongTensor]]) -> tuple[LongTensor, LongTensor, Tensor]:
    """Ids (rows, n), positions (3, rows, n) and which tokens are real (rows, n), each row's last token at the right."""
    n = max(len(ids) for ids, _ in branches)
    ids = torch.zeros(len(branches), n, dtype=torch.long)
    places = torch.zeros(3, len(branches), n, dtype=torch.long)
    seen = torch.zeros(len(branches), n, dtype=torch.bool)
    for row, (branch, place) in enumerate(branches):
        ids[row, n - len(branch) :], places[:, row, n - len(branch) :] = branch, place
        seen[row, n - len(branch) :] = True
    return ids, places, seen
