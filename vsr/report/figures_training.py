"""Figures of training, from the logs of finished GRPO runs: Figure 3 left and right, and whose gradient it is."""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr import paper
from vsr.report import training_logs
from vsr.report.judgements import COLLAPSE
from vsr.report.plotting import BLUE, GREEN, ORANGE, PURPLE, RED, curves, name_runs, not_run, style, title
from vsr.report.tables import NOT_RUN
from vsr.report.training_logs import ACCURACY, ENDS, FORMAT, KL, SMOOTH, TOTAL, Training, end, fall, mean_curve, smooth

BETA_STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
PARTS = {  # a part of the gradient's norm -> its name, colour and line
    "grad_norm/policy": ("policy, groups whose rewards differ", BLUE, "-"),
    "grad_norm/kl_live": ("KL, the same groups", ORANGE, "--"),
    "grad_norm/kl_flat": ("KL, groups whose rewards are all equal", RED, "-."),
}


@style()
def figure3_left(results: str | Path) -> Figure:
    """Format reward over training for each KL coefficient: every seed thin, their smoothed mean thick."""
    betas = training_logs.ablation(results)
    fig = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = fig.subplots()
    _by_beta(axes, betas, FORMAT)
    _finish(fig, axes, [run for runs in betas.values() for run in runs], _left_title(betas), "format reward")
    axes.set_ylim(-0.03, 1.06)
    return fig


@style()
def figure3_right(results: str | Path, task: str = "object_counting") -> Figure:
    """Format reward, accuracy reward of one task and total reward with the paper's KL term, smoothed over a tenth; of
    all tasks together where fewer than half of the steps asked for the one."""
    runs = _papers(results)
    key = ACCURACY.replace("mean", task)
    shown = key if runs and all(run.share(key) >= 0.5 for run in runs) else ACCURACY
    what = f"accuracy ({paper.TASKS[task]})" if shown == key else "accuracy (all tasks)"
    lines = {FORMAT: ("format", BLUE, "--"), shown: (what, RED, "-"), TOTAL: ("total", GREEN, "-.")}
    fig = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = fig.subplots()
    for name, (label, colour, line) in lines.items() if runs else ():
        each = partial(_smoothed, key=name, part=ENDS)
        curves(axes, runs, each, partial(_mean, key=name, part=ENDS), colour, line, label)
    _finish(fig, axes, runs, _right_title(runs, shown, what), "reward")
    axes.set_ylim(-0.03, None)
    return fig


@style()
def distance(results: str | Path) -> Figure:
    """How far the policy is from the base over training: the KL estimate of its rollouts for each KL coefficient."""
    betas = training_logs.ablation(results)
    fig = Figure(figsize=(7.6, 3.4), layout="constrained")
    axes = fig.subplots()
    _by_beta(axes, betas, KL)
    means = {beta: np.mean([np.nanmean(run.curve(KL)) for run in runs]) for beta, runs in sorted(betas.items())}
    text = ", ".join(f"{mean:.2f} nats a token at beta {beta:g}" for beta, mean in means.items())
    _finish(fig, axes, [run for runs in betas.values() for run in runs], f"Away from the base: {text}", "KL")
    axes.set_ylim(0, None)
    return fig


def _smoothed(run: Training, key: str, part: int) -> np.ndarray:
    return smooth(run.curve(key), part)


def _mean(runs: list[Training], key: str, part: int = SMOOTH) -> np.ndarray:
    return smooth(mean_curve(runs, lambda run: run.curve(key)), part)


def _by_beta(axes: Axes, betas: dict[float, list[Training]], key: str) -> None:
    """A curve for each KL coefficient."""
    for (beta, runs), (colour, line) in zip(sorted(betas.items()), BETA_STYLES, strict=False):
        label = f"beta {beta:g} ({len(runs)} seed{'s' * (len(runs) > 1)})"
        curves(axes, runs, lambda run: run.curve(key), partial(_mean, key=key), colour, line, label)


