"""Question x mode -> chat messages -> token ids.

The user turn is the video, then VSI-Bench's harness form: `These are frames of a video.`, the question, `Options:` with
one option a line, and the closing sentence. The paper appends its mode's sentence to the question; it takes the place
of the harness's numerical sentence (in vanilla mode they are the same). Questions with options keep the harness's
letter sentence after it, in every mode, because the official score compares letters: the paper does not say.
"""

import torch
from transformers import PreTrainedTokenizerBase

from vsr import families, paper
from vsr.errors import VsrError, unknown
from vsr.families import MERGE, VIDEO_TOKEN
from vsr.questions.question import Question

SUFFIXES = {"evaluate": paper.EVALUATION_PROMPTS, "train": paper.TRAINING_PROMPTS}
TOKEN_PATCHES = MERGE**2  # patches that are merged into one token


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


def render(
    tokenizer: PreTrainedTokenizerBase,
    chat: list[dict],
    grid: torch.Tensor | None,
    stamps: torch.Tensor | None = None,
) -> torch.LongTensor:
    """Token ids (tokens,) of `chat` up to the assistant's turn, by the tokenizer's chat template.

    Each video placeholder becomes as many tokens as its row [t, h, w] of `grid` (videos, 3) has merged patches;
    `grid` is None for text alone. `stamps` (t,) are the seconds to be written before each pair of a single video's
    frames, for a family that writes them.
    """
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    found, counts = prompt.count(VIDEO_TOKEN), [] if grid is None else (grid.prod(-1) // TOKEN_PATCHES).tolist()
    if found != len(counts):
        raise VsrError(
            f"the prompt has {found} video placeholders for {len(counts)} videos; "
            f"a question must not contain '{VIDEO_TOKEN}'"
        )
    if stamps is not None:
        prompt, (count,) = prompt.replace(VIDEO_TOKEN, families.written(stamps.tolist())), counts
        counts = [count // len(stamps)] * len(stamps)
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    repeats = torch.ones_like(ids)
    repeats[ids == tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)] = torch.tensor(counts, dtype=torch.long)
    return ids.repeat_interleave(repeats)
