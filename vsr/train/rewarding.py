"""Calling reward functions in TRL's signature, and naming the sample where one fails."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vsr.errors import VsrError

RewardFunction = Callable[..., Sequence[float]]


def name_of(function: RewardFunction) -> str:
    """How logs and errors call a reward function."""
    return getattr(function, "__name__", type(function).__name__)


def rewards_of(
    functions: Sequence[RewardFunction], rows: list[dict], completions: list[str], completion_ids: list[list[int]]
) -> Tensor:
    """Rewards (completions, functions): `rows[i]` is the sample that `completions[i]` answers.

    Functions take `prompts, completions, completion_ids` and every other column of the rows, as in TRL; conversational
    prompts give conversational completions. One that raises, or gives anything but a finite number for each completion,
    is a VsrError naming function and sample."""
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    given = [
        c if isinstance(row["prompt"], list) else text for c, text, row in zip(chats, completions, rows, strict=True)
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    inputs = {"prompts": [row["prompt"] for row in rows], "completions": given, "completion_ids": completion_ids}
    scores = []
    for function in functions:
        values = _call(function, {**inputs, **columns}, rows)
        for value, row, text in zip(values, rows, completions, strict=True):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise VsrError(
                    f"reward '{name_of(function)}' gave {value!r}, not a finite number, for sample '{row['id']}' "
                    f"and completion {text[:80]!r}"
                )
        scores.append(list(values))
    return torch.tensor(scores, dtype=torch.float32).T


def _call(function: RewardFunction, inputs: dict[str, list], rows: list[dict]) -> Sequence[float]:
    try:
        values = function(**inputs)
    except Exception as error:
        raise VsrError(
            f"reward '{name_of(function)}' failed on sample '{_culprit(function, inputs, rows)}': "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(values) != len(rows):
        raise VsrError(f"reward '{name_of(function)}' gave {len(values)} values for {len(rows)} completions")
    return values


def _culprit(function: RewardFunction, inputs: dict[str, list], rows: list[dict]) -> str:
    """The first sample on which the function fails alone; all of them if it fails only on the batch."""
    for index, row in enumerate(rows):
        try:
            function(**{key: values[index : index + 1] for key, values in inputs.items()})
        except Exception:
            return row["id"]
    return ", ".join(dict.fromkeys(row["id"] for row in rows))
