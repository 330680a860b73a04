"""The test that decides each of the paper's claims: pairs of evaluations on the same questions, or training logs.

Pairs get an interval from a bootstrap over scenes and seeds; of training logs each run gives one number, and runs are
compared by Welch's t. A claim's verdict is what its intervals leave open.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from vsr import paper, profiles
from vsr.files import read_json, read_jsonl
from vsr.profiles import VIDEOS
from vsr.report import evaluations as e
from vsr.report import training_logs
from vsr.report.evaluations import BASE, GRPO_O, GRPO_T, GRPO_V, SFT, Evaluation, Method, evaluation
from vsr.report.tables import NOT_RUN
from vsr.report.training_logs import ACCURACY, FORMAT, TrainingLog
from vsr.scoring import intervals
from vsr.scoring.intervals import LEVEL, Effect, between, draw, effect
from vsr.scoring.rewards import TAGGED_MODES, is_shell

REPRODUCED, NOT_REPRODUCED, CANNOT_TELL = "reproduced", "not reproduced", "cannot tell at this size"
NO_CHANGE = 2.0  # points; a change that stays below is no improvement (the paper's smallest claimed one is 2.1)
COLLAPSE = 10.0  # points of format reward lost since its peak
CONVERGED = 90.0  # points of format reward
SHELLS = 1.0  # percent of rollouts; fewer are not "some"
HOURS = 2.0  # "about" is within this factor
PAPERS_BETA = profiles.get("paper-2b").beta


class UndecidedError(Exception):
    """A test that finds nothing: a run is missing, or the claim is about another model."""

    def __init__(self, verdict: str, why: str):
        super().__init__(why)
        self.verdict = verdict


@dataclass(frozen=True)
class Finding:
    """`what` was compared, its effect in `unit`, the runs, and a verdict, "" without a vote."""

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
    return next((verdict for verdict in (NOT_REPRODUCED, CANNOT_TELL) if verdict in verdicts), REPRODUCED)


# --- pairs of evaluations ---
@dataclass(frozen=True)
class Comparison:
    """Ours against theirs over all, the trained six or one task; `verdict` reads its interval."""

    ours: Method
    theirs: Method
    over: str = "overall"
    verdict: Callable[[Effect], str] | None = above
    video: str = "true"

    def finding(self, results: Path) -> Finding:
        """The comparison made."""
        pair = [_needed(results, method, self.video) for method in (self.ours, self.theirs)]
        found = intervals.compare(pair[0].answers, pair[1].answers, self.over)
        # a method's prompt is named where that is what differs
        prompts = self.ours.mode != self.theirs.mode
        what = " − ".join(f"{one.method.label}{f' ({one.method.mode} prompt)' * prompts}" for one in pair)
        what += "" if self.over == "overall" else f", {e.COLUMNS[self.over]}"
        what += "" if self.video == "true" else f", {VIDEOS[self.video]}"
        ids = tuple(run.manifest["id"] for one in pair for run in one.runs)
        return Finding(what, found, self.verdict(found) if self.verdict else "", ids)


def _needed(results: Path, method: Method, video: str = "true") -> Evaluation:
    found = evaluation(results, method, video)
    if found is None:
        raise UndecidedError(NOT_RUN, f"missing: {method}, {VIDEOS[video]}")
    return found


def comparisons(*needed: Comparison, beside: tuple[Comparison, ...] = ()) -> Test:
    """A test that needs some comparisons; those `beside` have no vote and are shown where they were run."""

    def test(results: Path) -> list[Finding]:
        ready = [c for c in beside if all(evaluation(results, method, c.video) for method in (c.ours, c.theirs))]
        return [comparison.finding(results) for comparison in (*needed, *ready)]

    return test


def against_printed(gains: Test, label: str, printed: float, margin: float = 0.0, only: str = "") -> Test:
    """`gains`, and on VSI-Bench's own questions vsGRPO-V against a printed score less a margin."""

    def test(results: Path) -> list[Finding]:
        if only and results.name != only:
            raise UndecidedError(CANNOT_TELL, f"is about the model of profile {only}")
        found = gains(results)
        if results.name not in profiles.PROFILES or profiles.get(results.name).data == "rooms":
            return found
        ours = _needed(results, GRPO_V)
        scores, draws = ours.answers.points("overall")
        # a printed score has no draws of its own: all of the interval is ours
        gap = effect(scores.mean() - printed, draws.mean(0) - printed, ours.answers.asked("overall"), ours.answers.size)
        ids = tuple(run.manifest["id"] for run in ours.runs)
        return [*found, Finding(f"vsGRPO-V − {label}, as printed", gap, above(gap, -margin), ids)]

    return test


