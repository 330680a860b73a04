"""Question x mode -> chat messages -> token ids.

The user turn is the video, then VSI-Bench's harness form: `These are frames of a video.`, the question, `Options:` with
one option a line, and the closing sentence. The paper appends its mode's sentence to the question; it takes the place
of the harness's numerical sentence (in vanilla mode they are the same). Questions with options keep the harness's
letter sentence after it, in every mode, because the official score compares letters: the paper does not say.
"""

import torch
from transformers import PreTrainedTokenizerBase

from vsr import paper
from vsr.errors import VsrError, unknown
from vsr.questions.question import Question

VIDEO_TOKEN = "<|video_pad|>"
SUFFIXES = {"evaluate": paper.EVALUATION_PROMPTS, "train": paper.TRAINING_PROMPTS}
TOKEN_PATCHES = 4  # patches that Qwen2-VL merges into one token


def text(question: Question, mode: str, stage: str = "evaluate") -> str:
    """The user turn's text. `stage` chooses between the paper's prompts for untrained models (section 2) and those of
    GRPO training (section 3.2), which a trained model is also evaluated with."""
    if stage not in SUFFIXES:
        raise unknown("prompt stage", stage, SUFFIXES)
    if mode not in SUFFIXES[stage]:
        raise unknown("mode", mode, SUFFIXES[stage])
    options = ("Options:", *question.options) if question.options else ()
    closing = (paper.HARNESS_CHOICE_POST,) if question.options else ()
    return "\n".join((paper.HARNESS_PRE, question.question, *options, SUFFIXES[stage][mode], *closing))


def messages(
    question: Question, mode: str, stage: str = "evaluate", *, video: bool = True, system: str | None = None
) -> list[dict]:
    """One chat turn in transformers' form; without `video` the text stands alone. Qwen2-VL's template adds its own
    system turn unless `system` is given."""
    user = {"role": "user", "content": [{"type": "text", "text": text(question, mode, stage)}]}
    if video:
        user["content"].insert(0, {"type": "video"})
    return [user] if system is None else [{"role": "system", "content": system}, user]


def render(tokenizer: PreTrainedTokenizerBase, chat: list[dict], grid: torch.Tensor | None) -> torch.LongTensor:
    """Token ids (tokens,) of `chat` up to the assistant's turn, by the tokenizer's chat template.

    Each video placeholder becomes as many tokens as its row [t, h, w] of `grid` (videos, 3) has merged patches;
    `grid` is None for text alone.
    """
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    places = (ids == tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)).nonzero()[:, 0].tolist()
    counts = [] if grid is None else (grid.prod(-1) // TOKEN_PATCHES).tolist()
    if len(places) != len(counts):
        raise VsrError(
            f"the prompt has {len(places)} video placeholders for {len(counts)} videos; "
            f"a question must not contain '{VIDEO_TOKEN}'"
        )
    repeats = torch.ones_like(ids)
    repeats[places] = torch.tensor(counts, dtype=torch.long)
    return ids.repeat_interleave(repeats)