@style()
def gradient_shares(results: str | Path) -> Figure:
    """The norm of the gradient's parts over training, one panel a KL coefficient above 0."""
    betas = {beta: runs for beta, runs in sorted(training_logs.ablation(results).items()) if beta}
    fig = Figure(figsize=(9.2, 4.2), layout="constrained")
    panels = np.atleast_1d(fig.subplots(1, max(1, len(betas)), sharey=True))
    for axes, (beta, runs) in zip(panels, betas.items(), strict=False):
        for key, (label, colour, line) in PARTS.items():
            each = partial(_positive, key=key)
            curves(axes, runs, each, lambda some, each=each: smooth(mean_curve(some, each)), colour, line, label)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        flat = 100 * np.mean([np.nanmean(run.curve("frac_reward_zero_std")) for run in runs])
        axes.set_title(f"beta {beta:g}, {flat:.0f} % of groups with equal rewards", fontsize="medium")
    if not betas:
        not_run(panels[0], "GRPO with tags")
    panels[0].set_ylabel("norm of the gradient")
    fig.suptitle(_share_title(betas), x=0.01, ha="left", fontweight="bold", fontsize="large")
    if betas:
        panels[-1].legend(loc="best", fontsize="small")
    name_runs(fig, [run.id for runs in betas.values() for run in runs])
    return fig


def _positive(run: Training, key: str) -> np.ndarray:
    """A part's norm; steps that did not measure it, or where it is 0, are gaps."""
    curve = run.curve(key)
    return np.where(curve > 0, curve, np.nan)


def _kl_share(runs: list[Training]) -> float:
    """The KL parts' share in the sum of the parts' norms, in percent, a mean over steps and runs."""
    shares = []
    for run in runs:
        policy, live, flat = (run.curve(key) for key in PARTS)
        with np.errstate(invalid="ignore"):
            shares.append(np.nanmean((live + flat) / (policy + live + flat)))
    return 100 * float(np.mean(shares))


def _papers(results: str | Path) -> list[Training]:
    """The runs with the paper's KL coefficient: the smallest above 0."""
    betas = {beta: runs for beta, runs in training_logs.ablation(results).items() if beta}
    return betas[min(betas)] if betas else []


def _finish(fig: Figure, axes: Axes, runs: list[Training], text: str, what: str) -> None:
    if runs:
        axes.set_xlabel("step")
        axes.set_ylabel(what)
        axes.legend(loc="best", handlelength=3.2)
    else:
        not_run(axes, "GRPO with tags")
    title(axes, text, 76)
    name_runs(fig, [run.id for run in runs])


def _left_title(betas: dict[float, list[Training]]) -> str:
    """Where the format reward ends, and whether it fell on the way."""
    if not betas:
        return "Format reward over training"
    ends, falls = (
        {beta: np.mean([measure(run.curve(FORMAT)) for run in runs]) for beta, runs in betas.items()}
        for measure in (end, fall)
    )
    fallen = [beta for beta, lost in falls.items() if 100 * lost > COLLAPSE]
    last = ", ".join(f"{ends[beta]:.2f} at beta {beta:g}" for beta in sorted(ends))
    missing = "" if 0.0 in betas else f"; beta 0 {NOT_RUN}"
    if not fallen:
        return f"No collapse{' in ' + next(iter(betas.values()))[0].mode} mode: format reward ends at {last}{missing}"
    where = " and ".join(f"{beta:g}" for beta in sorted(fallen))
    return f"Format reward falls at beta {where}: it ends at {last}{missing}"


def _right_title(runs: list[Training], key: str, what: str) -> str:
    """When the format is there, and how the accuracy moves."""
    if not runs:
        return "Rewards over training"
    there = 100 * np.mean([training_logs.arrival(run.curve(FORMAT), 0.9) for run in runs])
    first, last = (np.mean([measure(run.curve(key)) for run in runs]) for measure in (training_logs.start, end))
    never = all(training_logs.arrival(run.curve(FORMAT), 0.9) == 1 for run in runs)
    form = "Format reward never reaches 0.9" if never else f"Format reward reaches 0.9 after {there:.0f} % of training"
    moves = "rises" if last > first else "falls"
    return f"vsGRPO, {runs[0].mode} mode: {form[0].lower() + form[1:]}; {what} {moves} from {first:.2f} to {last:.2f}"


def _share_title(betas: dict[float, list[Training]]) -> str:
    if not betas:
        return "How much of the gradient is the KL term's"
    shares = [f"{_kl_share(runs):.1f} % at beta {beta:g}" for beta, runs in betas.items()]
    return "The KL term's share in the gradient: " + ", ".join(shares)
