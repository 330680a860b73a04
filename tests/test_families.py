"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL through one engine: equal to transformers' own processor and models."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.make_families import CASES, CHAT, listed, official, places, sizes_of
from golden.make_video import frames, summary
from naive import answer_many, group_logps, with_lora
from small import small_tokenizer, write_video

from vsr import families, models, prompts
from vsr.engine.decoding import rollouts
from vsr.engine.inputs import FeatureCache, Prompt, embed, encoder_outputs, positions, times, video_features, wide
from vsr.engine.logps import packed_logps
from vsr.errors import VsrError
from vsr.families import FAMILIES, PUBLISHED, QWEN2_5_VL, QWEN3_VL
from vsr.models import folders, quantize
from vsr.video import Clip, patchify, sample, write_mp4

GOLDEN = json.loads((Path(__file__).parent / "golden" / "families.json").read_text())
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
TOKENIZER = small_tokenizer()
NEVER = TOKENIZER.convert_tokens_to_ids(list(folders.VISION_TOKENS))


def random_model(family, seed: int = 0, *, layers: int = 3, deep: int = 2):
    """A random model, fp32, whose logits are spread enough for answers to differ between prompts."""
    sizes = sizes_of(family)
    sizes["text"] |= {"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes["text"] |= {"hidden_size": 64, "head_dim": 32, "mrope_section": [4, 6, 6]} if family is QWEN3_VL else {}
    sizes["text"] |= {"mrope_section": [2, 1, 1]} if family is not QWEN3_VL else {}
    if family is QWEN3_VL:
        sizes["vision"] |= {"depth": deep, "deepstack_visual_indexes": list(range(deep))}
    torch.manual_seed(seed)
    model = family.model(folders.build_config(sizes, TOKENIZER)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            elif "q_norm" in name or "k_norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def clip(seed: int, grid=(3, 56, 112), total: int = 60, fps: float = 10.0) -> Clip:
    """Noise whose frames, two a step of `grid`, are spread over `total` of a video."""
    shown = np.random.default_rng(seed).integers(0, 256, (2 * grid[0], *grid[1:], 3), dtype=np.uint8)
    return Clip(shown, np.linspace(0, total - 1, len(shown)).astype(int).tolist(), total, fps)


def asked(model, family, shown: Clip, words: list[str], most: int = 128 * 32 * 32):
    """Pixels, grid, and a prompt about them for each of some words."""
    pixels, grid = patchify(shown.frames, most, family)
    step, stamps = times(family, shown, "clip")
    features = video_features(model, pixels, grid)
    chats = [[{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}] for text in words]
    ids = [prompts.render(TOKENIZER, chat, grid, stamps) for chat in chats]
    return pixels, grid, [Prompt(one, features, grid, step) for one in ids]


def vision(prompt: Prompt, ids: torch.Tensor, pixels: torch.Tensor) -> dict:
    """How transformers sees the video in a forward over `ids` (rows, tokens)."""
    video = TOKENIZER.convert_tokens_to_ids("<|video_pad|>")
    given = {
        "pixel_values_videos": pixels,
        "video_grid_thw": prompt.grid,
        "mm_token_type_ids": (ids == video).int() * 2,
    }
    return given | ({} if prompt.step is None else {"second_per_grid_ts": prompt.step})


def naive(model, prompt: Prompt, pixels, completions) -> list[torch.Tensor]:
    """One forward of transformers' own a completion."""
    found = []
    for completion in completions:
        ids = torch.cat((prompt.ids, completion))[None]
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.model.rope_deltas = None
        logits = model(input_ids=ids, use_cache=False, **vision(prompt, ids, pixels)).logits
        found.append(logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1).gather(-1, completion[:, None])[:, 0])
    return found


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['family']}-{'x'.join(map(str, row['case'][:4]))}")
def test_pixels_grid_ids_times_and_positions_are_the_processors_own(row):
    family, (count, height, width, most, fps, total) = FAMILIES[row["family"]], row["case"]
    shown = Clip(frames(count, height, width), places(row["case"]), total, fps)
    pixels, grid = patchify(shown.frames, most, family)
    step, stamps = times(family, shown, "clip")
    found = summary(pixels, grid)
    assert found["grid"] == row["pixels"]["grid"]
    assert found["values"] == pytest.approx(row["pixels"]["values"], abs=1e-6)
    assert found["sha256"] == row["pixels"]["sha256"]
    assert (None if step is None else step.tolist()) == row["step"]
    ids = prompts.render(TOKENIZER, CHAT, grid, stamps)
    assert listed(ids) == row["ids"]
    with torch.device("meta"):
        model = family.model(folders.build_config(sizes_of(family), TOKENIZER))
    assert listed(positions(model, ids, grid, step)) == row["positions"]


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is no dependency; see golden/")
@each_family
def test_golden_values_are_those_of_the_installed_processor(family):
    rows = [row for row in GOLDEN if row["family"] == family.name]
    for row, case in zip(rows, CASES, strict=True):
        found = official(family, case, TOKENIZER)
        assert {key: row[key] for key in found} == found


