"""Figures of training, from the logs of finished GRPO runs: Figure 3 left and right, and whose gradient it is."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vsr import paper
from vsr.report import training_logs as logs
from vsr.report.declared import FAILS, HOLDS, PAPERS_BETA
from vsr.report.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    bars,
    legend,
    name_runs,
    not_run,
    style,
    suptitle,
    title,
)
from vsr.report.tables import NOT_RUN
from vsr.report.training_logs import ACCURACY, FORMAT, KL, TOTAL, TrainingLog, ablation, smooth
from vsr.scoring import Sampled, intervals

if TYPE_CHECKING:
    from vsr.train.one_group import OneGroup

BETA_STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
PARTS = {  # a part of the gradient's norm -> its colour, line and name
    "grad_norm/policy": (BLUE, "-", "policy, groups whose rewards differ"),
    "grad_norm/kl_live": (ORANGE, "--", "KL, the same groups"),
    "grad_norm/kl_flat": (RED, "-.", "KL, groups whose rewards are all equal"),
}


@style()
def figure3_left(results: str | Path) -> Figure:
    """Format reward over training for each KL coefficient, at the grid's highest rate; the title tells where it ends,
    and whether it fell."""
    betas, text = dict(sorted(ablation(logs.grid(results)).items())), "Format reward over training"
    if betas:
        mode = next(iter(betas.values()))[0].mode
        ends = ", ".join(f"{_told(runs, logs.end)} at beta {beta:g}" for beta, runs in betas.items())
        gone = {b: sum(logs.lost(r.curve(FORMAT), FAILS / 100, HOLDS / 100) for r in runs) for b, runs in betas.items()}
        fallen = [f"{beta:g} ({count} of {len(betas[beta])} runs)" for beta, count in gone.items() if count]
        text = f"No collapse in {mode} mode: format reward ends at {ends}"
        if fallen:
            text = f"Format reward falls at beta {' and '.join(fallen)}: it ends at {ends}"
        text += "" if 0.0 in betas else f"; beta 0 {NOT_RUN}"
    return _over_steps("format reward", _by_beta(betas, FORMAT), text, (-0.03, 1.06))


@style()
def figure3_right(results: str | Path, task: str = "object_counting") -> Figure:
    """Format reward, accuracy reward of one task and total reward with the paper's KL term, smoothed over a tenth."""
    betas = {beta: runs for beta, runs in ablation(results).items() if beta}
    runs = betas[min(betas)] if betas else []  # the paper's coefficient is the smallest above 0
    lines, text = [], "Rewards over training"
    if runs:
        key, what = ACCURACY.replace("mean", task), f"accuracy ({paper.TASKS[task]})"
        # of all tasks together where fewer than half of the steps asked for the one
        if any(np.isnan(run.curve(key)).mean() > 0.5 for run in runs):
            key, what = ACCURACY, "accuracy (all tasks)"
        looks = {FORMAT: (BLUE, "--", "format"), key: (RED, "-", what), TOTAL: (GREEN, "-.", "total")}
        lines = [(runs, shown, *look) for shown, look in looks.items()]
        there = [logs.arrival(run.curve(FORMAT), 0.9) for run in runs]  # 1 where it never gets there
        form = "never reaches 0.9" if min(there) == 1 else f"reaches 0.9 after {100 * np.mean(there):.0f} % of training"
        moves = f"{what} goes from {_told(runs, logs.start, key)} to {_told(runs, logs.end, key)}"
        text = f"vsGRPO, {runs[0].mode} mode: format reward {form}; {moves}"
    return _over_steps("reward", lines, text, (-0.03, None), part=logs.ENDS)


@style()
def distance(results: str | Path) -> Figure:
    """How far the policy is from the base over training: the KL estimate of its rollouts for each KL coefficient."""
    betas = dict(sorted(ablation(logs.grid(results)).items()))
    text = ", ".join(f"{_told(runs, np.nanmean, KL)} nats a token at beta {beta:g}" for beta, runs in betas.items())
    return _over_steps("KL", _by_beta(betas, KL), f"Away from the base: {text}", (0, None), height=3.4)


SKILLS = {  # of the base's exams, as its manifest calls them
    "counting": "count",
    "size_estimation": "object size",
    "room_size_estimation": "room size",
    "free abs_distance": "distance",
    "free rel_distance": "nearest, by name",
    "free rel_direction": "side, by name",
    "letter rel_distance": "nearest, by letter",
    "letter rel_direction_easy": "side, by letter",
}


