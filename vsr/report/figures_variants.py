"""What a quantised base costs and saves: the variants' quality, memory and speed, measured beside the estimate."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr.files import read_json
from vsr.report import training_logs
from vsr.report.evaluations import BASE, GRPO_V, Evaluation, evaluation
from vsr.report.plotting import BLUE, GREY, ORANGE, interval, name_runs, not_run, style
from vsr.report.training_logs import Training
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect

FOLDER, PLAN, MODE = "qlora", "plan", "vanilla"
FULL = "none"  # the variant that is not quantised
PHASES = ("rollout", "scoring", "update")
MIB = 2**20


@dataclass(frozen=True)
class Variant:
    """One quantisation: its estimate (`plan`), its finished trainings, and what base and trained models scored."""

    name: str
    plan: dict
    id: str
    trainings: tuple[Training, ...]
    base: Evaluation | None
    trained: Evaluation | None

    @cached_property
    def device(self) -> str:
        """Where it was trained; '' if it was not."""
        return read_json(self.trainings[0].path / "manifest.json")["device"] if self.trainings else ""

    @property
    def memory(self) -> tuple[float, float]:
        """MiB, estimated and measured: on a GPU all that PyTorch held at the worst moment; on a CPU, where the process
        holds Python and its libraries too, the weights alone."""
        if self.device in ("", "cpu"):
            return self.plan["weights"] / MIB, self.plan["loaded"] / MIB
        return self.plan["peak"] / MIB, max(np.nanmax(run.curve("peak_memory_mb")) for run in self.trainings)

    @property
    def step(self) -> tuple[float, float]:
        """Seconds of a step without vision, estimated and measured (the median); nan where it was not trained."""
        times = [sum(run.curve(f"seconds/{phase}") for phase in PHASES) for run in self.trainings]
        return sum(self.plan["step"].values()), float(np.median(np.concatenate(times))) if times else float("nan")

    @property
    def ids(self) -> list[str]:
        """The runs behind the numbers."""
        evaluations = [one.id for one in (self.base, self.trained) if one]
        return [f"{self.name}/{one}" for one in (self.id, *(run.id for run in self.trainings), *evaluations)]


def find(results: str | Path) -> list[Variant]:
    """The variants under `results` that have an estimate, full precision first, then by name."""
    found = []
    for path in sorted(Path(results).glob(f"{FOLDER}/*/{PLAN}/estimate.json")):
        folder = path.parent.parent
        shown = [evaluation(folder, method) for method in (BASE, GRPO_V)]
        mark = read_json(path.parent / "manifest.json")["id"]
        trainings = tuple(run for run in training_logs.find(folder) if run.mode == MODE)
        found.append(Variant(folder.name, read_json(path), mark, trainings, *shown))
    return sorted(found, key=lambda variant: (variant.name != FULL, variant.name))


def rows(results: str | Path) -> list[tuple[str, ...]]:
    """One row a variant: memory and seconds a step, estimated and measured, score before and after training."""
    table = []
    for one in find(results):
        numbers = [f"{value:.1f}" for value in one.memory] + [f"{value:.2f}" for value in one.step]
        scores = [f"{run.value('overall')}" if run else "not run" for run in (one.base, one.trained)]
        table.append((one.name, *("not run" if number == "nan" else number for number in numbers), *scores))
    return table


HEAD = ("base", "MiB, estimated", "measured", "s a step, estimated", "measured", "score before", "after training")


def loss(results: str | Path) -> dict[str, Effect]:
    """Each quantised variant's trained score minus full precision's in points, paired on the same questions."""
    trained = {one.name: one.trained.answers for one in find(results) if one.trained}
    if FULL not in trained:
        return {}
    return {name: intervals.compare(ours, trained[FULL]) for name, ours in trained.items() if name != FULL}


@style()
def tradeoff(results: str | Path) -> Figure:
    """A row a variant: score before and after training with intervals, memory, and seconds a step."""
    variants = list(reversed(find(results)))
    fig = Figure(figsize=(10.4, 1.9 + 0.55 * max(2, len(variants))), layout="constrained")
    panels = fig.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    for y, one in enumerate(variants):
        before, after = (run and run.value("overall") for run in (one.base, one.trained))
        interval(panels[0], before, y + 0.14, GREY, "o", "before")
        interval(panels[0], after, y - 0.14, BLUE, "^", "after training")
        for axes, pair in zip(panels[1:], (one.memory, one.step), strict=True):
            _pair(axes, y, *pair)
    for axes in panels:
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, max(1, len(variants)) - 0.4)
        handles, labels = axes.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        if known:
            place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.98), "handletextpad": 0.2}
            axes.legend(known.values(), known, ncols=2, columnspacing=1.0, **place)
    panels[0].set_yticks(range(len(variants)), ["not quantised" if one.name == FULL else one.name for one in variants])
    panels[0].set_xlabel("average score, %")
    on_gpu = any(one.device not in ("", "cpu") for one in variants)
    panels[1].set_xlabel("GPU memory at most, MiB" if on_gpu else "memory of the weights, MiB")
    panels[2].set_xlabel("seconds a step")
    for axes in panels[1:]:
        axes.margins(x=0.08)
        axes.set_xlim(left=0)
    if not variants:
        not_run(panels[0], "QLoRA variants")
    fig.suptitle(_title(results), x=0.01, ha="left", fontweight="bold", fontsize="large")
    name_runs(fig, [mark for one in reversed(variants) for mark in one.ids])
    return fig


def _pair(axes: Axes, y: int, estimated: float, measured: float) -> None:
    """An open marker for the estimate, a full one for what was measured, a line between them."""
    axes.plot([estimated, measured], [y, y], color=GREY, linewidth=1)
    shape = {"markersize": 8, "linestyle": "none"}
    axes.plot([estimated], [y], "o", color=ORANGE, markerfacecolor="white", label="estimated", zorder=3, **shape)
    axes.plot([measured], [y], "D", color=ORANGE, label="measured", **shape)


def _title(results: str | Path) -> str:
    """The smallest variant, the best of equally small ones: what it saves, and what it costs."""
    found = {one.name: one for one in find(results)}
    lost = loss(results)
    if not lost:
        return "Quantised bases: quality, memory and speed"
    smallest = min(lost, key=lambda name: (round(found[name].memory[1]), -lost[name].value))
    share = found[smallest].memory[1] / found[FULL].memory[1]
    slower = found[smallest].step[1] / found[FULL].step[1]
    costs = f"{slower:.1f} times the seconds a step, {lost[smallest]} points"
    return f"{smallest} instead of full precision: {share:.0%} of the memory, {costs}"
