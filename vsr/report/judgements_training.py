"""The tests of claims about training (5, 8, 9, 10), from training logs: each run gives one number, runs are compared by
Welch's t; rollouts are counted group by group."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from vsr import paper
from vsr.files import read_json
from vsr.report import training_logs
from vsr.report.declared import (
    ACTS,
    CANNOT_TELL,
    CONTRADICTED,
    FAILS,
    HOLDS,
    HOURS,
    NOTHING,
    OFTEN,
    PAPERS_BETA,
    RARELY,
    REPRODUCED,
    RISE,
    SHELLS,
    Finding,
    UndecidedError,
    above,
    below,
    judged,
)
from vsr.report.tables import NOT_RUN
from vsr.report.training_logs import FORMAT, TrainingLog
from vsr.scoring.intervals import LEVEL, Effect, between, draw, effect
from vsr.scoring.rewards import TAGGED_MODES


def _runs(results: Path, *modes: str) -> list[TrainingLog]:
    runs = [run for run in training_logs.find(results) if run.beta == PAPERS_BETA and run.mode in modes]
    runs = [run for run in runs if run.counts("tagged").size]  # logs that count rollouts by group
    if not runs:
        raise UndecidedError(NOT_RUN, f"missing: GRPO at beta {PAPERS_BETA:g} in mode {' or '.join(modes)}")
    return runs


def collapse(results: Path) -> list[Finding]:
    """Claim 5: how many runs of the grid lose the form, by KL coefficient, and whether the term acts at all."""
    grid = [run for folder in sorted(results.glob("rate-*")) for run in training_logs.find(folder)]
    betas = training_logs.by_beta(grid)
    if missing := [f"the grid at beta {beta:g}" for beta in (0.0, PAPERS_BETA) if beta not in betas]:
        raise UndecidedError(NOT_RUN, "missing: " + ", ".join(missing))
    found, lots = [], {}
    for beta, runs in sorted(betas.items()):
        lost = np.array([training_logs.lost(run.curve(FORMAT), FAILS / 100, HOLDS / 100) for run in runs], dtype=float)
        lots[beta] = [lost, np.ones(len(runs))]
        gone = share(*lots[beta])
        rule = {0.0: lambda one: above(one, OFTEN), PAPERS_BETA: lambda one: below(one, RARELY)}.get(beta)
        verdict = rule(gone) if rule else ""
        what = f"runs that lose the form, beta {beta:g}"
        why = f"power: {what}: {len(runs)} runs" if verdict == CANNOT_TELL else ""
        found.append(Finding(what, gone, verdict, tuple(run.id for run in runs), "% of runs", why))
        if beta:
            acts = between([100 * training_logs.kl_share(run) for run in runs])
            holds = acts.value >= ACTS if beta == PAPERS_BETA else None
            why = f"at {beta:g} the KL term is {acts.value:.2g} % of the gradient" if holds is False else ""
            what = f"KL term's share of the gradient, beta {beta:g}"
            found.append(Finding(what, acts, "", tuple(run.id for run in runs), "%", why, holds))
    both = [*betas[0.0], *betas[PAPERS_BETA]]
    what = f"runs that lose the form, beta 0 − beta {PAPERS_BETA:g}"
    return [*found, judged(_of_runs(what, risen(lots[PAPERS_BETA], lots[0.0]), both, above, unit="% of runs"), OFTEN)]


def convergence(results: Path) -> list[Finding]:
    """Claim 8: whether the format reward gets to 1, the accuracy of what has the form rises, and later than it."""
    runs = _runs(results, *TAGGED_MODES)
    last = between([100 * training_logs.end(run.curve(FORMAT)) for run in runs])
    gains, delays = [], []
    for run in runs:
        curve = run.tagged_accuracy()
        first, final = training_logs.start(curve), training_logs.end(curve)
        gains.append(100 * (final - first))
        if 100 * (final - first) >= RISE:  # nine tenths of the way; noise alone "arrives" in a curve that hardly rises
            there = training_logs.arrival(curve, first + 0.9 * (final - first))
            delays.append(100 * (there - training_logs.arrival(run.curve(FORMAT), HOLDS / 100)))
    gained = between(gains)
    found = [
        _of_runs("format reward at the end", last, runs, above, HOLDS),
        judged(_of_runs("accuracy of rollouts with the form, end − start", gained, runs, above, 0.0, RISE), RISE),
    ]
    if delays:
        later = between(delays)
        arrived = _of_runs("accuracy arrives later than format by", later, runs, above, unit="% of training")
        return [*found, judged(arrived, 0.0)]
    return [
        *found,
        Finding(
            "a run whose accuracy rises", NOTHING, "", (), why=f"accuracy rises by {RISE:g} in no run", holds=False
        ),
    ]


def hacking(results: Path) -> list[Finding]:
    """Claim 9: empty shells among rollouts with the form, all of training after the first tenth against that tenth,
    since a base may have some; under a length reward, repeated tags among all."""
    found = []
    for folder, name, what in ((results, "shells", "empty shells"), (results / "length", "repeats", "repeated tags")):
        runs = _runs(folder, "observe")
        sizes = "tagged" if name == "shells" else None
        first, last = (
            [np.concatenate([run.part(key, *part).ravel() for run in runs]) for key in (name, sizes)]
            for part in ((0.0, 0.1), (0.1, 1.0))
        )
        text = f"{what}{', length reward' * (folder != results)}, later − first tenth"
        unit = "% of rollouts with the form" if sizes else "% of rollouts"
        found.append(judged(_of_runs(text, risen(first, last), runs, above, SHELLS, unit=unit), SHELLS))
        found.append(_of_runs(text.removesuffix(" − first tenth"), share(*last), runs, unit=unit))
    return found


def risen(first: list[np.ndarray], last: list[np.ndarray]) -> Effect:
    """How far a share of rollouts rose, in points, between two lots of groups: `hits` (groups,) and `sizes` (groups,)
    of each; bootstraps over groups. With no hit late the upper end is the exact one of the later share."""
    shares = [(hits.sum() / sizes.sum(), _drawn(hits, sizes)) for hits, sizes in (first, last)]
    count = int(first[1].sum() + last[1].sum())
    draws = 100 * (shares[1][1] - np.random.default_rng(1).permutation(shares[0][1]))  # the lots are independent
    found = effect(100 * (shares[1][0] - shares[0][0]), draws, count, len(last[0]))
    return found if last[0].any() else replace(found, high=max(found.high, share(*last).high))


def _drawn(hits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    # rollouts of one prompt and step resemble each other, so whole groups are drawn: (R, G) @ (G,)
    taken = draw(len(hits))
    return taken @ hits / np.maximum(taken @ sizes, 1)


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


def share(hits: np.ndarray, sizes: np.ndarray) -> Effect:
    """The share in percent of rollouts that are something, `hits` (groups,) of the `sizes` (groups,) of each: a
    bootstrap over the groups, or the exact binomial interval where that is wider."""
    count = int(sizes.sum())
    found = effect(100 * hits.sum() / max(count, 1), 100 * _drawn(hits, sizes), count, len(hits))
    # with no hit at all every draw is 0 and the bootstrap's interval a point; Clopper and Pearson's is not: 0 of 100
    # still allows 3.6 %
    exact = binomtest(int(hits.sum()), max(count, 1)).proportion_ci(LEVEL, "exact")
    low, high = np.fmin(found.low, 100 * exact.low), np.fmax(found.high, 100 * exact.high)
    return replace(found, low=float(low), high=float(high))


def _of_runs(
    what: str, found: Effect, runs: list[TrainingLog], verdict=None, *bars: float, unit: str = "points"
) -> Finding:
    return Finding(what, found, verdict(found, *bars) if verdict else "", tuple(run.id for run in runs), unit)


def _hours(what: str, seconds: float, *runs: str) -> Finding:
    hours = seconds / 3600
    about = paper.GPU_HOURS / HOURS <= hours <= paper.GPU_HOURS * HOURS
    found = Effect(hours, np.nan, np.nan, np.nan, 1, 0, (1,))
    return Finding(what, found, REPRODUCED if about else CONTRADICTED, runs, "GPU hours")
