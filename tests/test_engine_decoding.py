"""One decoding loop: questions on one video or on several, and rollouts of several groups, give the very tokens that
one at a time gives; samples follow the model's own distribution."""

import pytest
import torch
from naive import (
    EOS,
    SPECIAL,
    answer_many,
    generate_one,
    random_model,
    random_prompt,
    random_video,
    vision_inputs,
    with_lora,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from vsr.engine import decoding, slots
from vsr.engine.decoding import answer_scenes, rollouts
from vsr.engine.inputs import Prompt, base_model, batches, passes, positions, video_features
from vsr.errors import VsrError

SIZES = [{"hidden": 32, "layers": 2, "heads": 4, "kv": 2}, {"hidden": 64, "layers": 3, "heads": 2, "kv": 1},
         {"hidden": 64, "layers": 1, "heads": 4, "kv": 4}]  # fmt: skip
GRIDS = [(2, 4, 6), None, (3, 2, 2), (1, 8, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("video", [True, False])
@pytest.mark.parametrize("lengths", [[5, 9, 1, 7, 7, 12], [4]])
def test_answers_equal_generate_one_by_one(size, video, lengths):
    model = random_model(1, **size)
    pixels, grid = random_video(2, (3, 4, 6)) if video else (None, None)
    prompts = [random_prompt(10 + i, n, grid) for i, n in enumerate(lengths)]
    eos = generate_one(model, pixels, grid, prompts[0], 6, EOS, SPECIAL)[3]  # some row ends early
    expected = [generate_one(model, pixels, grid, prompt, 6, eos, SPECIAL) for prompt in prompts]
    assert answer_many(model, pixels, grid, prompts, 6, eos, SPECIAL) == expected
    assert len({tuple(answer) for answer in expected}) > 1 or len(lengths) == 1


def test_answers_see_the_video():
    model = random_model(1)
    prompts = [random_prompt(10 + i, 6, torch.tensor([[2, 4, 6]])) for i in range(8)]
    answers = [answer_many(model, *random_video(seed), prompts, 4, EOS, SPECIAL) for seed in (2, 3)]
    assert answers[0] != answers[1]


def test_suppressed_tokens_are_never_answered():
    model = random_model(1)
    prompts = [random_prompt(10 + i, 6, None) for i in range(8)]
    free = answer_many(model, None, None, prompts, 4, EOS, [])
    banned = sorted({token for answer in free for token in answer})[:5]
    answers = answer_many(model, None, None, prompts, 4, EOS, banned)
    assert not set(banned) & {token for answer in answers for token in answer}


def test_different_videos_and_videos_of_another_size_are_refused():
    model = random_model(1)
    pixels, grid = random_video(2)
    prompts = [random_prompt(1, 4, grid), random_prompt(1, 4, grid, head=4)]
    with pytest.raises(VsrError, match="differ before the end of the video"):
        answer_many(model, pixels, grid, prompts, 4, EOS, SPECIAL)
    with pytest.raises(VsrError, match="video tokens"):
        answer_many(model, *random_video(2, (4, 4, 6)), prompts[:1], 4, EOS, SPECIAL)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_scenes_answered_together_equal_one_by_one(budget, monkeypatch):
    monkeypatch.setattr(decoding, "ANSWERED", budget)
    model = with_lora(random_model(1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    asked, expected = [], []
    for seed, shape in enumerate(GRIDS):
        pixels, grid = random_video(seed, shape) if shape else (None, None)
        prompts = [random_prompt(10 * seed + i, n, grid) for i, n in enumerate([5, 9, 1][: seed + 1])]
        asked.append((prompts, None if grid is None else video_features(model, pixels, grid), grid))
        expected.append([generate_one(model, pixels, grid, prompt, 6, EOS, SPECIAL) for prompt in prompts])
    assert answer_scenes(model, asked, 6, EOS, SPECIAL) == expected
    with model.disable_adapter():
        assert answer_scenes(model, asked, 6, EOS, SPECIAL) != expected  # the adapter counts, merged or not
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())  # merging leaves no trace


# --- rollouts ---
def prompts_of(model):
    found = []
    for seed, (grid, length) in enumerate(zip(GRIDS, [3, 9, 5, 5], strict=True)):
        pixels, grid = random_video(seed, grid) if grid else (None, None)
        features = None if grid is None else video_features(model, pixels, grid)
        found.append((pixels, Prompt(random_prompt(seed, length, grid), features, grid)))
    return found


@pytest.mark.parametrize("budget", [35, 100, 10_000])
def test_greedy_rollouts_equal_generate_one_by_one(budget):
    model = random_model(2)
    prompts = prompts_of(model)
    free = [generate_one(model, px, p.grid, p.ids, 7, 96, SPECIAL) for px, p in prompts]
    eos = free[0][2]  # the first group leaves the batch early
    expected = [generate_one(model, px, p.grid, p.ids, 7, eos, SPECIAL) for px, p in prompts]
    found = rollouts(model, [p for _, p in prompts], 3, 7, eos, SPECIAL, temperature=0, token_budget=budget)
    assert [[c.tolist() for c in group] for group in found] == [[answer] * 3 for answer in expected]
    assert len({len(answer) for answer in expected}) > 1


def test_samples_follow_the_models_distribution():
    model = random_model(2)
    pixels, prompt = prompts_of(model)[0]
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
    prompts = [p for _, p in prompts_of(model)]

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


# --- the step that a CUDA graph captures ---
def slots_of(model, prompts, rows=3, temperature=1.0):
    base = base_model(model)
    found = slots.Slots(base, slots.Shape(len(prompts), rows, 40, 8, 7), EOS, SPECIAL, temperature)
    groups = {}
    for number, (_, prompt) in enumerate(prompts):
        ids, places = prompt.ids, positions(base, prompt.ids, prompt.grid)
        tails = (
            torch.cat([ids[:-1], ids[-1:].expand(rows)]),
            torch.cat([places[:, :-1], places[:, -1:].expand(-1, rows)], 1),
        )
        who = [number * rows + i for i in range(rows)]
        draws = torch.rand(rows, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        groups[number] = slots.Group(*tails, prompt.features, len(ids) - 1, [1] * rows, who, draws)
    with torch.no_grad():
        found.put(groups)
    return found


class Operations(TorchDispatchMode):
    """The names of all that is launched, views left out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_step_keeps_its_tensors_where_they_are_and_asks_the_host_nothing():
    model = random_model(2)
    found = slots_of(model, prompts_of(model))
    tensors = {name: value for name, value in vars(found).items() if isinstance(value, torch.Tensor)}
    tensors |= {f"{name}{i}": part for name in ("past", "own") for i, part in enumerate(getattr(found, name))}
    where = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    lists = []
    for _ in range(3):
        with Operations() as seen:
            found.step(8)
        lists.append(seen.names)
    assert lists[0] == lists[1] == lists[2]
    # what would make a GPU's host wait, or hang on the values
    assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select"} & set(lists[0])
    assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == where
    assert found.count.tolist() == [3] * 12 or (found.alive == 0).any()


@torch.no_grad()
def test_a_step_costs_as_many_operations_however_many_groups():
    counts = {}
    for layers in (1, 3):
        for prompts in (2, 4):
            model = random_model(2, layers=layers)
            with Operations() as seen:
                slots_of(model, prompts_of(model)[:prompts]).step(8)
            with Operations() as before:
                slots_of(model, prompts_of(model)[:prompts])
            counts[layers, prompts] = len(seen.names) - len(before.names)
    assert counts[1, 2] == counts[1, 4]
    assert (counts[3, 4] - counts[1, 4]) / 2 <= 60


@torch.no_grad()
def test_a_step_is_traced_whole_and_what_was_traced_goes_on_by_itself():
    """What a capture does: the operations are written down once, with all tensors where they are, and run again."""
    model = random_model(2)
    plain, traced = (slots_of(model, prompts_of(model)) for _ in range(2))
    for found in (plain, traced):
        found.step(8)  # as on a GPU, the first is not captured
    graph = make_fx(lambda: traced.step(8))()
    plain.step(8)  # tracing has run it once
    for _ in range(4):
        plain.step(8)
        graph()
    assert torch.equal(plain.answers, traced.answers)
    assert torch.equal(plain.filled, traced.filled)
    assert len({tuple(answer) for answer in plain.answers.tolist()}) > 4


@pytest.mark.parametrize("budget", [100, 150, 10_000])  # one slot, two with groups that wait, all
@pytest.mark.parametrize(("look", "room"), [(1, 1), (1, 2), (3, 16)])
def test_looking_seldom_and_growing_slowly_change_no_answer(look, room, budget, monkeypatch):
    model = random_model(2)
    prompts = [prompt for _, prompt in prompts_of(model)]

    def draw():
        each = [torch.Generator().manual_seed(place) for place in range(len(prompts))]
        return rollouts(model, prompts, 4, 6, 40, SPECIAL, generators=each, token_budget=budget)

    expected = draw()
    assert len({len(completion) for group in expected for completion in group}) > 1  # some end early
    monkeypatch.setattr(decoding, "LOOK", look)
    monkeypatch.setattr(decoding, "ROOM", room)
    for ours, theirs in zip(draw(), expected, strict=True):
        assert [c.tolist() for c in ours] == [c.tolist() for c in theirs]
