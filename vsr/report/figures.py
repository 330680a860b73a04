"""Figures of scores from run folders alone: titles are computed from the numbers shown; what was not run is said."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr import paper
from vsr.paper import TASKS
from vsr.profiles import VIDEOS
from vsr.report import evaluations as e
from vsr.report import figures_answers, figures_training
from vsr.report import plotting as p
from vsr.report.evaluations import BASE, CONSTANT, GRPO_V, Evaluation, evaluation
from vsr.report.plotting import GREY, PALETTE
from vsr.report.tables import NOT_RUN
from vsr.scoring import intervals
from vsr.scoring.intervals import Value

MODES = {"think": (e.BASE_T, PALETTE[1]), "observe": (e.BASE_O, PALETTE[2]), "vanilla": (BASE, PALETTE[0])}
VIDEO_STYLES = {"true": (PALETTE[0], "o"), "one": (PALETTE[2], "D"), "shuffled": (PALETTE[1], "s"), "none": (GREY, "v")}
METHOD_STYLES = {BASE: (GREY, "o"), e.DPO: (PALETTE[2], "D"), e.SFT: (PALETTE[1], "s"), GRPO_V: (PALETTE[0], "^")}
ROWS = {"overall": "average of eight", "trained": "average of six trained", **TASKS}


def write_all(results: str | Path, out: str | Path) -> list[Path]:
    """Write every figure to `out`; the paths written."""
    return [path for name, draw in ALL.items() for path in p.savefig(draw(results), Path(out) / name)]


@p.style()
def prompting(results: str | Path) -> Figure:
    """Table 1 as bars: the three prompt modes by task, our base above, the paper's Qwen2-VL-2B below."""
    runs = {mode: evaluation(results, method) for mode, (method, _) in MODES.items()}
    ours = {mode: run.values() for mode, run in runs.items() if run}
    constant = evaluation(results, CONSTANT)
    printed = {
        row.mode: {"overall": Value(row.average), **{task: Value(row.score(task)) for task in TASKS}}
        for row in paper.TABLE_1
        if row.backbone == "Qwen2-VL-2B"
    }
    fig = Figure(figsize=(9.5, 5.6), layout="constrained")
    above, below = fig.subplots(2, 1, sharex=True, sharey=True)
    _mode_bars(above, ours, constant)
    if not ours:
        p.not_run(above)
    averages = {mode: value for mode, values in ours.items() if (value := values["overall"])}
    ranked = sorted(averages, key=lambda mode: -averages[mode].score)
    text = ", ".join(f"{mode} {averages[mode]}" for mode in ranked)
    # a title never calls a winner that the intervals do not show
    if missing := [mode for mode in MODES if mode not in averages]:
        text = f"{', '.join(missing)} {NOT_RUN}"
    elif _apart(averages[ranked[0]], averages[ranked[1]]):
        text = f"{ranked[0]} leads ({text})"
    else:
        text += "; the first two intervals overlap"
    p.title(above, f"Ours, {Path(results).name}: {text}", 100, pad=26)
    _mode_bars(below, printed)
    below.set_title("The paper, Qwen2-VL-2B: vanilla 23.3, think 22.9 (mean of its row: 20.7), observe 21.8")
    p.legend(above, below, labels=(*MODES, CONSTANT.label), x=0)
    fig.supylabel("score, %", fontsize="medium")
    p.name_runs(fig, [run.id for run in (*runs.values(), constant) if run])
    return fig


def _mode_bars(axes: Axes, rows: dict[str, dict[str, Value | None]], constant: Evaluation | None = None) -> None:
    """Bars of the modes that were run, with their intervals, and a line at what the best constant answer scores."""
    columns = ("overall", *TASKS)
    for i, (mode, (_, colour)) in enumerate(MODES.items()):
        for x, column in enumerate(columns) if mode in rows else ():
            at, value = x + 0.27 * (i - 1), rows[mode][column]
            if value is None:
                axes.text(at, 0.5, "–", ha="center", color=GREY)  # a task without questions, not a score of 0
                continue
            axes.bar(at, value.score, 0.25, color=colour, label=mode)
            if value.low is not None:
                axes.plot([at, at], [value.low, value.high], color="0.2", linewidth=1.1, solid_capstyle="butt")
    for x, column in enumerate(columns) if constant else ():
        if mark := constant.value(column):
            line = {"color": "black", "linestyle": ":", "linewidth": 1.6, "label": CONSTANT.label}
            axes.plot([x - 0.42, x + 0.42], [mark.score] * 2, **line)
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(np.arange(len(columns)), ["average", *TASKS.values()])
    axes.set_ylim(bottom=0, auto=True)


def _apart(higher: Value, lower: Value) -> bool:
    return higher.low is not None and lower.high is not None and higher.low > lower.high


@p.style()
def video_matters(results: str | Path) -> Figure:
    """What the base scores with the true, a shuffled and no video, by task, beside the best constant answer."""
    shown = ("true", "shuffled", "none")
    runs = {video: run for video in shown if (run := evaluation(results, BASE, video))}
    fig = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = fig.subplots()
    _score_rows(fig, axes, {VIDEOS[video]: (run, *VIDEO_STYLES[video]) for video, run in runs.items()}, results)
    missing = [VIDEOS[video] for video in shown if video not in runs]
    text = "What the video is worth" + (f"; {NOT_RUN}: {', '.join(missing)}" if missing else "")
    if not missing:  # on how many tasks the true video's interval stands above both others
        true, *others = (run.values() for run in runs.values())
        tasks = [task for task in TASKS if true[task] is not None]
        seen = [task for task in tasks if all(other[task] and _apart(true[task], other[task]) for other in others)]
        worth = intervals.compare(runs["true"].answers, runs["shuffled"].answers)
        text = f"The true video is worth {worth} points on average: it beats a shuffled one and none on "
        text += f"{len(seen)} of {len(tasks)} tasks"
    p.title(axes, text, pad=26, x=-0.2)
    return fig


