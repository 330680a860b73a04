"""Many questions on one video three ways, vision included: ours; transformers' `generate` one question at a time; and
`generate` on all of them as one batch, each row with its own copy of the video."""

import warnings

import torch
from torch import LongTensor

from vsr.bench.clock import seconds
from vsr.bench.subject import Subject, machine, subject
from vsr.engine.decoding import answer_many
from vsr.estimate.devices import one_thread

QUESTIONS, PROMPTS, ANSWER = 18, (300, 1200), 8


def main(questions: int = QUESTIONS, prompts=PROMPTS, answer: int = ANSWER, repeats: int = 3) -> dict:
    """Measure, print a table, return `{"machine", "model", "rows"}`: the shortest of `repeats` runs each.

    A row has `questions`, `prefix` (tokens of a prompt up to the end of the video), `answer` (tokens), `ours_s`,
    `one_by_one_s`, `batched_s`, and `identical`: whether ours gave the tokens of one by one."""
    with one_thread(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        what, rows = subject(), []
        print(f"{what.name}; {questions} questions on one video, {machine()['device']}, one thread", flush=True)
        print("prefix answer |   ours s  one by one s  batched s | x one by one  x batched | identical", flush=True)
        for length in prompts:
            rows.append(measure(what, length, questions, answer, repeats))
            print(line(rows[-1]), flush=True)
        return {"machine": machine(), "model": what.name, "rows": rows}


def measure(what: Subject, length: int, questions: int, answer: int, repeats: int) -> dict:
    """One row."""
    prompts, grid, pixels = what.questions(length, questions), what.grid(length), what.pixels(length)
    device, end = what.model.device, what.tokenizer.eos_token_id
    found: dict[str, list[list[int]]] = {}

    def ours() -> None:
        found["ours"] = answer_many(what.model, pixels, grid, prompts, answer, end, what.forbidden)

    def one_by_one() -> None:
        found["one"] = [tokens for prompt in prompts for tokens in _generate(what, [prompt], pixels, grid, answer)]

    def batched() -> None:
        found["batched"] = _generate(what, prompts, pixels, grid, answer)

    for way in (ours, lambda: _generate(what, prompts[:1], pixels, grid, answer)):
        way()  # what only the first call does
    times = {way.__name__: min(seconds(way) for _ in range(repeats)) for way in (ours, one_by_one, batched)}
    last = (prompts[0].to(device) == what.model.config.vision_end_token_id).nonzero()[-1]
    row = {"questions": questions, "prefix": int(last) + 1, "answer": answer}
    return row | {f"{way}_s": time for way, time in times.items()} | {"identical": found["ours"] == found["one"]}


def _generate(what: Subject, prompts: list[LongTensor], pixels, grid, answer: int) -> list[list[int]]:
    """Answers by transformers, prompts padded at the left."""
    longest, pad = max(map(len, prompts)), what.tokenizer.pad_token_id
    ids = torch.stack([torch.nn.functional.pad(p, (longest - len(p), 0), value=pad) for p in prompts])
    mask = torch.stack([torch.arange(longest) >= longest - len(p) for p in prompts]).long()
    ids, device = ids.to(what.model.device), what.model.device
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
    return (
        f"{row['prefix']:6} {row['answer']:6} | {ours:8.3f} {row['one_by_one_s']:13.3f} {row['batched_s']:10.3f} | "
        f"{row['one_by_one_s'] / ours:12.1f} {row['batched_s'] / ours:10.1f} | {row['identical']}"
    )