# --- training logs ---
def collapse(results: Path) -> list[Finding]:
    """Claim 5: how far the format reward falls from its peak, without and with the paper's KL term."""
    runs = training_logs.ablation(results)
    if missing := [f"GRPO at beta {beta:g} with tags" for beta in (0.0, PAPERS_BETA) if beta not in runs]:
        raise UndecidedError(NOT_RUN, "missing: " + ", ".join(missing))
    found = []
    for beta, verdict in ((0.0, above), (PAPERS_BETA, below)):
        fallen = between([100 * training_logs.fall(run.curve(FORMAT)) for run in runs[beta]])
        what = f"format reward lost since its peak, beta {beta:g}"
        found.append(_of_runs(what, fallen, runs[beta], verdict, COLLAPSE))
    for beta in (beta for beta in runs if beta):
        last = [[100 * training_logs.end(run.curve(FORMAT)) for run in runs[b]] for b in (beta, 0.0)]
        what = f"format reward at the end, beta {beta:g} − beta 0"
        found.append(_of_runs(what, between(*last), [*runs[beta], *runs[0.0]]))
    return found


def convergence(results: Path) -> list[Finding]:
    """Claim 8: whether the format reward gets to 1, the accuracy reward rises, and later than the format reward."""
    runs = [run for run in training_logs.find(results) if run.beta == PAPERS_BETA and run.mode in TAGGED_MODES]
    if not runs:
        raise UndecidedError(NOT_RUN, f"missing: GRPO at beta {PAPERS_BETA:g} with tags")
    last = between([100 * training_logs.end(run.curve(FORMAT)) for run in runs])
    gains, delays = [], []
    for run in runs:
        curve = run.curve(ACCURACY)
        first, final = training_logs.start(curve), training_logs.end(curve)
        # nine tenths of the way from start to end; a curve that does not rise never arrives
        there = training_logs.arrival(curve, first + 0.9 * (final - first)) if final > first else 1.0
        gains.append(100 * (final - first))
        delays.append(100 * (there - training_logs.arrival(run.curve(FORMAT), CONVERGED / 100)))
    return [
        _of_runs("format reward at the end", last, runs, above, CONVERGED),
        _of_runs("accuracy reward, end − start", between(gains), runs, above),
        _of_runs("accuracy arrives later than format by", between(delays), runs, above, unit="% of training"),
    ]


def hacking(results: Path) -> list[Finding]:
    """Claim 9: the share of empty shells among the last rollouts in observe mode."""
    runs = [run for run in training_logs.find(results) if run.mode == "observe" and run.beta == PAPERS_BETA]
    if not runs:
        raise UndecidedError(NOT_RUN, "missing: GRPO in observe mode")
    groups: dict[tuple[str, int], list[bool]] = {}  # of each run and step in the last fifth: is it a shell?
    for run in runs:
        for row in read_jsonl(run.path / "completions.jsonl"):
            if row["step"] > 0.8 * run.steps[-1]:
                groups.setdefault((run.name, row["step"]), []).append(is_shell(row["completion"]))
    shells = share(list(groups.values()))
    return [_of_runs("empty shells in the last fifth of training", shells, runs, above, SHELLS, "% of rollouts")]


