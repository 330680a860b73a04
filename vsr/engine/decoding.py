"""One loop that continues many branches of shared prefixes: the rollouts of a group, the questions on a video."""

import math
from collections.abc import Sequence

import torch
from torch import LongTensor, Tensor

from vsr.engine.inputs import Prompt, base_model, parts, placed, positions
from vsr.engine.slots import Group, Shape, Slots
from vsr.errors import VsrError

# prompts, their video's features, grid and, where positions know time, seconds a step
Asked = tuple[list[LongTensor], Tensor | None, LongTensor | None, *tuple[Tensor | None, ...]]
ANSWERED = 1 << 15  # tokens of prompts and answers that are decoded together, 0.9 GB of keys and values of Qwen2-VL-2B
# steps between two looks at who has ended, and the share of rows at which a batch is made smaller: a GPU would stand
# still while the host looks, and captures its step anew for another shape
LOOK, LOOK_GPU = 1, 8
SHRINK, SHRINK_GPU = 0.8, 0.5
ROOM = 16  # tokens of its own that a row gets room for at a time


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
    logps: list[list[Tensor]] | None = None,
) -> list[list[LongTensor]]:
    """`group_size` sampled completions for each prompt, 1-D token ids on the CPU, `eos` kept where the model ended.

    As many groups are decoded together as prompts and completions of `token_budget` tokens hold, and another takes the
    place of one that has ended. The draws, each prompt's from its own of `generators` on the CPU, do not depend on
    that, nor on the device, nor on the other prompts. Temperature 0 is greedy. `logps` receives the log-probabilities
    of the tokens as they were drawn (their logits at temperature 0), in the completions' form."""
    shape = (group_size, max_new_tokens)
    sources = generators or [None] * len(prompts)
    draws = [torch.rand(*shape, generator=one, dtype=torch.float64) for one in sources]
    places = [placed(model, prompt) for prompt in prompts]
    # every branch starts with its prompt's last token: the same split as in `vsr.engine.logps`
    wanted = parts(
        [len(prompt.ids) for prompt in prompts], [[max_new_tokens] * group_size] * len(prompts), token_budget
    )
    groups = [
        _group(
            len(prompts[i].ids) - 1,
            [prompts[i].ids] * len(members),
            [places[i]] * len(members),
            prompts[i].features,
            [i * group_size + member for member in members],
            draws[i][members],
        )
        for i, members in wanted
    ]
    found = decode(model, groups, token_budget, max_new_tokens, eos, suppress, temperature)
    starts = range(0, len(found), group_size)
    if logps is not None:
        logps += [[torch.tensor(drawn) for _, drawn in found[i : i + group_size]] for i in starts]
    return [[torch.tensor(answer) for answer, _ in found[i : i + group_size]] for i in starts]


def answer_scenes(
    model: torch.nn.Module, scenes: Sequence[Asked], max_new_tokens: int, eos: int, suppress: list[int]
) -> list[list[list[int]]]:
    """Token ids of the greedy answer to each prompt of each of `scenes`, `eos` kept where the model ended; equal to
    `generate` one by one. As many scenes are decoded together as hold `ANSWERED` tokens.

    A scene is as `Asked` says, None for text alone: 1-D token ids that agree up to and including the video's tokens.
    VsrError where a video token is not shared by all prompts, or the logits are not finite."""
    groups, rows = [], 0
    for prompts, features, grid, *step in scenes:
        if not prompts or max_new_tokens < 1:
            asked = f"{len(prompts)} prompts, max_new_tokens={max_new_tokens}"
            raise VsrError(f"{asked}: nothing to answer; give at least 1")
        shared = _shared_length(prompts)
        if shared == 0:
            raise VsrError("the prompts share no first token: render them with the chat template")
        if grid is not None and any((p[shared:] == base_model(model).config.video_token_id).any() for p in prompts):
            why = "the prompts differ before the end of the video"
            raise VsrError(f"{why}: ask about different videos in separate calls")
        places = [positions(model, prompt, grid, *step) for prompt in prompts]
        groups.append(_group(shared, prompts, places, features, list(range(rows, rows + len(prompts)))))
        rows += len(prompts)
    found = decode(model, groups, ANSWERED, max_new_tokens, eos, suppress)
    if not all(math.isfinite(logit) for _, logits in found for logit in logits):
        kind = str(base_model(model).dtype).removeprefix("torch.")
        raise VsrError(f"the model's logits are not finite in {kind}; --set dtype=float32 (float16 overflows easily)")
    left = iter(found)
    return [[next(left)[0] for _ in prompts] for prompts, *_ in scenes]


def _group(shared: int, prompts: list[LongTensor], places: list[LongTensor], features: Tensor | None, *who) -> Group:
    """The group of whole prompts and their positions (3, tokens), of which the first `shared` are the same."""
    ids = torch.cat([prompts[0][:shared], *(prompt[shared:] for prompt in prompts)])
    joined = torch.cat([places[0][:, :shared], *(place[:, shared:] for place in places)], 1)
    return Group(ids, joined, features, shared, [len(prompt) - shared for prompt in prompts], *who)


def _shared_length(prompts: list[LongTensor]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    length = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0][:length]
    for prompt in prompts[1:]:
        differ = (prompt[:length] != first[:length]).nonzero()
        length = int(differ[0]) if len(differ) else length
    return length


@torch.inference_mode()
def decode(
    model: torch.nn.Module,
    groups: list[Group],
    budget: int,
    max_new_tokens: int,
    eos: int,
    suppress: list[int],
    temperature: float = 0.0,
) -> list[tuple[list[int], list[float]]]:
    """Continue every branch until `eos` (kept as its last token) or `max_new_tokens`; answers and what `Slots.take`
    gives with them, in the order of `rows`.

    Each prefix is read once, into the next of as many slots as `budget` tokens hold that has none, or whose rows have
    all ended. A new token's position is its predecessor's + 1, as `get_rope_index` gives it for the whole sequence."""
    base, answers = base_model(model), {}
    room = max(length for group in groups for length in group.lengths) + max_new_tokens
    width, prefix = max(len(group.lengths) for group in groups), max(group.prefix for group in groups)
    # a row's last place is for what it writes once it has ended, which the budget does not count
    number = min(len(groups), max(1, budget // (prefix + width * (room - 1))))
    gpu, waiting = base.device.type == "cuda", list(reversed(groups))
    look, most = (LOOK_GPU, SHRINK_GPU) if gpu else (LOOK, SHRINK)
    # a GPU's batch keeps its shape; a processor pays for every zero that is never looked at
    room = room if gpu else min(room, room - max_new_tokens + ROOM)
    slots = Slots(base, Shape(number, width, prefix, room, max_new_tokens), eos, suppress, temperature)
    while waiting or any(slots.running()):
        free = [slot for slot, rows in enumerate(slots.running()) if not rows][: len(waiting)]
        if free:
            slots.put({slot: waiting.pop() for slot in free})
        for _ in range(look):
            slots.advance()
        answers |= slots.take()
        if any(slots.running()):
            slots = slots.fitted(most, ROOM, bool(waiting))
    return [answers[row] for row in sorted(answers)]