@each_family
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"layers": 2, "deep": 3}], ids=["", "deeper than the layers"])
def test_logps_and_gradients_equal_the_naive_way(family, checkpointing, sizes):
    model = with_lora(random_model(family, 3, **sizes)).train()
    pixels, _, (prompt,) = asked(model, family, clip(5), ["How many?"])
    generator = torch.Generator().manual_seed(0)
    completions = [torch.randint(20, 200, (length,), generator=generator) for length in (7, 1, 4)]
    weights = [torch.randn(len(completion), generator=generator) for completion in completions]
    expected = naive(model, prompt, pixels, completions)
    sum((row * weight).sum() for row, weight in zip(expected, weights, strict=True)).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = group_logps(model, prompt, completions)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[: len(theirs)], theirs, atol=2e-5, rtol=0)
    sum((row[: len(w)] * w).sum() for row, w in zip(found, weights, strict=True)).backward()
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, theirs in gradients.items():
        assert (model.get_parameter(name).grad - theirs).norm() <= 2e-5 * theirs.norm(), name


@each_family
def test_bfloat16_stays_near_float32(family):
    model = random_model(family, 3)
    _, _, (prompt,) = asked(model, family, clip(5), ["Why?"])
    with torch.no_grad():
        exact = group_logps(model, prompt, [torch.arange(40, 46)])
        half = group_logps(model.to(torch.bfloat16), prompt, [torch.arange(40, 46)])
    assert (half - exact).abs().max() < 0.1 * exact.abs().max()


@each_family
def test_videos_of_several_lengths_and_text_share_a_pass(family):
    model = random_model(family, 3)
    shown = [asked(model, family, clip(i, grid), ["Why?"]) for i, grid in enumerate([(1, 84, 56), (4, 56, 56)])]
    given = [ask[0] for *_, ask in shown] + [Prompt(torch.arange(30, 50))]
    completions = [[torch.arange(40, 43)], [torch.arange(50, 52), torch.arange(9)], [torch.arange(60, 64)]]
    with torch.no_grad():
        found, _ = packed_logps(model, given, completions)
        alone = [packed_logps(model, [one], [cs])[0] for one, cs in zip(given, completions, strict=True)]
        exact = [naive(model, p, px, cs) for p, (px, *_), cs in zip(given[:2], shown, completions[:2], strict=True)]
    rows = [row for part in alone for row in part]
    for ours, single in zip(found, rows, strict=True):
        torch.testing.assert_close(ours[: len(single)], single, atol=2e-5, rtol=0)
    for ours, theirs in zip(found, [row for part in exact for row in part], strict=False):
        torch.testing.assert_close(ours[: len(theirs)], theirs, atol=2e-5, rtol=0)


@each_family
def test_answers_are_those_of_transformers_generate(family):
    model = random_model(family, 1)
    words = ["How many chairs?", "Why?", "Which of these is the closest one to the bed, then?"]
    pixels, grid, given = asked(model, family, clip(2), words)
    expected = []
    for prompt in given:
        ids = prompt.ids[None]
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **vision(prompt, ids, pixels),
            max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0, suppress_tokens=NEVER,
        )  # fmt: skip
        expected.append(out[0, len(prompt.ids) :].tolist())
    ids = [prompt.ids for prompt in given]
    found = answer_many(model, pixels, grid, ids, 6, 1, NEVER, step=given[0].step)
    assert found == expected
    assert len({tuple(answer) for answer in expected}) > 1
    greedy = rollouts(model, given, 2, 6, 1, NEVER, temperature=0.0)
    assert [[answer.tolist() for answer in group] for group in greedy] == [[one, one] for one in expected]


def test_a_long_clip_is_continued_where_the_whole_sequence_is_scored():
    """Qwen2.5-VL's times may lie beyond the prompt's end. `generate` goes on behind the largest of them, a forward over
    the whole sequence behind the last token: the engine is with the second, or sampling and scoring would differ."""
    model = random_model(QWEN2_5_VL, 1)
    pixels, grid, (prompt,) = asked(model, QWEN2_5_VL, clip(2, total=6000), ["Why?"])
    places = positions(model, prompt.ids, grid, prompt.step)
    assert places.max() > places[:, -1].max()
    (answer,) = answer_many(model, pixels, grid, [prompt.ids], 6, 1, [], step=prompt.step)
    whole = prompt.ids
    for token in answer:
        model.model.rope_deltas = None
        logits = model(input_ids=whole[None], use_cache=False, **vision(prompt, whole[None], pixels)).logits
        assert int(logits[0, -1].argmax()) == token
        whole = torch.cat((whole, torch.tensor([token])))
    continued = torch.cat((places, places[:, -1:] + 1 + torch.arange(len(answer))), 1)
    assert torch.equal(positions(model, whole, grid, prompt.step), continued)


