"""From a 480x640 mp4 to a score with everything of Qwen2-VL but its weights."""

import json
import os
import socket
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import jinja2
import pytest
import torch
from naive import answer_many
from real import ASKED, FPS, SECONDS, thin_folder, write_bench
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from vsr import cli, models, paper, prompts
from vsr.engine.inputs import positions
from vsr.families import PUBLISHED
from vsr.files import read_json, read_jsonl
from vsr.models import folders, quantize
from vsr.profiles import PROFILES
from vsr.questions import dataset
from vsr.video import decode, patchify, tokens

BUDGETS = (128 * 28 * 28, 256 * 28 * 28)
TOKENS = {(16, BUDGETS[0]): 936, (16, BUDGETS[1]): 1872, (32, BUDGETS[0]): 1872, (32, BUDGETS[1]): 3744}


@pytest.fixture(scope="module")
def processor(shared) -> Path:
    return shared / "qwen2-vl-processor"


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    return thin_folder(processor, tmp_path_factory.mktemp("real") / "thin")


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> dataset.QuestionSet:
    return dataset.load(write_bench(tmp_path_factory.mktemp("bench") / "rooms"))


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach another machine fails the test."""

    def refuse(self, address, *_):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_our_configuration_is_the_real_one(processor):
    real = AutoConfig.from_pretrained(processor)
    ours = folders.build_config(PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"], folders.load_tokenizer(processor))
    assert quantize.skeleton(ours).num_parameters() == 2_208_985_600  # as the hub counts
    assert quantize.skeleton(real).num_parameters() == 2_208_985_600
    free = {"dtype", "pad_token_id", "rope_parameters", "tie_word_embeddings"}  # the last two compared below
    for part in ("text_config", "vision_config"):
        theirs, mine = getattr(real, part).to_dict(), getattr(ours, part).to_dict()
        assert {key for key in mine if mine[key] != theirs.get(key)} <= free
    for key in ("rope_theta", "mrope_section", "rope_type"):
        assert real.text_config.rope_parameters[key] == ours.text_config.rope_parameters[key]
    for key in (*folders.CONFIG_IDS, "tie_word_embeddings"):
        assert getattr(real, key) == getattr(ours, key)


def test_qwen2_vl_7b_has_its_published_size(processor):
    seven = folders.build_config(PUBLISHED["Qwen/Qwen2-VL-7B-Instruct"], folders.load_tokenizer(processor))
    assert quantize.skeleton(seven).num_parameters() == 8_291_375_616


@pytest.mark.parametrize(("frames", "budget"), TOKENS)
def test_chat_is_the_real_template_token_for_token(processor, asked, frames, budget):
    """The template is run by jinja itself; the placeholder is repeated in the text, as Qwen2VLProcessor does it."""
    tokenizer = folders.load_tokenizer(processor)
    template = jinja2.Template(json.loads((processor / "chat_template.json").read_text())["chat_template"])
    path = asked.video_path(list(FPS)[frames % 3])
    _, grid = patchify(decode(path, frames), budget)
    count = int(grid.prod()) // 4
    assert count == TOKENS[frames, budget] == tokens(frames, 480, 640, budget)
    for question, mode, stage in product(asked.questions[:3], paper.MODES, ("evaluate", "train")):
        chat = prompts.messages(question, mode, stage)
        text = template.render(messages=chat, add_generation_prompt=True)
        assert text.count("<|video_pad|>") == 1
        text = text.replace("<|video_pad|>", "<|video_pad|>" * count)
        assert prompts.render(tokenizer, chat, grid).tolist() == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("budget", BUDGETS)
def test_positions_are_transformers_own_at_every_frame_count(folder, budget):
    """And they are what the rule says; the first release's rule agrees only while T <= max(h, w)."""
    model = models.load(str(folder)).model
    tokenizer = folders.load_tokenizer(folder)
    answer = torch.arange(100, 112)
    agreements = {}
    for frames in (4, 5, 8, 12, 16, 20, 24, 26, 27, 28, 31, 32, 36, 37, 40):
        h, w = (9, 13) if budget == BUDGETS[0] else (13, 18)
        t = (frames + 1) // 2
        grid = torch.tensor([[t, 2 * h, 2 * w]])
        question = dataset.Question("q", "scannet", "s", *ASKED[1])
        prompt = prompts.render(tokenizer, prompts.messages(question, "vanilla"), grid)
        whole = torch.cat((prompt, answer))
        video = whole == model.config.video_token_id
        official, deltas = model.model.get_rope_index(
            whole[None], mm_token_type_ids=video.int()[None] * 2, video_grid_thw=grid
        )
        ours = positions(model, prompt, grid)
        continued = torch.cat((ours, ours[:, -1:] + 1 + torch.arange(len(answer))), 1)
        assert torch.equal(continued, official[:, 0])
        assert int(continued[0, -1]) == len(whole) - 1 + int(deltas)
        start = int(video.nonzero()[0])
        places = torch.tensor(list(product(range(t), range(h), range(w)))).T + start
        assert torch.equal(continued[:, video], places)
        after = continued[:, start + t * h * w :]
        assert torch.equal(after, (start + max(h, w) + torch.arange(after.shape[1])).expand(3, -1))
        agreements[frames] = start + max(h, w) == int(places.max()) + 1
    assert agreements == {frames: (frames + 1) // 2 <= max(h, w) for frames in agreements}
    assert agreements[16]
    assert agreements[32] == (budget == BUDGETS[1])


@pytest.mark.parametrize(("frames", "budget"), [(16, BUDGETS[1]), (32, BUDGETS[0])])
def test_answers_are_those_of_transformers_generate(folder, asked, frames, budget):
    loaded = models.load(str(folder))
    with torch.no_grad():
        loaded.model.model.language_model.norm.weight.mul_(30)  # spread logits: answers hang on the prompt
    pixels, grid = patchify(decode(asked.video_path("walk30"), frames), budget)
    chats = [prompts.messages(question, "vanilla") for question in asked.questions[3:6]]
    asking = [prompts.render(loaded.tokenizer, chat, grid) for chat in chats]
    end, forbidden = models.end_id(loaded.tokenizer), models.suppressed(loaded.tokenizer)
    found = answer_many(loaded.model, pixels, grid, asking, 4, end, forbidden)
    video = loaded.model.config.video_token_id
    for prompt, answer in zip(asking, found, strict=True):
        types = (prompt == video).int()[None] * 2
        expected = loaded.model.generate(
            input_ids=prompt[None], attention_mask=torch.ones_like(prompt)[None], mm_token_type_ids=types,
            pixel_values_videos=pixels, video_grid_thw=grid, max_new_tokens=4, do_sample=False,
            eos_token_id=end, suppress_tokens=forbidden,
        )  # fmt: skip
        assert answer == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("mode", "frames", "budget"), [("vanilla", 16, BUDGETS[1]), ("think", 32, BUDGETS[0]), ("observe", 16, BUDGETS[0])]
)
def test_the_command_line_from_video_to_score(folder, asked, tmp_path, capsys, offline, mode, frames, budget):
    settings = {"frames": frames, "max_pixels": budget, "max_new_tokens": 2, "max_new_tokens_reasoning": 3}
    words = ["evaluate", "--profile", "smoke", "--model", str(folder), "--bench", str(asked.folder), "--mode", mode]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    run = tmp_path / f"eval-base-{mode}-true"
    summary, manifest = read_json(run / "summary.json"), read_json(run / "manifest.json")
    samples = list(read_jsonl(run / "samples.jsonl"))
    assert [row["id"] for row in samples] == [question.id for question in asked.questions]
    assert summary["missing"]["questions"] == 0
    assert (summary["frames"], summary["max_pixels"], summary["n"]) == (frames, budget, 9)
    assert f"{summary['overall']:.1f}" in printed
    assert manifest["about"]["model"]["hash"] == folders.model_hash(folder)
    assert str(folder) not in json.dumps(manifest)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_command_line_trains_scores_and_exports(folder, asked, tmp_path, capsys, offline, quantization):
    """vsGRPO, SFT and DPO on 480x640 videos with the real tokenizer; then the adapter's score, and a merged model."""
    settings = {"base": str(folder), "quantization": quantization, "frames": 4, "max_steps": 1, "num_generations": 2}
    settings |= {"questions_per_step": 2, "max_completion_length": 6, "max_new_tokens": 6, "bootstrap": 50}
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]

    def vsr(command: str, *words: object) -> str:
        given = ("--profile", "smoke", "--out", str(tmp_path / "out"), *map(str, words), *changes)
        assert cli.main([*command.split(), *given]) == 0
        return capsys.readouterr().out

    for method in ("grpo", "sft", "dpo"):
        vsr(f"train {method}", "--data", asked.folder)
    run = tmp_path / "out" / "grpo-vanilla-seed0"
    assert all((tmp_path / "out" / name / "adapter").is_dir() for name in ("sft-seed0", "dpo-seed0"))
    vsr("evaluate", "--bench", asked.folder, "--adapter", run)
    answered = tmp_path / "out" / "eval-grpo-vanilla-seed0-vanilla-true"
    assert read_json(answered / "summary.json")["n"] == len(asked.questions)
    assert "official" in vsr("score", "--predictions", answered / "samples.jsonl", "--rules", "official")
    assert "parameters" in vsr("estimate")
    assert cli.main(["export", "--adapter", str(run), "--out", str(tmp_path / "merged"), "--profile", "smoke"]) == 0
    merged = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert merged.config.vision_end_token_id == 151653