@style()
def making(manifest: dict) -> Figure:
    """How a base was made: its score on held-out questions at the end of each stage of language, by skill, with the
    true and with another room's video."""
    stages, recipe = {name: one for name, one in manifest["gates"].items() if "true" in one}, manifest["recipe"]
    order = [stage["name"] for stage in recipe["language"]]
    steps = np.cumsum([stage["steps"] for stage in recipe["language"]])
    fig, apart = Figure(figsize=(7.6, 4.4), layout="constrained"), []
    panels = fig.subplots(2, 4, sharex=True, sharey=True)
    for axes, (skill, name) in zip(panels.flat, SKILLS.items(), strict=True):
        for video, look, label in (("true", "o-", "true video"), ("shuffled", "s--", "another room's")):
            scores = [stages[stage][video].get(skill, np.nan) for stage in order]
            axes.plot(steps, scores, look, color=BLUE if video == "true" else ORANGE, markersize=4.5, label=label)
            apart.append(scores[-1] if video == "true" else -scores[-1])
        axes.set_title(name, fontsize="small")
        axes.set(ylim=(0, 102), xticks=steps, xlim=(0, steps[-1] * 1.08))
    for axes in panels[1]:
        axes.set_xticklabels(order, fontsize=7.5)
    fig.supylabel("score, %", fontsize="medium")
    panels[0, 0].legend(fontsize=7, loc="upper left", handlelength=1.6)
    text = f"It came to look: after the last stage the true video is worth {sum(apart) / len(SKILLS):.0f} points"
    suptitle(fig, f"{text} (mean of eight skills, {recipe['held']} questions each)")
    return fig


@style()
def likelier(group: "OneGroup") -> Figure:
    """What one update did to each rollout of the group it learnt from, the most rewarded first."""
    order = np.argsort(-np.asarray(group.advantages), kind="stable")
    change = np.asarray(((group.after - group.before) * group.mask).sum(1))
    signs = np.sign(np.asarray(group.advantages).round(6))
    names = [f"{textwrap.shorten(group.texts[i], 44) or '(nothing)'}  {group.advantages[i]:+.2f}" for i in order]
    fig = Figure(figsize=(7.6, 0.9 + 0.27 * len(names)), layout="constrained")
    axes = fig.subplots()
    bars(
        axes,
        names,
        change[order],
        [{1: BLUE, -1: ORANGE}.get(signs[i], GREY) for i in order],
        "change of the log-probability, nats; on the left a rollout and its advantage",
    )
    better, worse = (100 * np.expm1(change[signs == sign].mean()) for sign in (1, -1))
    text = f"One update: answers above their group's mean {better:+.0f} % in probability, those below {worse:+.0f} %"
    suptitle(fig, text)
    return fig


