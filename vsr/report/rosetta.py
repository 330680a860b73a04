"""Score Rosetta: what each harness's rules make of the same answers, and which of its rules makes the difference."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vsr import scoring
from vsr.report.evaluations import BASE_T, evaluation
from vsr.report.plotting import GREY, PALETTE, not_run, style
from vsr.scoring import harnesses

CAUSES = {  # a field of `Rules` -> what it decides; taken over from the harness in this order
    "number": "reading numbers",
    "choice": "judging letters",
    "accuracy": "comparing numbers",
    "direction": "averaging directions",
    "overall": "averaging all",
}
COLOURS = dict(zip(CAUSES, PALETTE[: len(CAUSES)], strict=True))
LEAST = 0.05  # points that can be seen
BAR = 0.2  # of a harness's line


@dataclass(frozen=True)
class Fall:
    """How the official overall score becomes a harness's, in percent: `steps` are the points that each of CAUSES adds
    when its rule is taken over after those before it."""

    name: str
    official: float
    steps: dict[str, float]

    @property
    def score(self) -> float:
        """The harness's own headline score."""
        return self.official + sum(self.steps.values())


def falls(samples: Iterable[dict]) -> list[Fall]:
    """One fall for each harness other than the official one, of rows of samples.jsonl."""
    samples = list(samples)
    official = harnesses.get("official")
    start = _overall(samples, official)
    return [_fall(samples, official, other, start) for other in harnesses.RULES.values() if other is not official]


def _fall(samples: list[dict], official: harnesses.Harness, other: harnesses.Harness, start: float) -> Fall:
    rules, before, steps = official, start, {}
    for cause in CAUSES:
        rules = replace(rules, **{cause: getattr(other, cause)})
        after = _overall(samples, rules)
        steps[cause], before = after - before, after
    return Fall(other.name, start, steps)


def _overall(samples: list[dict], rules: harnesses.Harness) -> float:
    return scoring.summarise(samples, rules, resamples=1)["overall"]


@style()
def rosetta(results: str | Path) -> Figure:
    """The waterfall of the base's answers in think mode, the wordiest of the report."""
    if run := evaluation(results, BASE_T):
        return waterfall(run.samples(), run.id)
    fig = Figure(figsize=(8.6, 4.8), layout="constrained")
    not_run(fig.subplots(), "the base in think mode")
    return fig


@style()
def waterfall(samples: Iterable[dict], source: str) -> Figure:
    """For each harness the way from the official score to its own, cause by cause; `source` names the answers."""
    found = falls(samples)
    fig = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = fig.subplots()
    axes.axvline(found[0].official, color="0.3", linewidth=1.2, linestyle=":", zorder=1)
    for y, fall in enumerate(reversed(found)):
        _draw(axes, y, fall)
    axes.set_yticks(range(len(found)), [fall.name for fall in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.margins(x=0.18)
    axes.grid(axis="y", visible=False)
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    place = {"loc": "lower left", "bbox_to_anchor": (-0.13, 1.0), "borderaxespad": 0.1, "columnspacing": 1.2}
    axes.legend(handles, CAUSES.values(), ncols=len(CAUSES), handlelength=1.2, **place)
    axes.set_title(_title(found), pad=26, x=-0.13)
    axes.set_xlabel(f"overall score, % (dotted: {found[0].official:.1f} under the official rules)")
    fig.supxlabel(f"answers: {source}", x=0.01, ha="left", fontsize=6.5, color=GREY)
    return fig


def _draw(axes: Axes, y: int, fall: Fall) -> None:
    """A harness's steps as bars one under the other, each beginning where the last one ended; its score in words."""
    seen = {cause: points for cause, points in fall.steps.items() if abs(points) >= LEAST}
    at, top = fall.official, y + BAR * len(seen) / 2
    reached = [at]
    for i, (cause, points) in enumerate(seen.items()):
        axes.barh(top - BAR * (i + 0.5), points, BAR, left=at, color=COLOURS[cause], linewidth=0, zorder=3)
        at += points
        reached.append(at)
    axes.plot([fall.score], [y], "|", color="black", markersize=22, markeredgewidth=1.6, zorder=4)
    change = fall.score - fall.official
    text = f"{fall.score:.1f}" + (f" ({change:+.1f})" if abs(change) >= LEAST else " (the same)")
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no grid line through the words
    offset = {"textcoords": "offset points", "xytext": (7, 0), "va": "center"}
    axes.annotate(text, (max(reached), y), fontsize="small", bbox=plain, **offset)


def _title(found: list[Fall]) -> str:
    """How far apart the harnesses are on the same answers."""
    scores = {"the official harness": found[0].official, **{fall.name: fall.score for fall in found}}
    low, high = min(scores, key=lambda name: scores[name]), max(scores, key=lambda name: scores[name])
    if scores[high] - scores[low] < LEAST:
        return f"Every harness gives these answers {scores[low]:.1f}"
    return f"The same answers score {scores[low]:.1f} under {low} and {scores[high]:.1f} under {high}"
