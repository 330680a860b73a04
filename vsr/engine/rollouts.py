"""The group of answers that GRPO samples to each prompt, the prompt read once."""

import torch
from torch import LongTensor, Tensor

from vsr.engine.decoding import Group, decode
from vsr.engine.inputs import Prompt, positions


def rollouts(
    model: torch.nn.Module,
    prompts: list[Prompt],
    group_size: int,
    max_new_tokens: int,
    eos: int,
    suppress: list[int],
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    token_budget: int = 1 << 16,
) -> list[list[LongTensor]]:
    """`group_size` sampled completions for each prompt, 1-D token ids on the CPU, `eos` kept where the model ended.

    Groups are decoded together as long as their prompts and completions hold at most `token_budget` tokens. Draws come
    from `generator` (on the CPU, the same for every device); temperature 0 is greedy."""

    def pick(logits: Tensor) -> LongTensor:
        if temperature == 0:
            return logits.argmax(-1)
        cumulative = (logits / temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
        draws = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
        return (cumulative <= draws * cumulative[:, -1:]).sum(-1)

    sizes = [len(prompt.ids) + group_size * max_new_tokens for prompt in prompts]
    completions: list[LongTensor] = []
    for batch in batches(sizes, token_budget):
        groups = [_group(model, prompts[index], group_size) for index in batch]
        completions += map(torch.tensor, decode(model, groups, pick, max_new_tokens, eos, suppress))
    return [completions[i : i + group_size] for i in range(0, len(completions), group_size)]


def batches(sizes: list[int], budget: int) -> list[list[int]]:
    """Consecutive indices in lists whose `sizes` sum to at most `budget`; one that is larger alone stands alone."""
    found: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not found or size > room:
            found, room = [*found, []], budget
        found[-1].append(index)
        room -= size
    return found


def _group(model: torch.nn.Module, prompt: Prompt, size: int) -> Group:
    """Every branch starts with the prompt's last token: the same split as in `vsr.engine.logps`."""
    places = positions(model, prompt.ids, prompt.grid)
    return Group(
        prefix=Prompt(prompt.ids[:-1], prompt.features, prompt.grid),
        prefix_positions=places[:, :-1],
        branches=[prompt.ids[-1:]] * size,
        positions=[places[:, -1:]] * size,
    )
