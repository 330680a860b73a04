"""Shared-prefix log-probabilities and their gradients equal one forward a completion."""

import pytest
import torch
from naive import group_logps, naive_logps, random_model, random_prompt, random_video, with_lora

from vsr.engine import logps
from vsr.engine.inputs import Prompt, video_features
from vsr.engine.logps import packed_logps
from vsr.errors import VsrError

SIZES = [{"hidden": 32, "layers": 2, "heads": 4, "kv": 2}, {"hidden": 64, "layers": 3, "heads": 2, "kv": 1},
         {"hidden": 64, "layers": 1, "heads": 4, "kv": 4}]  # fmt: skip
GRIDS = [(2, 4, 6), (1, 8, 4), (3, 2, 2), None]


def completions_of(seed: int, lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(7, 90, (n,), generator=generator) for n in lengths]


def group(model, seed: int, grid, lengths: list[int], question: int = 6):
    pixels, grid = random_video(seed, grid) if grid else (None, None)
    ids = random_prompt(seed, question, grid)
    features = None if grid is None else video_features(model, pixels, grid)
    return pixels, Prompt(ids, features, grid), completions_of(seed + 100, lengths)


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    assert ours
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logps_and_lora_gradients_equal_the_naive_way(size, grid, checkpointing, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK", 8)  # several chunks of branches
    model = with_lora(random_model(3, **size)).train()
    pixels, prompt, completions = group(model, 5, grid, [7, 1, 4, 7, 2])
    weights = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = naive_logps(model, pixels, prompt.grid, prompt.ids, completions)
    expected_gradients = gradients(model, (expected * weights).sum())
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = group_logps(model, prompt, completions)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert relative(gradients(model, (found * weights).sum()), expected_gradients) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_several_prompts_of_several_videos_in_one_pass(checkpointing):
    model = with_lora(random_model(3)).train()
    groups = [
        group(model, i, grid, lengths)
        for i, (grid, lengths) in enumerate(zip(GRIDS, [[3, 5], [1], [2, 2, 6], [4]], strict=True))
    ]
    expected = [
        row[: len(c)]
        for px, p, cs in groups
        for row, c in zip(naive_logps(model, px, p.grid, p.ids, cs), cs, strict=True)
    ]
    expected_gradients = gradients(model, sum(row.sum() for row in expected))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found, entropies = packed_logps(model, [p for _, p, _ in groups], [c for *_, c in groups])
    for row, answer in zip(found, expected, strict=True):
        torch.testing.assert_close(row[: len(answer)], answer, atol=1e-5, rtol=0)
        assert not row[len(answer) :].any()
    assert relative(gradients(model, found.sum()), expected_gradients) < 1e-5
    assert (entropies >= 0).all()


def test_reference_is_the_model_without_its_adapter():
    model = with_lora(random_model(3))
    pixels, prompt, completions = group(model, 5, (2, 4, 6), [4, 2])
    with torch.no_grad(), model.disable_adapter():
        found = group_logps(model, prompt, completions)
        expected = naive_logps(model, pixels, prompt.grid, prompt.ids, completions)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - group_logps(model, prompt, completions)).abs().max() > 1e-3


def test_checkpointed_head_changes_nothing(monkeypatch):

    model = with_lora(random_model(3)).train()
    _, prompt, completions = group(model, 5, (2, 4, 6), [4, 2, 6])
    whole = group_logps(model, prompt, completions)
    expected = gradients(model, whole.sum())
    monkeypatch.setattr(logps, "MAX_LOGITS", 500)  # five tokens at once
    pieces = group_logps(model, prompt, completions)
    # no library promises the same last bits for matrix products of other shapes: five rows here, twelve there
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    assert relative(gradients(model, pieces.sum()), expected) < 1e-5


def test_temperature_and_entropy():
    model = random_model(3)
    pixels, prompt, completions = group(model, 5, (2, 4, 6), [3])
    ids = torch.cat((prompt.ids, completions[0]))[None]
    from naive import vision_inputs

    logits = model(input_ids=ids, use_cache=False, **vision_inputs(ids, pixels, prompt.grid)).logits[0, -4:-1]
    expected = torch.distributions.Categorical(logits=logits / 0.7)
    logps, entropy = packed_logps(model, [prompt], [completions], temperature=0.7)
    torch.testing.assert_close(logps[0], expected.log_prob(completions[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy[0], expected.entropy(), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_near_float32():
    model = random_model(3)
    _, prompt, completions = group(model, 5, (2, 4, 6), [6, 3, 6])
    with torch.no_grad():
        exact = group_logps(model, prompt, completions)
        half = group_logps(model.to(torch.bfloat16), prompt, completions)
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(("setting", "told"), [("hidden_act", "hidden_act='gelu'"), ("head", "lm_head is Linear")])
def test_a_model_that_it_would_compute_wrongly_is_refused(setting, told):
    from peft import LoraConfig, get_peft_model

    model = random_model(3)
    _, prompt, completions = group(model, 5, None, [3])
    if setting == "head":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"]))
    else:
        model.model.language_model.config.hidden_act = "gelu"
    with pytest.raises(VsrError, match=told):
        group_logps(model, prompt, completions)
