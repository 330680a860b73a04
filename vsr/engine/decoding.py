"""One loop that continues many branches of shared prefixes: the rollouts of a group, the questions on a video."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from vsr.engine.attention import UNMASKED, Decoding, install
from vsr.engine.inputs import Prompt, base_model, batches, embed, passes, positions, video_features
from vsr.engine.logps import read
from vsr.errors import VsrError

# logits (rows, vocabulary), which rows they are, how many tokens these have had -> one token a row
Pick = Callable[[Tensor, list[int], int], LongTensor]
Asked = tuple[list[LongTensor], Tensor | None, LongTensor | None]  # prompts, their video's features and grid
ANSWERED = 1 << 15  # tokens of prompts and answers that are decoded together, 0.9 GB of keys and values of Qwen2-VL-2B


@dataclass(frozen=True)
class Group:
    """A prefix read once and the branches that continue it, one behind the other: `ids` (tokens,) at `places` (3,
    tokens), the first `prefix` of them the prefix's, then branches of `lengths`; `features` are its video's."""

    ids: LongTensor
    places: LongTensor
    features: Tensor | None
    prefix: int
    lengths: list[int]


def rollouts(
    model: torch.nn.Module,
    prompts: list[Prompt],
    group_size: int,
    max_new_tokens: int,
    eos: int,
    suppress: list[int],
    *,
    temperature: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
    token_budget: int = 1 << 16,
) -> list[list[LongTensor]]:
    """`group_size` sampled completions for each prompt, 1-D token ids on the CPU, `eos` kept where the model ended.

    Groups are decoded together, or in parts, so that prompts and completions hold at most `token_budget` tokens; the
    draws, each prompt's from its own of `generators` on the CPU, do not depend on that, nor on the device, nor on the
    other prompts. Temperature 0 is greedy."""
    shape = (group_size, max_new_tokens)
    sources = generators or [None] * len(prompts)
    draws = torch.cat([torch.rand(*shape, generator=one, dtype=torch.float64) for one in sources])
    wanted = [[max_new_tokens] * group_size] * len(prompts)
    places = [positions(model, prompt.ids, prompt.grid) for prompt in prompts]
    completions: list[LongTensor] = []
    for one in passes([len(prompt.ids) for prompt in prompts], wanted, token_budget):
        # every branch starts with its prompt's last token: the same split as in `vsr.engine.logps`
        groups = [
            _group(len(prompts[i].ids) - 1, [prompts[i].ids] * len(m), [places[i]] * len(m), prompts[i].features)
            for i, m in one
        ]
        pick = sampler(draws[len(completions) :], temperature)
        completions += map(torch.tensor, decode(model, groups, pick, max_new_tokens, eos, suppress))
    return [completions[i : i + group_size] for i in range(0, len(completions), group_size)]


def sampler(draws: Tensor, temperature: float) -> Pick:
    """The token at which the cumulative distribution passes `draws[row, step]`, uniform in [0, 1)."""

    def pick(logits: Tensor, rows: list[int], step: int) -> LongTensor:
        if temperature == 0:
            return logits.argmax(-1)
        cumulative = (logits / temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
        drawn = draws[rows, step].to(logits.device)[:, None]
        return (cumulative <= drawn * cumulative[:, -1:]).sum(-1)

    return pick


def answer_many(
    model: torch.nn.Module,
    pixel_values: Tensor | None,
    grid: LongTensor | None,
    prompts: list[LongTensor],
    max_new_tokens: int,
    eos: int,
    suppress: list[int],
    *,
    features: Tensor | None = None,
) -> list[list[int]]:
    """Token ids of the greedy answer to each prompt, `eos` kept where the model ended; equal to `generate` one by one.

    `prompts` are 1-D token ids that agree up to and including the video's tokens; `pixel_values` (patches, patch
    size) and `grid` (1, 3) are what `vsr.video.patchify` gives, both None for text alone. `features` (video tokens,
    hidden size) replaces the vision tower's pass where they are known. Raises VsrError where a video token is not
    shared by all prompts."""
    if pixel_values is not None and features is None:
        features = video_features(model, pixel_values, grid)
    return answer_scenes(model, [(prompts, features, grid)], max_new_tokens, eos, suppress)[0]


def answer_scenes(
    model: torch.nn.Module, scenes: Sequence[Asked], max_new_tokens: int, eos: int, suppress: list[int]
) -> list[list[list[int]]]:
    """What `answer_many` gives for each of `scenes`, each its prompts, its video's features and their grid (None for
    text alone); as many scenes are decoded together as hold `ANSWERED` tokens."""
    groups, sizes = [], []
    for prompts, features, grid in scenes:
        if not prompts or max_new_tokens < 1:
            asked = f"{len(prompts)} prompts, max_new_tokens={max_new_tokens}"
            raise VsrError(f"{asked}: nothing to answer; give at least 1")
        shared = _shared_length(prompts)
        if shared == 0:
            raise VsrError("the prompts share no first token: render them with the chat template")
        if grid is not None and any((p[shared:] == base_model(model).config.video_token_id).any() for p in prompts):
            why = "the prompts differ before the end of the video"
            raise VsrError(f"{why}: ask about different videos in separate calls")
        places = [positions(model, prompt, grid) for prompt in prompts]
        groups.append(_group(shared, prompts, places, features))
        sizes.append(shared + sum(len(prompt) - shared + max_new_tokens for prompt in prompts))
    answers: list[list[int]] = []
    for batch in batches(sizes, ANSWERED):
        some = [groups[i] for i in batch]
        answers += decode(model, some, lambda logits, *_: logits.argmax(-1), max_new_tokens, eos, suppress)
    left = iter(answers)
    return [[next(left) for _ in prompts] for prompts, *_ in scenes]


def _group(shared: int, prompts: list[LongTensor], places: list[LongTensor], features: Tensor | None) -> Group:
    """The group of whole prompts and their positions (3, tokens), of which the first `shared` are the same."""
    ids = torch.cat([prompts[0][:shared], *(prompt[shared:] for prompt in prompts)])
    joined = torch.cat([places[0][:, :shared], *(place[:, shared:] for place in places)], 1)
    return Group(ids, joined, features, shared, [len(prompt) - shared for prompt in prompts])


def _shared_length(prompts: list[LongTensor]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    length = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0][:length]
    for prompt in prompts[1:]:
        differ = (prompt[:length] != first[:length]).nonzero()
        length = int(differ[0]) if len(differ) else length
    return length


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
    answers: list[list[int]] = [[] for group in groups for _ in group.lengths]
    running = list(range(len(answers)))
    with _merged(model):
        layout, own, hidden, places = _read(base, groups)
        for step in range(max_new_tokens):
            logits = base.lm_head(hidden).float()
            logits[:, suppress] = -torch.inf
            tokens = pick(logits, running, step)
            for row, token in zip(running, tokens.tolist(), strict=True):
                answers[row].append(token)
            kept = [i for i, row in enumerate(running) if answers[row][-1] != eos]
            if not kept or step + 1 == max_new_tokens:
                break
            if len(kept) < len(running):
                running = [running[i] for i in kept]
                own.batch_select_indices(torch.tensor(kept, device=tokens.device))
                tokens, places = tokens[kept], places[:, kept]
                layout.keep(kept)
            places = places + 1
            layout.seen = pad(layout.seen, (0, 1), value=True)
            hidden = advance(base, tokens, places, own, layout)
    return answers


def advance(base, tokens: LongTensor, places: LongTensor, own: DynamicCache, layout: Decoding) -> Tensor:
    """What rows end in (rows, hidden size) after one more of their `tokens` (rows,) each at `places` (3, rows, 1); its
    keys and values join their `own`."""
    return base.model.language_model(
        inputs_embeds=base.get_input_embeddings()(tokens[:, None]),
        position_ids=places,
        attention_mask=UNMASKED,
        past_key_values=own,
        use_cache=True,
        layout=layout,
    ).last_hidden_state[:, -1]


def _read(base, groups: list[Group]) -> tuple[Decoding, DynamicCache, Tensor, LongTensor]:
    """Every group read in a packed pass of its own, without padding, and what decoding goes on with: the prefixes' keys
    and values, the branches', the hidden states (rows, D) and positions (3, rows, 1) of the branches' last tokens."""
    config = base.config.get_text_config()
    longest = max(length for group in groups for length in group.lengths)
    past, branches, hidden, places, seen = [], [], [], [], []
    for group in groups:
        cache, embeddings = DynamicCache(config=config), embed(base, group.ids, group.features)
        states = read(base, embeddings, group.places, [(group.prefix, group.lengths)], cache)
        lengths = torch.tensor(group.lengths)
        last = group.prefix + lengths.cumsum(0) - 1
        # (rows, longest): a row's own tokens at the right; what stands before them is another's and stays unseen
        index = (last[:, None] + 1 - longest + torch.arange(longest)).clamp_min(0)
        seen.append(torch.arange(longest) >= longest - lengths[:, None])
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        past.append([tuple(tensor[:, :, : group.prefix] for tensor in pair) for pair in layers])
        branches.append([[tensor[0][:, index].transpose(0, 1) for tensor in pair] for pair in layers])
        hidden.append(states[last])
        places.append(group.places[:, last, None])
    layout, own = Decoding(past, [len(group.lengths) for group in groups]), DynamicCache(config=config)
    layout.seen = torch.cat(seen).to(base.device)
    for number, layer in enumerate(zip(*branches, strict=True)):
        own.update(*(torch.cat(parts) for parts in zip(*layer, strict=True)), number)
    return layout, own, torch.cat(hidden), torch.cat(places, 1).to(base.device)


@contextmanager
def _merged(model: torch.nn.Module) -> Iterator[None]:
    """The adapter added to its base's weights, which saves two thin matrix products a layer and token.

    Only where weights are float32: in bf16 rounding would swallow a young adapter (at a learning rate of 1e-5 it is
    99 % of the adapter's effect after one step), and quantised weights cannot take it."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    if any(w.dtype != torch.float32 or layer.disable_adapters for w, layer in zip(weights, layers, strict=True)):
        layers, weights = [], []
    kept = [weight.detach().clone() for weight in weights]
    for layer in layers:
        layer.merge()
    try:
        yield
    finally:
        for layer, weight, bits in zip(layers, weights, kept, strict=True):
            layer.unmerge()
            weight.data.copy_(bits)  # what was added and subtracted has other last bits