def test_the_times_of_a_video_reach_the_model(tmp_path):
    """The same pictures at 1 and at 30 frames a second are told apart, by the families that know of time."""
    pictures = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    told = {}
    for family in FAMILIES.values():
        for fps in (1, 30):
            write_mp4(tmp_path / f"{fps}.mp4", pictures, fps)
            see = FeatureCache(random_model(family), tmp_path / "cache", 8, 128 * 32 * 32)
            first, again = see(tmp_path / f"{fps}.mp4"), see(tmp_path / f"{fps}.mp4")
            for ours, kept in zip(first, again, strict=True):
                assert ours is kept is None or torch.equal(ours, kept)
            ids = prompts.render(TOKENIZER, CHAT, first.grid, first.stamps)
            told[family.name, fps] = ids.tolist(), positions(see.model, ids, first.grid, first.step).tolist()
    assert told["qwen2_vl", 1] == told["qwen2_vl", 30]
    assert told["qwen2_5_vl", 1][0] == told["qwen2_5_vl", 30][0]
    assert told["qwen2_5_vl", 1][1] != told["qwen2_5_vl", 30][1]
    assert "<2.0 seconds>" in TOKENIZER.decode(told["qwen3_vl", 1][0])
    assert "<0.1 seconds>" in TOKENIZER.decode(told["qwen3_vl", 30][0])


def test_times_that_are_unknown_are_refused():
    model = random_model(QWEN2_5_VL)
    _, grid, (prompt,) = asked(model, QWEN2_5_VL, clip(2), ["Why?"])
    with pytest.raises(VsrError, match=r"a prompt for Qwen2\.5-VL needs the video's times"):
        positions(model, prompt.ids, grid)
    with pytest.raises(VsrError, match="a prompt for Qwen3-VL needs the video's times"):
        positions(random_model(QWEN3_VL), prompt.ids, grid)
    with pytest.raises(VsrError, match=r"a\.mp4: says no frame rate"):
        times(QWEN3_VL, clip(0, fps=0.0), "a.mp4")


@pytest.mark.parametrize(("name", "number"), [
    ("Qwen2-VL-2B", 2_208_985_600), ("Qwen2-VL-7B", 8_291_375_616), ("Qwen2.5-VL-3B", 3_754_622_976),
    ("Qwen2.5-VL-7B", 8_292_166_656), ("Qwen3-VL-2B", 2_127_532_032), ("Qwen3-VL-4B", 4_437_815_808),
    ("Qwen3-VL-8B", 8_767_123_696),
])  # fmt: skip
def test_published_sizes_count_what_the_hub_counts(name, number):
    assert quantize.skeleton(folders.shape(PUBLISHED[f"Qwen/{name}-Instruct"])).num_parameters() == number


@each_family
def test_a_folder_of_each_family_opens_and_trains(family, tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    folder = folders.random_folder(tmp_path / "m", sizes_of(family), tmp_path / "tokenizer")
    loaded = models.load(str(folder))
    assert type(loaded.model) is family.model
    video = write_video(tmp_path / "a.mp4", frames=6, height=64, width=96)
    seen = FeatureCache(loaded.model, tmp_path / "cache", 4, 128 * 32 * 32)(video)
    ids = prompts.render(loaded.tokenizer, CHAT, seen.grid, seen.stamps)
    prompt = seen.prompt(ids)
    assert embed(loaded.model, ids, seen.features).shape[1] == 32 * wide(loaded.model.config)
    # what TRL's trainers are given in place of the tower, and the tower itself
    places = positions(loaded.model, ids, seen.grid, seen.step)[:, None]
    outputs = {"video": encoder_outputs(loaded.model, [seen.features])}
    with torch.no_grad():
        cached = loaded.model(input_ids=ids[None], position_ids=places, mm_encoder_outputs=outputs, use_cache=False)
        pixels, _ = patchify(sample(video, 4).frames, 128 * 32 * 32, family)
        whole = loaded.model(input_ids=ids[None], use_cache=False, **vision(prompt, ids[None], pixels))
    torch.testing.assert_close(cached.logits, whole.logits, atol=1e-5, rtol=0)


def test_other_families_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(VsrError, match="model type 'llava'; only these families are supported: qwen2_vl, qwen2_5_vl"):
        folders.find(str(tmp_path))
    with pytest.raises(VsrError, match="model type 'None'"):
        families.of(object())
