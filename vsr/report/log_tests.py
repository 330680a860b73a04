"""The claims that training logs decide: each run gives one number, and runs are compared by Welch's t."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import beta as beta_law

from vsr import paper, profiles
from vsr.files import read_json
from vsr.report import training_logs
from vsr.report.findings import NOT_REPRODUCED, REPRODUCED, Finding, NotRunError, OutOfReachError, above, below
from vsr.report.training_logs import ACCURACY, FORMAT, Training
from vsr.scoring.intervals import LEVEL, Effect, between, draw, effect
from vsr.scoring.rewards import is_shell

COLLAPSE = 10.0  # points of format reward lost since its peak
CONVERGED = 90.0  # points of format reward
SHELLS = 1.0  # percent of rollouts; fewer are not "some"
HOURS = 2.0  # "about" is within this factor
_BETA = profiles.get("paper-2b").beta


def collapse(results: Path) -> list[Finding]:
    """Claim 5: how far the format reward falls from its peak, without and with the paper's KL term."""
    runs = training_logs.ablation(results)
    missing = [f"GRPO at beta {beta:g} with tags" for beta in (0.0, _BETA) if beta not in runs]
    if missing:
        raise NotRunError("missing: " + ", ".join(missing))
    found = []
    for beta, verdict in ((0.0, above), (_BETA, below)):
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
    runs = [run for run in training_logs.find(results) if run.beta == _BETA and run.share(FORMAT)]
    if not runs:
        raise NotRunError(f"missing: GRPO at beta {_BETA:g} with tags")
    last = between([100 * training_logs.end(run.curve(FORMAT)) for run in runs])
    ends = [(training_logs.start(run.curve(ACCURACY)), training_logs.end(run.curve(ACCURACY))) for run in runs]
    gain = between([100 * (after - before) for before, after in ends])
    later = between([100 * (_accuracy_arrives(run) - _format_arrives(run)) for run in runs])
    return [
        _of_runs("format reward at the end", last, runs, above, CONVERGED),
        _of_runs("accuracy reward, end − start", gain, runs, above),
        _of_runs("accuracy arrives later than format by", later, runs, above, unit="% of training"),
    ]


def hacking(results: Path) -> list[Finding]:
    """Claim 9: the share of empty shells among the last rollouts in observe mode."""
    runs = [run for run in training_logs.find(results) if run.mode == "observe" and run.beta == _BETA]
    if not runs:
        raise NotRunError("missing: grpo-observe-seed*")
    shells = share([[is_shell(text) for text in group] for run in runs for group in _last_groups(run)])
    return [_of_runs("empty shells in the last fifth of training", shells, runs, above, SHELLS, "% of rollouts")]


def gpu_hours(results: Path) -> list[Finding]:
    """Claim 10: measured where profile paper-2b was trained, projected where `vsr bench grpo` ran on a GPU."""
    run = next((one for one in training_logs.find(results) if one.mode == "vanilla"), None)
    if results.name == "paper-2b" and run:
        manifest = read_json(run.path / "manifest.json")
        return [_hours(f"trained on {manifest['device']}", manifest["seconds"], run.id)]
    path = results / "bench" / "grpo.json"
    if not path.is_file():
        raise NotRunError("needs profile paper-2b, or 'vsr bench grpo' on a GPU")
    bench = read_json(path)
    device = bench["machine"]["device"]
    if device == "cpu":
        raise OutOfReachError("is about Qwen2-VL-2B on a GPU; 'vsr bench grpo' ran on a CPU with a smaller model")
    row = max(bench["rows"], key=lambda row: (row["group"], row["prompt"], -row["completion"]))
    shape = f"G {row['group']}, prompt {row['prompt']}, completion {row['completion']}, {device}"
    what, seconds = f"{paper.QUESTIONS:,} questions, projected: {shape}", paper.QUESTIONS * row["trl_s"]
    ours = _hours(f"ours, {what}", paper.QUESTIONS * row["ours_s"])
    return [_hours(f"TRL made to see video, {what}", seconds), replace(ours, verdict="")]


def share(groups: list[list[bool]]) -> Effect:
    """The share in percent of rollouts that are something, given by groups answering one prompt: a bootstrap over the
    groups, or the exact binomial interval where that is wider."""
    hits, sizes = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    taken = draw(len(groups))
    draws = (taken @ hits) / (taken @ sizes)
    found = effect(100 * hits.sum() / sizes.sum(), 100 * draws, int(sizes.sum()), len(groups))
    tail, yes, no = (1 - LEVEL) / 2, int(hits.sum()), int((sizes - hits).sum())
    low = 100 * float(beta_law.ppf(tail, yes, no + 1)) if yes else 0.0
    high = 100 * float(beta_law.ppf(1 - tail, yes + 1, no)) if no else 100.0
    return replace(found, low=float(np.fmin(found.low, low)), high=float(np.fmax(found.high, high)))


def _last_groups(run: Training) -> list[list[str]]:
    """The completions kept of each step in the last fifth of training."""
    groups: dict[int, list[str]] = {}
    for row in run.completions():
        if row["step"] > 0.8 * run.steps[-1]:
            groups.setdefault(row["step"], []).append(row["completion"])
    return list(groups.values())


def _format_arrives(run: Training) -> float:
    return training_logs.arrival(run.curve(FORMAT), CONVERGED / 100)


def _accuracy_arrives(run: Training) -> float:
    """Nine tenths of the way from start to end; a curve that does not rise never arrives."""
    curve = run.curve(ACCURACY)
    first, last = training_logs.start(curve), training_logs.end(curve)
    return training_logs.arrival(curve, first + 0.9 * (last - first)) if last > first else 1.0


def _of_runs(
    what: str, found: Effect, runs: list[Training], verdict=None, bar: float = 0.0, unit: str = "points"
) -> Finding:
    return Finding(what, found, verdict(found, bar) if verdict else "", tuple(run.id for run in runs), unit)


def _hours(what: str, seconds: float, run: str = "") -> Finding:
    hours, nothing = seconds / 3600, float("nan")
    about = paper.GPU_HOURS / HOURS <= hours <= paper.GPU_HOURS * HOURS
    found = Effect(hours, nothing, nothing, nothing, 1, 0, (1,))
    return Finding(what, found, REPRODUCED if about else NOT_REPRODUCED, (run,) if run else (), "GPU hours")
