"""Batches with video for TRL's SFT and DPO trainers, whose own collators drop it in silence.

A row is that of `vsr.train.data` with its `answer` (and, for DPO, its `rejected` answer) as text. What the frozen
vision tower sees in the video comes from a cache (`see`) and enters the model as `mm_encoder_outputs`; positions are
explicit.
"""

from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vsr.engine.inputs import Prompt, positions
from vsr.models import Loaded, end_id
from vsr.train.data import See, read_prompt

IGNORED = -100  # a label that the loss leaves out


@dataclass(frozen=True)
class AnswerCollator:
    """Rows -> SFT's batch: `input_ids`, `attention_mask` and `labels` (rows, tokens), `position_ids` (3, rows, tokens),
    padded at the right. Labels cover the answer and the token that ends it, nothing else."""

    loaded: Loaded
    see: See

    def __call__(self, rows: list[dict]) -> dict:
        """VsrError, naming the sample, where a video cannot be read."""
        batch = self.sequences(self.prompts(rows), [row["answer"] for row in rows])
        answered = batch.pop("completion_mask").bool()
        return batch | {"labels": batch["input_ids"].masked_fill(~answered, IGNORED)}

    def prompts(self, rows: list[dict]) -> list[Prompt]:
        """What the model reads before it answers."""
        return [read_prompt(row, self.loaded.tokenizer, self.see) for row in rows]

    def sequences(self, prompts: list[Prompt], answers: list[str]) -> dict:
        """The batch of one answer a prompt, with `completion_mask` (rows, tokens) 1 on the answer's tokens."""
        tokenizer = self.loaded.tokenizer
        ids = [torch.cat((p.ids, answer_ids(tokenizer, answer))) for p, answer in zip(prompts, answers, strict=True)]
        pairs = list(zip(ids, prompts, strict=True))
        masks = [(torch.arange(len(i)) >= len(prompt.ids)).long() for i, prompt in pairs]
        places = [positions(self.loaded.model, i, prompt.grid).T for i, prompt in pairs]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "position_ids": pad_sequence(places, batch_first=True).permute(2, 0, 1),
            "completion_mask": pad_sequence(masks, batch_first=True),
            **_videos(prompts),
        }


@dataclass(frozen=True)
class PairCollator(AnswerCollator):
    """Rows -> DPO's batch: the right answers' sequences, then the rejected ones', with `completion_mask`."""

    def __call__(self, rows: list[dict]) -> dict:
        """VsrError, naming the sample, where a video cannot be read."""
        prompts = self.prompts(rows)
        answers = [row[column] for column in ("answer", "rejected") for row in rows]
        return self.sequences([*prompts, *prompts], answers)


def answer_ids(tokenizer, answer: str) -> LongTensor:
    """Token ids (tokens,) of an answer and of the end of the assistant's turn, as the model generates them."""
    return torch.tensor([*tokenizer(answer, add_special_tokens=False)["input_ids"], end_id(tokenizer)])


def _videos(prompts: list[Prompt]) -> dict[str, dict]:
    features: list[Tensor] = [prompt.features for prompt in prompts if prompt.features is not None]
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)}} if features else {}