def gpu_hours(results: Path) -> list[Finding]:
    """Claim 10: measured where profile paper-2b was trained, projected where `vsr bench grpo` ran on a GPU."""
    run = next((one for one in training_logs.find(results) if one.mode == "vanilla"), None)
    if results.name == "paper-2b" and run:
        manifest = read_json(run.path / "manifest.json")
        return [_hours(f"trained on {manifest['device']}", manifest["seconds"], run.id)]
    path = results / "bench" / "grpo.json"
    bench = read_json(path) if path.is_file() else {"machine": {"device": "cpu"}}
    if (device := bench["machine"]["device"]) == "cpu":
        why = "is about Qwen2-VL-2B on a GPU: needs profile paper-2b, or 'vsr bench grpo' there"
        raise UndecidedError(NOT_RUN if results.name == "paper-2b" else CANNOT_TELL, why)
    row = max(bench["rows"], key=lambda row: (row["group"], row["prompt"], -row["completion"]))
    shape = f"G {row['group']}, prompt {row['prompt']}, completion {row['completion']}, {device}"
    what, seconds = f"{paper.QUESTIONS:,} questions, projected: {shape}", paper.QUESTIONS * row["trl_s"]
    ours = _hours(f"ours, {what}", paper.QUESTIONS * row["ours_s"])
    return [_hours(f"TRL made to see video, {what}", seconds), replace(ours, verdict="")]


def share(groups: list[list[bool]]) -> Effect:
    """The share in percent of rollouts that are something, given by groups answering one prompt: a bootstrap over the
    groups, or the exact binomial interval where that is wider."""
    hits, sizes = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    # rollouts of one prompt and step resemble each other, so whole groups are drawn: (R, G) @ (G,)
    taken = draw(len(groups))
    draws = (taken @ hits) / (taken @ sizes)
    found = effect(100 * hits.sum() / sizes.sum(), 100 * draws, int(sizes.sum()), len(groups))
    # with no hit at all every draw is 0 and the bootstrap's interval a point; Clopper and Pearson's is not: 0 of 100
    # still allows 3.6 %
    exact = binomtest(int(hits.sum()), int(sizes.sum())).proportion_ci(LEVEL, "exact")
    low, high = np.fmin(found.low, 100 * exact.low), np.fmax(found.high, 100 * exact.high)
    return replace(found, low=float(low), high=float(high))


def _of_runs(
    what: str, found: Effect, runs: list[TrainingLog], verdict=None, bar: float = 0.0, unit: str = "points"
) -> Finding:
    return Finding(what, found, verdict(found, bar) if verdict else "", tuple(run.id for run in runs), unit)


def _hours(what: str, seconds: float, *runs: str) -> Finding:
    hours = seconds / 3600
    about = paper.GPU_HOURS / HOURS <= hours <= paper.GPU_HOURS * HOURS
    found = Effect(hours, np.nan, np.nan, np.nan, 1, 0, (1,))
    return Finding(what, found, REPRODUCED if about else NOT_REPRODUCED, runs, "GPU hours")


GAIN = Comparison(GRPO_V, BASE)
SIX = Comparison(GRPO_V, BASE, "trained", None)
COMPUTE = (Comparison(GRPO_V, e.SFT_COMPUTE, verdict=None), Comparison(GRPO_V, e.DPO_COMPUTE, verdict=None))

TESTS: dict[int, Test] = {
    1: comparisons(Comparison(BASE, e.BASE_T), Comparison(BASE, e.BASE_O)),
    2: against_printed(comparisons(GAIN, beside=(SIX, replace(SIX, video="shuffled"))), "GPT-4o", 34.0),
    3: against_printed(comparisons(GAIN), "LLaVA-NeXT-Video-72B", 40.9, NO_CHANGE, only="paper-7b"),
    4: comparisons(
        Comparison(GRPO_V, GRPO_T),
        Comparison(GRPO_V, GRPO_O),
        Comparison(GRPO_T, e.GRPO_T_PLAIN),
        Comparison(GRPO_O, e.GRPO_O_PLAIN),
    ),
    5: collapse,
    6: comparisons(Comparison(GRPO_V, SFT), Comparison(SFT, e.DPO), Comparison(e.DPO, BASE), beside=COMPUTE),
    7: comparisons(
        Comparison(GRPO_V, BASE, "route_planning"), Comparison(GRPO_V, BASE, "obj_appearance_order", unchanged)
    ),
    8: convergence,
    9: hacking,
    10: gpu_hours,
}
