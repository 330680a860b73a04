"""What training reads: rows in TRL's columns, the order they are asked in, the prompt of each, and the batches with
video of TRL's SFT and DPO trainers, whose own collators drop it in silence."""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import LongTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from vsr.engine.inputs import Prompt, Seen, as_number, digest, encoder_outputs, positions
from vsr.errors import VsrError
from vsr.models import Loaded, end_id
from vsr.prompts import messages, render
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import NUMERICAL, Question
from vsr.scoring.answers import to_float

See = Callable[[Path], Seen]
FACTORS = (2.0, 4.0)  # of a rejected number: from 2 on the accuracy reward is 0
OPPOSITE = {"left": "right", "right": "left"}
IGNORED = -100  # a label that the loss leaves out


class Rows(Sequence[dict]):
    """One row a question, made when it is asked for: `id`, `prompt` (the paper's training prompt, section 3.2, as a
    conversation), `video` (a path), and what the method learns from: the columns that rewards read (grpo), `answer`
    (sft, dpo) and `rejected` (dpo; VsrError, naming the question, where DPO has no wrong answer)."""

    def __init__(self, method: str, data: QuestionSet, mode: str = "vanilla", seed: int = 0):
        """VsrError where two questions have one id."""
        self.method, self.data, self.mode, self.seed = method, data, mode, seed
        if (twice := data.questions.repeated()) is not None:
            raise VsrError(f"{data.folder}: question id '{twice}' occurs twice; build the questions again")

    def __len__(self) -> int:
        return len(self.data.questions)

    def __getitem__(self, at):
        found = self.data.questions[at]
        return list(map(self._row, found)) if isinstance(at, slice) else self._row(found)

    def __iter__(self) -> Iterator[dict]:
        return map(self._row, self.data.questions)

    def _row(self, question: Question) -> dict:
        video = str(self.data.video_path(question.scene_name))
        row = {"id": question.id, "prompt": messages(question, self.mode, stage="train"), "video": video}
        if self.method == "grpo":
            return row | {name: getattr(question, name) for name in ("question_type", "ground_truth", "options")}
        row["answer"] = question.ground_truth
        return row | ({"rejected": rejected(question, self.seed)} if self.method == "dpo" else {})


def check_rows(rows: Sequence[dict]) -> None:
    """Raise VsrError unless all rows have the same columns: an id of its own, prompt, video (or None), and others."""
    if not rows:
        raise VsrError("no training samples; build some with 'vsr build'")
    if isinstance(rows, Rows):  # they are so by their making
        return
    columns, seen = rows[0].keys(), set()
    for number, row in enumerate(rows):
        missing = ({"id", "prompt", "video"} | columns) - row.keys()
        if missing:
            raise VsrError(f"training sample {number} ({row.get('id')}): column '{min(missing)}' is missing")
        if row["id"] in seen:
            raise VsrError(f"training sample {number}: id '{row['id']}' occurs twice")
        seen.add(row["id"])


