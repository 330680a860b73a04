"""Figures from run folders alone, in one style, as .svg and .png that do not change from call to call.

Colours are seaborn's colour-blind palette. A title says what the figure shows, computed from the numbers in it; a
panel whose run is missing says "not run".
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr import paper
from vsr.paper import TASKS
from vsr.report import figures_errors, figures_honesty, figures_rosetta, figures_training, methods
from vsr.report.methods import BASE, CONSTANT, DPO, GRPO_V, SFT
from vsr.report.plotting import GREY, PALETTE, legend, name_runs, savefig, style, title
from vsr.report.summaries import COLUMNS, Evaluation, Run, evaluation, find
from vsr.report.table_text import NOT_RUN
from vsr.scoring import intervals
from vsr.scoring.intervals import Value

__all__ = ["GREY", "before_after", "prompting", "savefig", "style", "video_matters", "write_all"]

MODE_COLOURS = {"think": PALETTE[1], "observe": PALETTE[2], "vanilla": PALETTE[0]}
VIDEO_RUNS = {  # what the model saw -> run
    "true video": "eval-base-vanilla-true",
    "shuffled video": "eval-base-vanilla-shuffled",
    "no video": "eval-base-vanilla-none",
}
VIDEO_COLOURS = dict(zip(VIDEO_RUNS, (PALETTE[0], PALETTE[1], PALETTE[7]), strict=True))
METHOD_STYLES = {BASE: (GREY, "o"), DPO: (PALETTE[2], "D"), SFT: (PALETTE[1], "s"), GRPO_V: (PALETTE[0], "^")}


def all_figures() -> dict[str, Callable[[str | Path], Figure]]:
    """Every figure of the report by its file's name."""
    return {
        "figure1": figures_errors.figure_1,
        "figure3_left": figures_training.figure3_left,
        "figure3_right": figures_training.figure3_right,
        "gradient_shares": figures_training.gradient_shares,
        "table1_modes": prompting,
        "video_matters": video_matters,
        "before_after": before_after,
        "honesty": figures_honesty.honesty,
        "prior": figures_honesty.prior,
        "errors": figures_errors.errors,
        "rosetta": figures_rosetta.rosetta,
    }


def write_all(results: str | Path, out: str | Path) -> list[Path]:
    """Write every figure to `out`; the paths written."""
    return [path for name, draw in all_figures().items() for path in savefig(draw(results), Path(out) / name)]


def prompting(results: str | Path) -> Figure:
    """Table 1 as bars: the three prompt modes by task, our base above, the paper's Qwen2-VL-2B below."""
    runs = {mode: find(Path(results), f"eval-base-{mode}-true") for mode in paper.MODES}
    ours = {mode: run.values() for mode, run in runs.items() if run}
    constant = find(Path(results), CONSTANT)
    printed = {
        row.mode: {"overall": Value(row.average), **{task: Value(row.score(task)) for task in TASKS}}
        for row in paper.TABLE_1
        if row.backbone == "Qwen2-VL-2B"
    }
    with style():
        fig = Figure(figsize=(9.5, 5.6), layout="constrained")
        above, below = fig.subplots(2, 1, sharex=True, sharey=True)
        _mode_bars(above, ours)
        if constant:
            _marks(above, constant)
        if not ours:
            above.text(0.5, 0.5, NOT_RUN, transform=above.transAxes, ha="center", color=GREY, fontsize="large")
        above.set_title(f"Ours, {Path(results).name}: {_ranking(ours)}", pad=26)
        _mode_bars(below, printed)
        below.set_title("The paper, Qwen2-VL-2B: vanilla 23.3, think 22.9 (mean of its row: 20.7), observe 21.8")
        legend(above, below, labels=(*paper.MODES, "best constant answer"), x=0)
        fig.supylabel("score, %", fontsize="medium")
        name_runs(fig, [run.id for run in (*runs.values(), constant) if run])
    return fig


_BARS = ("overall", *TASKS)


def _mode_bars(axes: Axes, rows: dict[str, dict[str, Value | None]]) -> None:
    """Bars of the modes that were run, with their intervals."""
    for i, mode in enumerate(paper.MODES):
        if mode not in rows:
            continue
        at = np.arange(len(_BARS)) + 0.27 * (i - 1)
        values = [rows[mode][column] for column in _BARS]
        axes.bar(at, [value.score if value else 0 for value in values], 0.25, color=MODE_COLOURS[mode], label=mode)
        _whiskers(axes, at, values)
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(np.arange(len(_BARS)), ["average", *TASKS.values()])
    axes.set_ylim(bottom=0, auto=True)


def _whiskers(axes: Axes, at: np.ndarray, values: list[Value | None]) -> None:
    for x, value in zip(at, values, strict=True):
        if value is None:
            axes.text(x, 0.5, "–", ha="center", color=GREY)  # a task without questions, not a score of 0
        elif value.low is not None and value.high is not None:
            axes.plot([x, x], [value.low, value.high], color="0.2", linewidth=1.1, solid_capstyle="butt")


def _marks(axes: Axes, constant: Run) -> None:
    """A line across each task's bars at what the best constant answer scores."""
    values = [constant.value(column) for column in _BARS]
    for x, value in enumerate(values):
        if value:
            label = "best constant answer" if x == 0 else None
            axes.plot([x - 0.42, x + 0.42], [value.score] * 2, color="black", linestyle=":", linewidth=1.6, label=label)


