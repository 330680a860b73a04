"""Rollouts of several groups at once: the model's own distribution, the very tokens of one at a time when greedy."""

import pytest
import torch
from naive import EOS, SPECIAL, generate_one, random_model, random_prompt, random_video, vision_inputs

from vsr.engine.decoding import rollouts
from vsr.engine.inputs import Prompt, batches, passes, video_features
from vsr.errors import VsrError

GRIDS = [(2, 4, 6), None, (3, 2, 2), (1, 8, 4)]


def prompts_of(model, lengths):
    found = []
    for seed, (grid, length) in enumerate(zip(GRIDS, lengths, strict=True)):
        pixels, grid = random_video(seed, grid) if grid else (None, None)
        features = None if grid is None else video_features(model, pixels, grid)
        found.append((pixels, Prompt(random_prompt(seed, length, grid), features, grid)))
    return found


@pytest.mark.parametrize("budget", [35, 100, 10_000])
def test_greedy_rollouts_equal_generate_one_by_one(budget):
    model = random_model(2)
    prompts = prompts_of(model, [3, 9, 5, 5])
    free = [generate_one(model, px, p.grid, p.ids, 7, 96, SPECIAL) for px, p in prompts]
    eos = free[0][2]  # the first group leaves the batch early
    expected = [generate_one(model, px, p.grid, p.ids, 7, eos, SPECIAL) for px, p in prompts]
    found = rollouts(model, [p for _, p in prompts], 3, 7, eos, SPECIAL, temperature=0, token_budget=budget)
    assert [[c.tolist() for c in group] for group in found] == [[answer] * 3 for answer in expected]
    assert len({len(answer) for answer in expected}) > 1


def test_samples_follow_the_models_distribution():
    model = random_model(2)
    pixels, prompt = prompts_of(model, [3, 9, 5, 5])[0]
    ids = prompt.ids[None]
    with torch.no_grad():
        logits = model(input_ids=ids, **vision_inputs(ids, pixels, prompt.grid)).logits[0, -1]
    logits[SPECIAL] = -torch.inf
    expected = (logits / 2.0).softmax(-1)
    generator = torch.Generator().manual_seed(0)
    (group,) = rollouts(model, [prompt], 4000, 1, EOS, SPECIAL, temperature=2.0, generators=[generator])
    counts = torch.bincount(torch.cat(group), minlength=97)
    assert not counts[SPECIAL].any()
    common = expected > 0.002
    deviation = (counts - 4000 * expected)[common] / (4000 * expected * (1 - expected)).sqrt()[common]
    assert deviation.abs().max() < 4  # standard deviations
    assert expected[common].sum() > 0.9


def test_draws_are_those_of_the_seed():
    model = random_model(2)
    prompts = [p for _, p in prompts_of(model, [3, 9, 5, 5])]

    def draw(seed, budget=10_000):
        each = [torch.Generator().manual_seed(seed + place) for place in range(len(prompts))]
        groups = rollouts(model, prompts, 4, 6, EOS, SPECIAL, generators=each, token_budget=budget)
        return [completion.tolist() for group in groups for completion in group]

    assert draw(1) == draw(1) == draw(1, budget=50) != draw(10)


def test_batches_keep_to_the_budget():
    assert batches([3, 3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3], [4, 5]]
    assert batches([], 6) == []


def test_passes_hold_every_completion_once_within_the_budget():
    prompts, completions = [10, 3, 5], [[4, 4, 4, 2], [1], [9, 1]]
    found = passes(prompts, completions, 20)
    flat = [(group, i) for one in found for group, members in one for i in members]
    assert sorted(flat) == [(g, i) for g, lengths in enumerate(completions) for i in range(len(lengths))]
    sizes = [sum(prompts[g] + sum(completions[g][i] for i in members) for g, members in one) for one in found]
    assert max(sizes) <= 20
    assert len(found) < len(flat)
    with pytest.raises(VsrError, match="token_budget=13"):
        passes(prompts, completions, 13)
