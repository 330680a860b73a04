"""What was declared about every claim's test before the study ran, and how an interval becomes a verdict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vsr import profiles
from vsr.scoring.intervals import Effect

REPRODUCED, CONTRADICTED, CANNOT_TELL = "reproduced", "contradicted", "cannot tell"
LEAST = 1.5  # points; a smaller difference of averages is not worth having (the paper's smallest claimed one is 0.6)
NO_CHANGE = 2.0  # points of one task; the paper's smallest claimed gain is 2.1
LEVEL_WITHIN = 3.0  # points between a base's prompts; beyond it what training adds cannot be told from what they cost
HOLDS, FAILS = 90.0, 80.0  # points of format reward: a run that had the form, a run that lost it
OFTEN, RARELY = 25.0, 50.0  # percent of runs that lose the form
ACTS = 5.0  # percent of the gradient; a KL term below it cannot be what holds a run
RISE = 3.0  # points of accuracy reward
SHELLS = 1.0  # percent of rollouts; fewer are not "some"
HOURS = 2.0  # "about" is within this factor
PAPERS_BETA = profiles.get("paper-2b").beta
BOOTSTRAPS = (0, 1, 2)  # seeds; a verdict must not hang on one
NOTHING = Effect(np.nan, np.nan, np.nan, np.nan, 0, 0)  # of a gate that is no number


@dataclass(frozen=True)
class Declared:
    """The primary outcome of a claim's test, the least effect worth having, the gate."""

    outcome: str
    least: str
    gate: str = ""


DECLARED: dict[int, Declared] = {
    1: Declared(
        "base: plain prompt − think, − observe, average",
        f"{LEAST} points",
        "a base that is not of our making: ours was taught all three prompts alike",
    ),
    2: Declared("vsGRPO-V − base, average; beside it what the gain rests on", f"{LEAST} points"),
    3: Declared("the same for 7B; not below LLaVA-NeXT-Video-72B's printed average", "0 points", "profile paper-7b"),
    4: Declared(
        "what training adds to its own base under its own prompt: V more than T, V more than O; T and O better with "
        "their own prompt than with the plain one",
        f"{LEAST} points",
        f"a level base: its three prompts of training within {LEVEL_WITHIN:g} points, trained six",
    ),
    5: Declared(
        f"runs of the grid that lose the form (smoothed format reward below {FAILS / 100:g} after it was at "
        f"{HOLDS / 100:g}): at beta 0 more than {OFTEN:g} %, at 1e-4 fewer than {RARELY:g} % and fewer than at 0",
        "the same",
        f"at 1e-4 the KL term is at least {ACTS:g} % of the gradient",
    ),
    6: Declared(
        "trained six: vsGRPO-V − SFT, SFT − DPO, DPO − base",
        f"{LEAST} points; anything above 0 for DPO, whose gain is small in the paper too (0.6)",
    ),
    7: Declared("vsGRPO-V − base: route rises, order does not", f"{NO_CHANGE} points"),
    8: Declared(
        "format reward at the end; accuracy of the rollouts that have the form, end − start; which arrives first",
        f"{RISE:g} points of accuracy",
        f"accuracy rises by {RISE:g} points in some run; only such runs say when",
    ),
    9: Declared(
        "observe mode, all rollouts after the first tenth of training − those in it (the base has some): empty shells "
        "among those with the form; under a length reward, repeated tags",
        f"{SHELLS:g} % of rollouts",
    ),
    10: Declared("GPU hours, measured or projected", f"within a factor of {HOURS:g}", "a GPU"),
}


class UndecidedError(Exception):
    """A test that finds nothing: a run is missing, or the claim is about another model."""

    def __init__(self, verdict: str, why: str):
        super().__init__(why)
        self.verdict = verdict


@dataclass(frozen=True)
class Finding:
    """`what` was compared, its effect in `unit`, the runs, and a verdict, "" without a vote. `why` says what an open
    verdict lacks, `holds` makes it a gate, `flips` says that the verdict hangs on the bootstrap's seed."""

    what: str
    effect: Effect
    verdict: str
    runs: tuple[str, ...]
    unit: str = "points"
    why: str = ""
    holds: bool | None = None
    flips: bool = False


Test = Callable[[Path], list[Finding]]
Rule = Callable[[Effect], str]


def above(found: Effect, bar: float = 0.0, least: float = 0.0) -> str:
    """The claim says that the effect is above `bar`; one that cannot be as large as `least` beyond it contradicts."""
    if found.high < bar + least:
        return CONTRADICTED
    return REPRODUCED if found.low > bar else CANNOT_TELL


def worth(found: Effect) -> str:
    """The claim says that the effect is positive and worth having."""
    return above(found, least=LEAST)


def below(found: Effect, bar: float) -> str:
    """The claim says that the effect stays below `bar`."""
    return REPRODUCED if found.high < bar else CONTRADICTED if found.low > bar else CANNOT_TELL


def unchanged(found: Effect) -> str:
    """The claim says that there is no improvement."""
    return REPRODUCED if found.high < NO_CHANGE else CONTRADICTED if found.low > 0 else CANNOT_TELL


def combine(findings: list[Finding]) -> tuple[str, str]:
    """The verdict and what has to be said with it. A gate that fails leaves nothing to tell; one comparison that fails
    refutes the claim; all must hold to reproduce it."""
    told = [found for found in findings if found.verdict]
    notes = [f"{found.what}: it hangs on the bootstrap's seed" for found in told if found.flips]
    if failed := [found for found in findings if found.holds is False]:
        return CANNOT_TELL, "; ".join([f"gate: {found.why or found.what}" for found in failed] + notes)
    verdict = next((v for v in (CONTRADICTED, CANNOT_TELL) if v in {found.verdict for found in told}), REPRODUCED)
    if verdict == CANNOT_TELL:
        notes = [found.why for found in told if found.verdict == CANNOT_TELL and found.why][:2] + notes
    beside = [found.why for found in findings if not found.verdict and found.holds is None and found.why]
    return verdict, "; ".join(notes + beside)


def judged(found: Finding, least: float) -> Finding:
    """The finding with what an open verdict lacks: power, or another size of effect."""
    if found.verdict != CANNOT_TELL:
        return found
    could = found.effect.detectable
    why = f"power: {found.what} would show at {could:.1f}, {least:.1f} are worth having"
    if np.isnan(could):
        why = f"power: {found.what} has one run only"
    elif could <= least:
        why = f"{found.what}: smaller than {least:.1f}, and yet not excluded"
    return replace(found, why=why)
