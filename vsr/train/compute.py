"""How much a training run computed, in a unit that no machine changes: tokens passing the language model.

A forward pass of a token counts 1; so does its backward pass, since frozen weights need no gradient of their own and
the adapter is small. Vision is left out: every method reads the same cached features.
"""

from pathlib import Path

from vsr.errors import VsrError
from vsr.files import read_jsonl

SFT = 2  # forward, backward
DPO = 3  # and a forward of the reference, over right and rejected answers


def token_passes(run: str | Path) -> int:
    """The token passes of a whole run, from its log.jsonl. GRPO reads prompts and completions once to sample, once for
    the reference, and updates on them; its measuring of gradient parts is not counted."""
    return sum(_of_step(line, run) for line in read_jsonl(Path(run) / "log.jsonl"))


def _of_step(line: dict, run: str | Path) -> int:
    if "token_passes" in line:
        return line["token_passes"]
    if "tokens_per_second/update" not in line:
        raise VsrError(f"{run}: step {line.get('step')} of its log tells no tokens; train it again with 'vsr train'")

    def tokens(phase: str) -> float:
        return line.get(f"tokens_per_second/{phase}", 0.0) * line.get(f"seconds/{phase}", 0.0)

    return round(2 * tokens("scoring") + SFT * tokens("update"))


def steps_within(budget: int, passes_per_step: float) -> int:
    """Optimiser steps, at least one, that come closest to a budget of token passes."""
    return max(1, round(budget / passes_per_step))