class Schedule(torch.utils.data.Dataset):
    """The rows in the order they are asked, fixed before training starts, so that a resumed run continues the same
    list: `batches` of `size` questions (of all processes together), each coming `repeat` times in a row; every epoch is
    a permutation drawn from (seed, epoch)."""

    def __init__(
        self, rows: Sequence[dict], batches: int, size: int, seed: int, *, repeat: int = 1, shuffle: bool = True
    ):
        self.rows = rows
        order: list[int] = []
        # whole epochs until there is enough; a batch may lie across the seam of two
        for epoch in range(-(-batches * size // len(rows))):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            drawn = torch.randperm(len(rows), generator=generator) if shuffle else torch.arange(len(rows))
            order += drawn[: batches * size - len(order)].tolist()
        starts = range(0, batches * size, size)
        self.order = [i for start in starts for _ in range(repeat) for i in order[start : start + size]]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        return self.rows[self.order[index]]


def read_prompt(row: dict, tokenizer: PreTrainedTokenizerBase, see: See) -> Prompt:
    """The prompt of a row with its video's features; a video that cannot be read is a VsrError naming the sample."""
    try:
        seen = Seen() if row["video"] is None else Seen(*see(Path(row["video"])))
        return seen.prompt(render(tokenizer, row["prompt"], seen.grid, seen.stamps))
    except VsrError as error:
        raise VsrError(f"sample '{row['id']}': {error}") from None


@dataclass(frozen=True)
class AnswerCollator:
    """Rows -> SFT's batch: `input_ids`, `attention_mask` and `labels` (rows, tokens), `position_ids` (3, rows, tokens),
    padded at the right. Labels cover the answer and the token that ends it, nothing else.

    What the frozen vision tower sees in the videos comes from a cache (`see`) and enters the model as
    `mm_encoder_outputs`; positions are explicit."""

    loaded: Loaded
    see: See

    def __call__(self, rows: list[dict]) -> dict:
        """VsrError, naming the sample, where a video cannot be read."""
        prompts = self.prompts(rows)
        batch = self.sequences(prompts, [row["answer"] for row in rows])
        labels = batch["input_ids"].masked_fill(~batch.pop("completion_mask").bool(), IGNORED)
        return batch | {"labels": labels, "inputs": self.read(prompts)}

    def read(self, prompts: list[Prompt]) -> LongTensor:
        """What is read, as 48 bits (prompts,): as numbers, so that processes can tell each other."""
        return torch.tensor([as_number(digest(self.loaded.model, prompt)) for prompt in prompts])

    def prompts(self, rows: list[dict]) -> list[Prompt]:
        """What the model reads before it answers."""
        return [read_prompt(row, self.loaded.tokenizer, self.see) for row in rows]

    def sequences(self, prompts: list[Prompt], answers: list[str]) -> dict:
        """The batch of one answer a prompt, with `completion_mask` (rows, tokens) 1 on the answer's tokens."""
        tokenizer, model = self.loaded.tokenizer, self.loaded.model
        # an answer ends as the model ends its own: with the token that ends the assistant's turn
        ends = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end_id(tokenizer)] for text in answers]
        ids = [torch.cat((prompt.ids, torch.tensor(end))) for prompt, end in zip(prompts, ends, strict=True)]
        pairs = list(zip(ids, prompts, strict=True))
        masks = [(torch.arange(len(i)) >= len(prompt.ids)).long() for i, prompt in pairs]
        places = [positions(model, i, prompt.grid, prompt.step).T for i, prompt in pairs]  # (tokens, 3) each
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "position_ids": pad_sequence(places, batch_first=True).permute(2, 0, 1),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }
        features = [prompt.features for prompt in prompts if prompt.features is not None]
        if features:  # one entry a video, in the order of the rows: rows without a video have none
            batch["mm_encoder_outputs"] = {"video": encoder_outputs(model, features)}
        return batch


@dataclass(frozen=True)
class PairCollator(AnswerCollator):
    """Rows -> DPO's batch: the right answers' sequences, then the rejected ones', with `completion_mask`."""

    def __call__(self, rows: list[dict]) -> dict:
        """VsrError, naming the sample, where a video cannot be read."""
        prompts = self.prompts(rows)
        answers = [row[column] for column in ("answer", "rejected") for row in rows]
        return self.sequences([*prompts, *prompts], answers) | {"inputs": self.read(prompts)}


def rejected(question: Question, seed: int = 0) -> str:
    """DPO's less-preferred answer (paper, baselines of Table 2: "the correct answer modified to a wrong one"), in the
    form of the right one. VsrError, naming the question, where no rule applies.

    The paper gives no rule for the modification. Ours: a number is multiplied or divided by a factor, with even
    chances, log-uniform in 2..4, rounded away from the truth to as many decimals, multiplied where dividing would leave
    0 (the accuracy reward of section 3.2 is 0 for every such answer); a letter becomes another of the question's
    letters, an object another of its list, left right. It hangs on the seed and the question's id alone, so that every
    run with a seed sees the same pairs."""
    rng, truth = random.Random(f"{seed} {question.id}"), question.ground_truth
    if question.question_type in NUMERICAL:
        return _wrong_number(question, rng)
    if not question.options and truth in OPPOSITE:
        return OPPOSITE[truth]
    if question.options:
        answers = [option.partition(".")[0] for option in question.options]
    else:  # the entries of the first list in parentheses: 'Which of these objects (sink, bed) is ...'
        found = re.search(r"\(([^()]*,[^()]*)\)", question.question)
        answers = [entry.strip() for entry in found.group(1).split(",")] if found else []
    others = [answer for answer in answers if answer != truth]
    if len(others) == len(answers) or not others:
        raise _impossible(question, f"is not one of the answers it offers, {answers}")
    return rng.choice(others)


def _wrong_number(question: Question, rng: random.Random) -> str:
    truth = to_float(question.ground_truth)
    if truth is None or truth <= 0:
        raise _impossible(question, "is no positive number")
    decimals = len(question.ground_truth.partition(".")[2])
    factor, up = math.exp(rng.uniform(*map(math.log, FACTORS))), rng.random() < 0.5
    unit = 10.0**decimals
    below = math.floor(truth / factor * unit)
    wrong = math.ceil(truth * factor * unit) if up or below == 0 else below
    return f"{wrong / unit:.{decimals}f}"


def _impossible(question: Question, why: str) -> VsrError:
    return VsrError(
        f"question '{question.id}' ({question.question_type}): its answer '{question.ground_truth}' {why}, so that DPO "
        "has no wrong answer to set against it; leave the question out or give it options"
    )