def test_frames_come_from_the_whole_video_at_any_rate(asked):
    """480x640 frames: the first and the last of two seconds, whatever the rate; the panning moves on in between."""
    for name, fps in FPS.items():
        every = decode(asked.video_path(name), SECONDS * fps)
        chosen = decode(asked.video_path(name), 16)
        assert chosen.shape == (16, 480, 640, 3)
        assert (chosen[0] == every[0]).all()
        assert (chosen[-1] == every[-1]).all()
        assert all((a != b).any() for a, b in pairwise(chosen))


@pytest.mark.slow
def test_hub_ids_load_from_the_cache_offline(processor, asked, tmp_path):
    """The profile qlora-2b with its own hub id, in a process of its own: thin weights where the hub puts them."""
    name, commit = PROFILES["qlora-2b"].base, "8" * 40
    cache = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    thin_folder(processor, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    settings = {"frames": 4, "max_new_tokens": 2, "dtype": "float32", "bootstrap": 50}
    words = ["evaluate", "--profile", "qlora-2b", "--bench", str(asked.folder), "--out", str(tmp_path / "out")]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "vsr.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "out" / "eval-base-vanilla-true" / "manifest.json")
    model = manifest["about"]["model"]
    assert (model["base"], model["hash"], model["quantization"]) == (name, f"hub:{commit}", "nf4")
