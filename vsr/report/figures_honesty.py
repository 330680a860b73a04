"""Figures that ask what a score is worth: what blind conditions, constants and typical answers would score."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr.paper import TASKS
from vsr.report.errors_by_task import truth_prior
from vsr.report.methods import BASE, CONSTANT, GRPO_V, SEEING, VIDEOS, Method
from vsr.report.plotting import BLUE, GREY, ORANGE, PALETTE, legend, name_runs, not_run, style, title
from vsr.report.summaries import Evaluation, evaluation, find
from vsr.report.table_text import NOT_RUN
from vsr.scoring import intervals, score_samples

PRIOR_STYLES = {BASE: (GREY, "o"), GRPO_V: (BLUE, "^")}
VIDEO_STYLES = {"true": (BLUE, "o"), "one": (PALETTE[2], "D"), "shuffled": (ORANGE, "s"), "none": (GREY, "v")}


def honesty(results: str | Path) -> Figure:
    """Every method's average with the true video, one frame, another room's video and none, and the best constant."""
    shown = {m: {v: evaluation(results, m.evaluation(v)) for v in VIDEOS} for m in SEEING}
    constant = find(Path(results), CONSTANT)
    with style():
        fig = Figure(figsize=(8.6, 4.6), layout="constrained")
        axes = fig.subplots()
        for y, runs in enumerate(reversed(shown.values())):
            _conditions(axes, y, runs)
        if constant:
            axes.axvline(constant.value("overall").score, color="black", linestyle=":", label="best constant answer")
        axes.set_yticks(range(len(shown)), [f"{m.label} ({m.mode})" for m in reversed(shown)])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("average score, %")
        title(axes, _worth(shown), pad=26, x=-0.2)
        legend(axes, labels=(*VIDEOS.values(), "best constant answer"), x=-0.21)
        name_runs(fig, [run.id for runs in shown.values() for run in runs.values() if run])
    return fig


def _conditions(axes: Axes, y: int, runs: dict[str, Evaluation | None]) -> None:
    values = {video: run.value("overall") for video, run in runs.items() if run}
    if not values:
        axes.text(0.02, y, NOT_RUN, transform=axes.get_yaxis_transform(), va="center", color=GREY)
    for offset, (video, (colour, marker)) in zip((0.24, 0.08, -0.08, -0.24), VIDEO_STYLES.items(), strict=True):
        if video in values:
            value = values[video]
            if value.low is not None:
                axes.plot([value.low, value.high], [y + offset] * 2, color=colour, linewidth=1.6, zorder=2)
            style_ = {"color": colour, "markersize": 6.5, "markeredgecolor": "white", "zorder": 3}
            axes.plot([value.score], [y + offset], marker, label=VIDEOS[video], **style_)


def _worth(shown: dict[Method, dict[str, Evaluation | None]]) -> str:
    """What the true video adds to another room's, for the base and for vsGRPO-V."""
    parts = []
    for method in (GRPO_V, BASE):
        true, other = shown[method]["true"], shown[method]["shuffled"]
        if true and other:
            name = method.label if method != BASE else "the base"
            parts.append(f"{intervals.compare(true.answers, other.answers)} points to {name}")
    return "What the true video is worth instead of another room's: " + (", ".join(parts) or NOT_RUN)


def prior(results: str | Path) -> Figure:
    """Left: what each task's score is above the best constant answer's. Right: the score of questions by how well their
    true answer would do as a constant, the least typical fifth first."""
    constant = evaluation(results, CONSTANT)
    found = {m: run for m in (BASE, GRPO_V) if (run := evaluation(results, m.evaluation()))}
    with style():
        fig = Figure(figsize=(9.4, 4.6), layout="constrained")
        left, right = fig.subplots(1, 2)
        if found and constant:
            shown = {m: (run, *PRIOR_STYLES[m]) for m, run in found.items()}
            title(left, _above_constant(left, shown, constant), 46, x=-0.16)
            ends = {method.label: _by_prior(right, *drawn, method.label) for method, drawn in shown.items()}
            _by_prior(right, constant, "black", "x", "best constant answer")
            typical = ", ".join(f"{label} {low:.0f} to {high:.0f}" for label, (low, high) in ends.items())
            title(right, f"From the rarest to the most typical true answers: {typical}", 46)
            right.set_ylim(bottom=0)
            right.legend(loc="best")
        else:
            not_run(left)
            not_run(right)
            title(left, "What is above the best constant answer")
        name_runs(fig, [run.id for run in (*found.values(), constant) if run])
    return fig


def _above_constant(axes: Axes, shown: dict[Method, tuple], constant: Evaluation) -> str:
    """Points above the constant by task; in words, on how many tasks the interval leaves 0 behind."""
    rows, beaten = list(reversed(TASKS)), []
    for offset, (method, (run, colour, marker)) in zip((0.14, -0.14), shown.items(), strict=False):
        effects = {task: intervals.compare(run.answers, constant.answers, task) for task in rows}
        for y, effect in enumerate(effects.values()):
            axes.plot([effect.low, effect.high], [y + offset] * 2, color=colour, linewidth=1.6)
            axes.plot([effect.value], [y + offset], marker, color=colour, markersize=6.5, markeredgecolor="white")
        beaten.append(f"{method.label} on {sum(e.low > 0 for e in effects.values())} of {len(rows)}")
    axes.axvline(0, color="black", linestyle=":")
    axes.set_yticks(range(len(rows)), [TASKS[task] for task in rows])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("points above the best constant answer")
    return "Clearly above the best constant answer: " + ", ".join(beaten)


def _by_prior(axes: Axes, run: Evaluation, colour: object, marker: str, label: str) -> tuple[float, float]:
    """The scores of the rarest and of the most typical fifth."""
    fifths = truth_prior(run.runs[0].samples())
    scores = 100 * np.mean([score_samples(one.samples()) for one in run.runs], axis=0)
    means = [scores[fifths == fifth].mean() if (fifths == fifth).any() else np.nan for fifth in range(5)]
    axes.plot(range(5), means, marker, linestyle="-", color=colour, markersize=6.5, label=label)
    axes.set_xticks(range(5), ["rarest\nfifth", "2nd", "3rd", "4th", "most typical\nfifth"])
    axes.set_ylabel("mean score of the questions, %")
    return means[0], means[-1]