@p.style()
def before_after(results: str | Path) -> Figure:
    """Every task before and after training: base, e.DPO, e.SFT and vsGRPO-V, means over seeds with intervals."""
    found = {method: evaluation(results, method) for method in e.LADDER}
    fig = Figure(figsize=(8.6, 6.4), layout="constrained")
    axes = fig.subplots()
    _score_rows(fig, axes, {m.label: (run, *METHOD_STYLES[m]) for m, run in found.items() if run}, results)
    missing = [method.label for method, run in found.items() if run is None]
    gains = {}
    if base := found.pop(BASE):
        gains = {m: intervals.compare(run.answers, base.answers, "trained") for m, run in found.items() if run}
    ranked = sorted(gains, key=lambda method: -gains[method].value)
    text = "Over the base on the six trained tasks: " + ", ".join(f"{m.label} {gains[m]}" for m in ranked)
    note = f"; {NOT_RUN}: {', '.join(missing)}" if missing else ""
    p.title(axes, (text if gains else "Before and after training") + note, pad=26, x=-0.2)
    return fig


def _score_rows(fig: Figure, axes: Axes, shown: dict[str, tuple[Evaluation, object, str]], results: str | Path) -> None:
    """Both averages and every task, a mark for each of `shown` and a dotted one for the best constant answer."""
    series = [(label, [run.value(row) for row in ROWS], *look) for label, (run, *look) in shown.items()]
    p.interval_rows(axes, ROWS.values(), series, "score, %")
    constant = evaluation(results, CONSTANT)
    for place, row in enumerate(ROWS if constant else ()):
        y = len(ROWS) - 1 - place
        if mark := constant.value(row):
            axes.plot([mark.score] * 2, [y - 0.42, y + 0.42], ":", color="black", label=CONSTANT.label)
    axes.axhline(len(ROWS) - 2.5, color="0.6", linewidth=1)
    p.legend(axes, labels=(*shown, CONSTANT.label), x=-0.21)
    p.name_runs(fig, [run.id for run in (*(one[0] for one in shown.values()), constant) if run])


@p.style()
def honesty(results: str | Path) -> Figure:
    """Every method's average with the true video, one frame, another room's video and none, and the best constant."""
    shown = {m: {v: evaluation(results, m, v) for v in VIDEOS} for m in e.SEEING}
    constant = evaluation(results, CONSTANT)
    fig = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = fig.subplots()
    series = [
        (VIDEOS[video], [runs[video] and runs[video].value("overall") for runs in shown.values()], *look)
        for video, look in VIDEO_STYLES.items()
    ]
    p.interval_rows(axes, [f"{m.label} ({m.mode})" for m in shown], series, "average score, %")
    for y, runs in enumerate(reversed(shown.values())):
        if not any(runs.values()):
            axes.text(0.02, y, NOT_RUN, transform=axes.get_yaxis_transform(), va="center", color=GREY)
    if constant:
        axes.axvline(constant.value("overall").score, color="black", linestyle=":", label=CONSTANT.label)
    parts = []  # what the true video adds to another room's
    for method in (GRPO_V, BASE):
        true, other = shown[method]["true"], shown[method]["shuffled"]
        if true and other:
            name = method.label if method != BASE else "the base"
            parts.append(f"{intervals.compare(true.answers, other.answers)} points to {name}")
    text = "What the true video is worth instead of another room's: " + (", ".join(parts) or NOT_RUN)
    p.title(axes, text, pad=26, x=-0.2)
    p.legend(axes, labels=(*VIDEOS.values(), CONSTANT.label), x=-0.21)
    p.name_runs(fig, [run.id for runs in shown.values() for run in runs.values() if run])
    return fig


@p.style()
def gains(results: str | Path) -> Figure:
    """What each method adds to the base, task by task, in points; differences on the same questions."""
    found = {method: evaluation(results, method) for method in e.LADDER}
    base, shown = found.pop(BASE), {}
    if base:
        shown = {m: [intervals.compare(r.answers, base.answers, row) for row in ROWS] for m, r in found.items() if r}
    fig = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = fig.subplots()
    series = [(method.label, effects, *METHOD_STYLES[method]) for method, effects in shown.items()]
    p.interval_rows(axes, ROWS.values(), series, "points above the base")
    axes.axhline(len(ROWS) - 2.5, color="0.6", linewidth=1)
    axes.axvline(0, color="black", linestyle=":")
    effects = dict(zip(ROWS, shown.get(GRPO_V, ()), strict=False))
    moved = [f"{TASKS[t]} {effects[t]}" for t in TASKS if effects and (effects[t].low > 0 or effects[t].high < 0)]
    text = f"vsGRPO-V moves {len(moved)} of {len(TASKS)} tasks" + (": " if moved else "") + ", ".join(moved)
    p.title(axes, text if effects else f"What training adds; {NOT_RUN}: {GRPO_V.label}", pad=26, x=-0.2)
    p.legend(axes, labels=[method.label for method in shown], x=-0.21)
    p.name_runs(fig, [run.id for run in (base, *found.values()) if run])
    return fig


ALL = {  # of the report, by the name of its file
    "figure1": figures_answers.figure_1,
    "figure3_left": figures_training.figure3_left,
    "figure3_right": figures_training.figure3_right,
    "gradient_shares": figures_training.gradient_shares,
    "probes": figures_training.probes,
    "table1_modes": prompting,
    "video_matters": video_matters,
    "before_after": before_after,
    "honesty": honesty,
    "gains": gains,
    "errors": figures_answers.errors,
    "rosetta": figures_answers.rosetta,
}
