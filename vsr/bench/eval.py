"""Many questions on one video three ways, vision included: ours; transformers' `generate` one question at a time; and
`generate` on all of them as one batch, each row with its own copy of the video."""

import torch
from torch import LongTensor, Tensor

from vsr.bench.subject import Subject, seconds, subject, tabulate
from vsr.engine.decoding import answer_scenes
from vsr.engine.inputs import video_features

QUESTIONS, PROMPTS, ANSWER = 18, (300, 1200), 8
HEAD = "prefix answer |   ours s  one by one s  batched s | x one by one  x batched | identical"


def main(questions: int = QUESTIONS, prompts=PROMPTS, answer: int = ANSWER, repeats: int = 3) -> dict:
    """Measure, print a table, return `{"machine", "model", "rows"}`: the shortest of `repeats` runs each.

    A row has `questions`, `prefix` (tokens of a prompt up to the end of the video), `answer` (tokens), `ours_s`,
    `one_by_one_s`, `batched_s`, and `identical`: whether ours gave the tokens of one by one."""
    what = subject()
    title = f"{questions} questions on one video\n{HEAD}"
    points = ((what, length, questions, answer, repeats) for length in prompts)
    return tabulate(what.name, title, points, measure, line)


@torch.no_grad()
def measure(what: Subject, length: int, questions: int, answer: int, repeats: int) -> dict:
    """One row."""
    prompts = what.questions(length, questions)
    grid = what.grid(length)
    pixels = what.pixels(length)
    device, end = what.model.device, what.tokenizer.eos_token_id
    found: dict[str, list[list[int]]] = {}

    def ours() -> None:
        scene = prompts, video_features(what.model, pixels, grid), grid
        (found["ours"],) = answer_scenes(what.model, [scene], answer, end, what.forbidden)

    def one_by_one() -> None:
        found["one"] = [tokens for prompt in prompts for tokens in _generate(what, [prompt], pixels, grid, answer)]

    def batched() -> None:
        found["batched"] = _generate(what, prompts, pixels, grid, answer)

    ours()
    _generate(what, prompts[:1], pixels, grid, answer)  # what only the first call does
    times = {f"{way.__name__}_s": seconds(way, repeats) for way in (ours, one_by_one, batched)}
    last = (prompts[0].to(device) == what.model.config.vision_end_token_id).nonzero()[-1]
    row = {"questions": questions, "prefix": int(last) + 1, "answer": answer}
    return row | times | {"identical": found["ours"] == found["one"]}


def _generate(what: Subject, prompts: list[LongTensor], pixels: Tensor, grid: Tensor, answer: int) -> list[list[int]]:
    """Answers by transformers, prompts padded at the left."""
    # (questions, longest), and the same pixels and grid once for every row
    longest = max(map(len, prompts))
    pad = what.tokenizer.pad_token_id
    device = what.model.device
    ids = torch.stack([torch.nn.functional.pad(p, (longest - len(p), 0), value=pad) for p in prompts]).to(device)
    mask = torch.stack([torch.arange(longest) >= longest - len(p) for p in prompts]).long()
    found = what.model.generate(
        input_ids=ids,
        attention_mask=mask.to(device),
        pixel_values_videos=pixels.to(device).repeat(len(prompts), 1),
        video_grid_thw=grid.to(device).repeat(len(prompts), 1),
        mm_token_type_ids=(ids == what.model.config.video_token_id).int() * 2,
        max_new_tokens=answer,
        do_sample=False,
        suppress_tokens=what.forbidden,
        pad_token_id=pad,
    )
    return found[:, longest:].tolist()


def line(row: dict) -> str:
    """One row of the table."""
    ours = row["ours_s"]
    one = row["one_by_one_s"]
    batched = row["batched_s"]
    return (
        f"{row['prefix']:6} {row['answer']:6} | {ours:8.3f} {one:13.3f} {batched:10.3f} | "
        f"{one / ours:12.1f} {batched / ours:10.1f} | {row['identical']}"
    )
