"""Prompts are frozen: a changed letter changes every number."""

import json
from pathlib import Path

import pytest
import torch

from vsr import paper
from vsr.errors import VsrError
from vsr.models.folders import load_tokenizer
from vsr.prompts import messages, render, text
from vsr.questions.question import Question

FROZEN = json.loads((Path(__file__).parent / "golden" / "prompts.json").read_text())
NUMBER = Question("1", "rooms", "r", "object_counting", "How many chair(s) are in this room?", None, "3")
CHOICE = Question(
    "2",
    "rooms",
    "r",
    "object_rel_distance",
    "Measuring from the closest point of each object, which of these objects (table, door) is the closest to the bed?",
    ("A. table", "B. door"),
    "B",
)
CASES = [(q, mode, stage) for q in (NUMBER, CHOICE) for stage in ("evaluate", "train") for mode in paper.MODES]


@pytest.mark.parametrize(("question", "mode", "stage"), CASES)
def test_prompts_are_the_frozen_ones(question, mode, stage):
    kind = "choice" if question.options else "number"
    assert text(question, mode, stage).split("\n") == FROZEN[f"{stage} {mode} {kind}"]


def test_vanilla_numbers_are_the_official_harness_form():
    assert text(NUMBER, "vanilla") == (
        "These are frames of a video.\nHow many chair(s) are in this room?\n"
        "Please answer the question using a single word or phrase."
    )


def test_messages():
    assert messages(NUMBER, "think")[0]["content"][0] == {"type": "video"}
    assert [part["type"] for part in messages(NUMBER, "think", video=False)[0]["content"]] == ["text"]
    assert messages(NUMBER, "think", system="s")[0] == {"role": "system", "content": "s"}


def test_unknown_names_are_errors():
    with pytest.raises(VsrError, match=r"unknown mode 'thinking': did you mean 'think'"):
        messages(NUMBER, "thinking")
    with pytest.raises(VsrError, match="unknown prompt stage 'test'"):
        messages(NUMBER, "think", "test")


def test_rendered_ids_equal_the_recorded_ones_of_the_real_processor(shared):
    folder = shared / "qwen2-vl-processor"
    expected = json.loads((folder / "_expected_render.json").read_text())
    tokenizer = load_tokenizer(folder)
    question = "How many chair(s) are in this room?"
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == expected["text"]
    ids = render(tokenizer, chat, torch.tensor(expected["grid"])).tolist()
    head, tail = expected["head"], expected["tail"]
    video = 8 * 8 * 12 // 4
    assert ids == head[:-1] + [151656] * video + tail[1:]


@pytest.fixture(scope="module")
def tokenizer(shared):
    return load_tokenizer(shared / "qwen2-vl-processor")


def test_rendering_expands_only_the_video(tokenizer):
    grid = torch.tensor([[4, 4, 6]])
    with_video = render(tokenizer, messages(CHOICE, "vanilla"), grid)
    without = render(tokenizer, messages(CHOICE, "vanilla", video=False), None)
    assert int((with_video == 151656).sum()) == 24
    assert len(with_video) == len(without) + 24 + 2  # the video and its two brackets
    assert tokenizer.decode(without).endswith("directly.<|im_end|>\n<|im_start|>assistant\n")


def test_a_question_cannot_smuggle_in_a_video(tokenizer):
    bad = Question("3", "rooms", "r", "object_counting", "How many <|video_pad|>?", None, "3")
    with pytest.raises(VsrError, match="2 video placeholders for 1 videos"):
        render(tokenizer, messages(bad, "vanilla"), torch.tensor([[4, 4, 6]]))
    with pytest.raises(VsrError, match="1 video placeholders for 0 videos"):
        render(tokenizer, messages(NUMBER, "vanilla"), None)