@style()
def at_k(found: dict[str, Sampled]) -> Figure:
    """pass@k and maj@k over k: the mean over the trained tasks, of each model."""
    fig = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = fig.subplots()
    for (name, one), (colour, _) in zip(found.items(), BETA_STYLES, strict=False):
        for part, dashes, what in ((one.best, "-", "pass@k"), (one.most, "--", "maj@k")):
            scores = [answers.value("trained").score for answers in part]
            axes.plot(range(1, len(scores) + 1), scores, dashes, color=colour, label=f"{name}, {what}")
    axes.set(xlabel="k answers at temperature 1", ylabel="score over the trained tasks, %", ylim=(None, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center right", ncols=len(found))
    first, *_, last = found.values()
    gains = [
        intervals.compare(part[-1], other[-1], "trained")
        for part, other in ((last.best, first.best), (last.most, first.most))
    ]
    one = intervals.compare(last.best[0], first.best[0], "trained")
    k = len(first.best)
    title(axes, f"Training adds {one} points to one answer, {gains[1]} to maj@{k}, {gains[0]} to pass@{k}", 70)
    return fig


def _told(runs: list[TrainingLog], measure: Callable[[np.ndarray], float], key: str = FORMAT) -> str:
    """The mean over runs of a measure of their curves, in words, with the range of the seeds."""
    each = [measure(run.curve(key)) for run in runs]
    return f"{np.mean(each):.2f}" + (f" [{min(each):.2f}, {max(each):.2f}]" if len(runs) > 1 else "")


def _by_beta(betas: dict[float, list[TrainingLog]], key: str) -> list[tuple]:
    """A line of `_over_steps` for each KL coefficient."""
    labels = [f"beta {beta:g} ({len(runs)} seed{'s' * (len(runs) > 1)})" for beta, runs in betas.items()]
    rows = zip(betas.values(), BETA_STYLES, labels, strict=False)
    return [(runs, key, *look, label) for runs, look, label in rows]


def _over_steps(what: str, lines: list[tuple], text: str, limits: tuple, part: int = 0, height: float = 4.2) -> Figure:
    """`what` over steps. One of `lines` is runs, the key of their logs, and colour, dashes and label."""
    fig = Figure(figsize=(7.6, height), layout="constrained")
    axes = fig.subplots()
    for runs, key, *look in lines:
        _draw(axes, runs, [run.curve(key) for run in runs], *look, part=part)
    if lines:
        axes.set(xlabel="step" + " (thin: seeds; brackets: their range)" * ("[" in text), ylabel=what)
        legend(axes, labels=tuple(label for *_, label in lines), x=-0.02)
    else:
        not_run(axes, "GRPO with tags")
    axes.set_ylim(*limits)
    title(axes, text, 70, pad=26 * bool(lines))
    name_runs(fig, dict.fromkeys(run.id for line in lines for run in line[0]))
    return fig


def _draw(axes: Axes, runs: list, curves: list[np.ndarray], colour: object, line: str, label: str, part: int = 0):
    """The curves of runs over their steps, thin, and their smoothed mean, thick."""
    for run, curve in zip(runs, curves, strict=True):
        axes.plot(run.steps, smooth(curve, part) if part else curve, color=colour, linewidth=0.7, alpha=0.35)
    mean = smooth(logs.mean_curve(curves), part or logs.SMOOTH)
    axes.plot(runs[0].steps[: len(mean)], mean, line, color=colour, linewidth=2.6, label=label)


@style()
def probes(results: str | Path) -> Figure:
    """What sampled answers score while vsGRPO-V, -T and -O are trained, a panel each: any answer, the most frequent of
    a question's answers, the best of them; the trained six of rooms that nothing else uses."""
    found = [run for run in logs.find(results) if run.beta == PAPERS_BETA and run.probed()]
    fig, told = Figure(figsize=(9.2, 3.6), layout="constrained"), []
    panels = fig.subplots(1, len(paper.MODES), sharey=True)
    for axes, mode in zip(panels, paper.MODES, strict=True):
        runs = [run for run in found if run.mode == mode]
        curves = [run.probed() for run in runs]
        for name, (colour, line) in zip(list(curves[0])[1:] if curves else (), BETA_STYLES, strict=False):
            for curve in curves:
                axes.plot(curve["step"], curve[name], color=colour, linewidth=0.7, alpha=0.35)
            mean = logs.mean_curve([curve[name] for curve in curves])
            axes.plot(curves[0]["step"][: len(mean)], mean, line, color=colour, linewidth=2.6, label=name)
            if name.startswith("mean"):
                ends = [curve[name][len(mean) - 1] for curve in curves]
                spread = f" [{min(ends):.0f}, {max(ends):.0f}]" if len(runs) > 1 else ""
                told.append(f"{mode} {mean[0]:.0f} to {mean[-1]:.0f}{spread}")
        axes.set_title(f"{mode}, {len(runs)} seed{'s' * (len(runs) != 1)}", fontsize="medium", pad=24)
        axes.set_xlabel("step (brackets: range of seeds)" if len(runs) > 1 else "step", fontsize="small")
        if not runs:
            not_run(axes)
    panels[0].set_ylabel("score, %")
    suptitle(fig, f"One sampled answer scores: {'; '.join(told) or NOT_RUN}")
    if found:
        legend(panels[0], *panels[1:], labels=tuple(list(found[0].probed())[1:]), x=0)
        panels[0].get_legend().set_in_layout(False)  # as wide as the figure
    name_runs(fig, [run.id for run in found])
    return fig


@style()
def gradient_shares(results: str | Path) -> Figure:
    """The norm of the gradient's parts over training, one panel a KL coefficient above 0."""
    betas, shares = {beta: runs for beta, runs in sorted(ablation(logs.grid(results)).items()) if beta}, []
    fig = Figure(figsize=(9.2, 4.2), layout="constrained")
    panels = np.atleast_1d(fig.subplots(1, max(1, len(betas)), sharey=True))
    for axes, (beta, runs) in zip(panels, betas.items(), strict=False):
        parts = {key: [run.curve(key) for run in runs] for key in PARTS}
        for key, look in PARTS.items():
            # steps that did not measure it, or where it is 0, are gaps on a logarithmic axis
            _draw(axes, runs, [np.where(curve > 0, curve, np.nan) for curve in parts[key]], *look)
        # a share of sizes: the parts are vectors, whose norms do not add up to that of the whole gradient
        each = [100 * logs.kl_share(run) for run in runs]
        spread = f" [{min(each):.2g}, {max(each):.2g}]" if len(runs) > 1 else ""
        shares.append(f"{np.mean(each):.2g}{spread} % at beta {beta:g}")
        flat = 100 * np.mean([np.nanmean(run.curve("frac_reward_zero_std")) for run in runs])
        axes.set(yscale="log", xlabel="step")
        axes.set_title(f"beta {beta:g}, {flat:.0f} % of groups with equal rewards", fontsize="medium", pad=24)
    panels[0].set_ylabel("norm of the gradient")
    if betas:
        among = " (brackets: range of the runs)" if "[" in shares[0] else ""
        suptitle(fig, f"The KL term's share in the gradient: {', '.join(shares)}{among}")
        legend(panels[0], labels=tuple(name for *_, name in PARTS.values()), x=0)
        panels[0].get_legend().set_in_layout(False)  # as wide as the figure
    else:
        suptitle(fig, "How much of the gradient is the KL term's")
        not_run(panels[0], "GRPO with tags")
    name_runs(fig, [run.id for runs in betas.values() for run in runs])
    return fig
