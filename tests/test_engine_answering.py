"""Many questions on one video give the very tokens that one question at a time gives."""

import pytest
import torch
from naive import EOS, SPECIAL, generate_one, random_model, random_prompt, random_video, with_lora

from vsr.engine import decoding
from vsr.engine.decoding import answer_many, answer_scenes
from vsr.engine.inputs import video_features
from vsr.errors import VsrError

SIZES = [{"hidden": 32, "layers": 2, "heads": 4, "kv": 2}, {"hidden": 64, "layers": 3, "heads": 2, "kv": 1},
         {"hidden": 64, "layers": 1, "heads": 4, "kv": 4}]  # fmt: skip


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


def test_prompts_on_different_videos_are_refused():
    model = random_model(1)
    pixels, grid = random_video(2)
    prompts = [random_prompt(1, 4, grid), random_prompt(1, 4, grid, head=4)]
    with pytest.raises(VsrError, match="differ before the end of the video"):
        answer_many(model, pixels, grid, prompts, 4, EOS, SPECIAL)


def test_video_of_another_size_is_refused():
    model = random_model(1)
    _, grid = random_video(2)
    with pytest.raises(VsrError, match="video tokens"):
        answer_many(model, *random_video(2, (4, 4, 6)), [random_prompt(1, 4, grid)], 4, EOS, SPECIAL)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_scenes_answered_together_equal_one_by_one(budget, monkeypatch):
    monkeypatch.setattr(decoding, "ANSWERED", budget)
    model = with_lora(random_model(1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    asked, expected = [], []
    for seed, shape in enumerate([(2, 4, 6), None, (3, 2, 2), (1, 8, 4)]):
        pixels, grid = random_video(seed, shape) if shape else (None, None)
        prompts = [random_prompt(10 * seed + i, n, grid) for i, n in enumerate([5, 9, 1][: seed + 1])]
        asked.append((prompts, None if grid is None else video_features(model, pixels, grid), grid))
        expected.append([generate_one(model, pixels, grid, prompt, 6, EOS, SPECIAL) for prompt in prompts])
    assert answer_scenes(model, asked, 6, EOS, SPECIAL) == expected
    with model.disable_adapter():
        assert answer_scenes(model, asked, 6, EOS, SPECIAL) != expected  # the adapter counts, merged or not
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())  # merging leaves no trace