def _ranking(ours: dict[str, dict[str, Value | None]]) -> str:
    """The modes by their averages, and whether the first one's interval stands apart."""
    averages = {mode: value for mode, values in ours.items() if (value := values["overall"])}
    missing = [mode for mode in paper.MODES if mode not in averages]
    if missing:
        return f"{', '.join(missing)} {NOT_RUN}"
    ranked = sorted(averages, key=lambda mode: -averages[mode].score)
    numbers = ", ".join(f"{mode} {averages[mode].score:.1f}" for mode in ranked)
    leads = _apart(averages[ranked[0]], averages[ranked[1]])
    return f"{ranked[0]} leads ({numbers})" if leads else f"{numbers}; the first two intervals overlap"


def _apart(higher: Value, lower: Value) -> bool:
    return higher.low is not None and lower.high is not None and higher.low > lower.high


def video_matters(results: str | Path) -> Figure:
    """What the base scores with the true, a shuffled and no video, by task, beside the best constant answer."""
    runs = {what: run for what, name in VIDEO_RUNS.items() if (run := find(Path(results), name))}
    constant = find(Path(results), CONSTANT)
    with style():
        fig = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = fig.subplots()
        rows = list(reversed(("overall", *TASKS)))
        for y, column in enumerate(rows):
            _dumbbell(axes, y, {what: run.value(column) for what, run in runs.items()}, constant, column)
        axes.axhline(len(rows) - 1.5, color="0.8", linewidth=1)
        axes.set_yticks(range(len(rows)), [{"overall": "average", **TASKS}[column] for column in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("score, %")
        missing = [what for what in VIDEO_RUNS if what not in runs]
        note = f"; {NOT_RUN}: {', '.join(missing)}" if missing else ""
        axes.set_title(_video_title(runs) + note, pad=26, x=-0.08)
        legend(axes, labels=(*VIDEO_RUNS, "best constant answer"), x=-0.09)
        name_runs(fig, [run.id for run in (*runs.values(), constant) if run])
    return fig


def _dumbbell(axes: Axes, y: int, values: dict[str, Value | None], constant: Run | None, column: str) -> None:
    scores = [value.score for value in values.values() if value]
    if scores:
        axes.plot([min(scores), max(scores)], [y, y], color="0.8", linewidth=2.5, zorder=1, solid_capstyle="round")
    for offset, (what, value) in zip((0.0, 0.16, -0.16), values.items(), strict=False):
        if value:
            colour = VIDEO_COLOURS[what]
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [y + offset] * 2, color=colour, linewidth=1.3, alpha=0.8, zorder=2)
            axes.plot([value.score], [y + offset], "o", color=colour, markersize=7, label=what, zorder=3)
    mark = constant.value(column) if constant else None
    if mark:
        axes.plot(
            [mark.score],
            [y],
            "|",
            color="black",
            markersize=13,
            markeredgewidth=2,
            label="best constant answer",
            zorder=4,
        )


def _video_title(runs: dict[str, Run]) -> str:
    """On how many tasks the true video's interval stands above both others."""
    if len(runs) < len(VIDEO_RUNS):
        return "What the video is worth"
    true, *others = (run.values() for run in runs.values())
    tasks = [task for task in TASKS if true[task] is not None]
    seen = [task for task in tasks if all(other[task] and _apart(true[task], other[task]) for other in others)]
    return f"The true video beats a shuffled one and none on {len(seen)} of {len(tasks)} tasks"


def before_after(results: str | Path) -> Figure:
    """Every task before and after training: base, DPO, SFT and vsGRPO-V, means over seeds with intervals."""
    found = {method: evaluation(results, method.evaluation()) for method in methods.LADDER}
    constant = find(Path(results), CONSTANT)
    with style():
        fig = Figure(figsize=(8.6, 6.4), layout="constrained")
        axes = fig.subplots()
        rows = list(reversed(COLUMNS))
        for y, column in enumerate(rows):
            axes.axhspan(y - 0.5, y + 0.5, color="0.95" if y % 2 else "white", zorder=0, linewidth=0)
            for offset, (method, run) in zip((0.27, 0.09, -0.09, -0.27), found.items(), strict=True):
                if run and (value := run.value(column)):
                    _dot(axes, y + offset, value, *METHOD_STYLES[method], label=method.label)
            mark = constant.value(column) if constant else None
            if mark:
                axes.plot([mark.score] * 2, [y - 0.42, y + 0.42], ":", color="black", label="best constant answer")
        axes.axhline(len(rows) - 2.5, color="0.6", linewidth=1)
        names = COLUMNS | {"overall": "average of eight", "trained": "average of six trained"}
        axes.set_yticks(range(len(rows)), [names[column] for column in rows])
        axes.set_ylim(-0.5, len(rows) - 0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("score, %")
        title(axes, _gains(found), pad=26, x=-0.2)
        legend(axes, labels=(*(method.label for method in found), "best constant answer"), x=-0.21)
        name_runs(fig, [run.id for run in (*found.values(), constant) if run])
    return fig


def _dot(axes: Axes, y: float, value: Value, colour: object, marker: str, label: str) -> None:
    if value.low is not None:
        axes.plot([value.low, value.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    axes.plot([value.score], [y], marker, color=colour, markersize=6, markeredgecolor="white", label=label, zorder=3)


def _gains(found: dict[methods.Method, Evaluation | None]) -> str:
    """What each method adds to the base over the six trained tasks, the largest gain first."""
    base = found[BASE]
    trained = {method: run for method, run in found.items() if method != BASE}
    missing = [method.label for method, run in found.items() if run is None]
    note = f"; {NOT_RUN}: {', '.join(missing)}" if missing else ""
    gains = {m: intervals.compare(run.answers, base.answers, "trained") for m, run in trained.items() if run and base}
    if not gains:
        return f"Before and after training{note}"
    ranked = sorted(gains, key=lambda method: -gains[method].value)
    return "Over the base on the six trained tasks: " + ", ".join(f"{m.label} {gains[m]}" for m in ranked) + note
