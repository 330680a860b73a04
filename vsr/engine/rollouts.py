"""The group of answers that GRPO samples to each prompt, the prompt read once."""

from collections.abc import Sequence

import torch
from torch import LongTensor, Tensor

from vsr.engine.budget import passes
from vsr.engine.decoding import Group, Pick, decode
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
    completions: list[LongTensor] = []
    for one in passes([len(prompt.ids) for prompt in prompts], wanted, token_budget):
        groups = [_group(model, prompts[index], len(members)) for index, members in one]
        pick = _sampler(draws[len(completions) :], temperature)
        completions += map(torch.tensor, decode(model, groups, pick, max_new_tokens, eos, suppress))
    return [completions[i : i + group_size] for i in range(0, len(completions), group_size)]


def _sampler(draws: Tensor, temperature: float) -> Pick:
    """The token at which the cumulative distribution passes `draws[row, step]`, uniform in [0, 1)."""

    def pick(logits: Tensor, rows: list[int], step: int) -> LongTensor:
        if temperature == 0:
            return logits.argmax(-1)
        cumulative = (logits / temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
        drawn = draws[rows, step].to(logits.device)[:, None]
        return (cumulative <= drawn * cumulative[:, -1:]).sum(-1)

    return pick


def _group(model: torch.nn.Module, prompt: Prompt, size: int) -> Group:
    """Every branch starts with the prompt's last token: the same split as in `vsr.engine.logps`."""
    places = positions(model, prompt.ids, prompt.grid)
    return Group(
        prefix=Prompt(prompt.ids[:-1], prompt.features, prompt.grid),
        prefix_positions=places[:, :-1],
        branches=[prompt.ids[-1:]] * size,
        positions=[places[:, -1:]] * size,
    )
