"""What a test of a claim hands back, and how an interval becomes a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vsr.scoring.intervals import Effect

REPRODUCED, NOT_REPRODUCED, CANNOT_TELL = "reproduced", "not reproduced", "cannot tell at this size"
NO_CHANGE = 2.0  # points; a change that stays below is no improvement (the paper's smallest claimed one is 2.1)


class NotRunError(Exception):
    """A test lacks a run; the text says which."""


class OutOfReachError(Exception):
    """A claim is about a model or a machine that no run of this profile can speak for; the text says which."""


@dataclass(frozen=True)
class Finding:
    """One comparison: `what` in words, its effect in `unit`, the runs, and a verdict, "" if it only stands beside."""

    what: str
    effect: Effect
    verdict: str
    runs: tuple[str, ...]
    unit: str = "points"


Test = Callable[[Path], list[Finding]]


def above(found: Effect, bar: float = 0.0) -> str:
    """The claim says that the effect is above `bar`."""
    return REPRODUCED if found.low > bar else NOT_REPRODUCED if found.high < bar else CANNOT_TELL


def below(found: Effect, bar: float) -> str:
    """The claim says that the effect stays below `bar`."""
    return REPRODUCED if found.high < bar else NOT_REPRODUCED if found.low > bar else CANNOT_TELL


def unchanged(found: Effect) -> str:
    """The claim says that there is no improvement."""
    return REPRODUCED if found.high < NO_CHANGE else NOT_REPRODUCED if found.low > 0 else CANNOT_TELL


def combine(verdicts: list[str]) -> str:
    """One comparison that fails refutes the claim; all must hold to reproduce it."""
    for verdict in (NOT_REPRODUCED, CANNOT_TELL):
        if verdict in verdicts:
            return verdict
    return REPRODUCED
