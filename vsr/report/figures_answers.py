"""Figures of the answers themselves: errors by task, Figure 1's counterpart, and what each
harness's rules make of the same answers (the score Rosetta).
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.report.evaluations import BASE, BASE_T, GRPO_V, Method, evaluation
from vsr.report.plotting import BLUE, GREY, PALETTE, name_runs, not_run, style, suptitle, title
from vsr.report.tables import NOT_RUN
from vsr.scoring import harnesses, intervals, score_samples, summarise, task_of
from vsr.scoring.answers import final_answer, normalise, read_letter, read_number, to_float

MOST_WORDS = 8  # a task with more different options than this is shown by letters
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


# --- errors by task ---
def numbers(samples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """True and given numbers (N,) of samples that ask for one; nan where no number was read."""
    pairs = [(to_float(sample["ground_truth"]), read_number(sample["response"])) for sample in samples]
    return tuple(np.array(pairs, dtype=float).T)  # numpy makes nan of None


def relative_error(samples: list[dict]) -> float:
    """The median of abs(given - true)/true; an answer without a number is infinitely wrong."""
    true, given = numbers(samples)
    return float(np.median(np.nan_to_num(np.abs(given - true) / true, nan=np.inf)))


def choices(samples: list[dict]) -> tuple[list[str], np.ndarray]:
    """How often each choice (rows) was answered by each (columns, the last for anything else): names, counts (K, K+1).

    Choices are the options' words where a task has at most MOST_WORDS different ones, else the letters."""
    pairs = [[option.partition(". ")[::2] for option in sample["options"] or ()] for sample in samples]
    options = [{letter.strip(): words.strip() for letter, words in some} for some in pairs]  # of each sample
    words = sorted({word for some in options for word in some.values()})
    use_words = 0 < len(words) <= MOST_WORDS
    letters = sorted({letter for some in options for letter in some})
    names = words if use_words else letters or sorted({normalise(sample["ground_truth"]) for sample in samples})
    table = np.zeros((len(names), len(names) + 1), dtype=int)
    for sample, some in zip(samples, options, strict=True):
        texts = sample["ground_truth"], sample["response"]
        if some:
            picked = [read_letter(text).upper() for text in texts]
            # letters are shuffled from question to question, their words are not
            true, given = (some.get(letter, "") if use_words else letter for letter in picked)
        else:
            true, given = (normalise(final_answer(text)) for text in texts)
        table[names.index(true), names.index(given) if given in names else -1] += 1
    return names, table


@style()
def errors(results: str | Path, method: Method | None = None) -> Figure:
    """One seed's answers task by task, of `method`, or of vsGRPO-V where it was run, else of the base."""
    run = next((run for m in ([method] if method else [GRPO_V, BASE]) if (run := evaluation(results, m))), None)
    fig = Figure(figsize=(10.5, 5.8), layout="constrained")
    samples = run.samples() if run else []
    for axes, task in zip(fig.subplots(2, 4).flat, TASKS, strict=True):
        asked = [sample for sample in samples if task_of(sample["question_type"]) == task]
        if not asked:
            not_run(axes)
        found = (_draw_numbers if task in NUMERICAL else _draw_choices)(axes, asked) if asked else ""
        axes.set_title(TASKS[task] + found, fontsize="medium")
    text = "Errors by task"
    if samples:
        asked = [sample for sample in samples if sample["question_type"] in NUMERICAL]
        other = [sample for sample in samples if sample["question_type"] not in NUMERICAL]
        parts = [f"numbers are off by {100 * relative_error(asked):.0f} % in the median"] if asked else []
        parts += [f"{100 * score_samples(other).mean():.0f} % of the choices are right"] if other else []
        seed = f" (seed{run.runs[0].about['train_seed']})" if len(run.runs) > 1 else ""
        text = f"{run.method.label} scores {run.value('overall')}; of its answers{seed} {', '.join(parts)}"
    suptitle(fig, text)
    name_runs(fig, [run.runs[0].manifest["id"]] if run else [])
    return fig


def _draw_numbers(axes: Axes, samples: list[dict]) -> str:
    """Every distinct (true, given) pair as a disc whose area is how often it occurs; what that shows, in words."""
    true, given = numbers(samples)
    read = np.isfinite(given)
    pairs, often = np.unique(np.stack([true[read], given[read]], 1), axis=0, return_counts=True)
    # a single absurd answer would press all others into a corner
    limit = 1.15 * np.quantile(np.concatenate([true, given[read]]), 0.99)
    axes.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=1)
    axes.scatter(pairs[:, 0], pairs[:, 1], s=9 * often, color=BLUE, alpha=0.5, linewidths=0)
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="true", ylabel="answered")
    unread = f", {np.mean(~read):.0%} no number" if not read.all() else ""
    return f": median error\n{100 * relative_error(samples):.0f} %{unread}"


def _draw_choices(axes: Axes, samples: list[dict]) -> str:
    """Rows true, columns answered, each row's shares; what that shows, in words."""
    names, table = choices(samples)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    few = len(names) <= 4
    axes.set_xticks(range(len(names) + 1), [*names, "?"], rotation=0 if few else 90, fontsize=8 if few else 6.5)
    axes.set_yticks(range(len(names)), names, fontsize=8 if few else 6.5)
    for (row, column), value in np.ndenumerate(shares) if few else ():
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="answered", ylabel="true")
    right, favourite = np.trace(table) / table.sum(), table.sum(0).argmax()
    most = f"'{[*names, '?'][favourite]}' is {table.sum(0)[favourite] / table.sum():.0%} of answers"
    return f": {right:.0%} right,\n{most}"


# --- Figure 1 ---
@style()
def figure_1(results: str | Path) -> Figure:
    """Figure 1's counterpart: the question whose plain and thought-out answers differ most in score."""
    runs = {method.mode: evaluation(results, method) for method in (BASE, BASE_T)}
    heading, text = "The same question, plainly and after thinking", NOT_RUN
    if all(runs.values()):
        by_id = {mode: {row["id"]: row for row in run.samples()} for mode, run in runs.items()}
        ids = [key for key in by_id["vanilla"] if key in by_id["think"]]
        scores = {mode: score_samples([rows[key] for key in ids]) for mode, rows in by_id.items()}
        apart = scores["vanilla"] - scores["think"]
        chosen = int(np.argmax(np.abs(apart)))
        question = by_id["vanilla"][ids[chosen]]
        lines = [question.get("question", TASKS[task_of(question["question_type"])]), *(question["options"] or [])]
        lines += [f"True answer: {question['ground_truth']}", ""]
        for mode, rows in by_id.items():
            lines.append(f"{mode}, scores {scores[mode][chosen]:.1f}: {rows[ids[chosen]]['response'] or '(nothing)'}")
        text = "\n".join(textwrap.fill(line, 96, subsequent_indent="    ") for line in lines)
        better = {"vanilla": 100 * np.mean(apart > 0), "think": 100 * np.mean(apart < 0)}
        shares = ", ".join(f"{mode} does better on {share:.0f} %" for mode, share in better.items())
        cost = intervals.compare(runs["think"].answers, runs["vanilla"].answers)
        heading = f"Of {len(ids)} questions {shares}; thinking is worth {cost} points"
    fig = Figure(figsize=(8.6, 0.8 + 0.25 * (1 + text.count("\n"))), layout="constrained")
    axes = fig.subplots()
    axes.axis("off")
    axes.text(0, 1, text, transform=axes.transAxes, va="top", fontsize="medium", linespacing=1.4)
    title(axes, heading)
    name_runs(fig, [run.id for run in runs.values() if run])
    return fig


# --- score Rosetta ---
@dataclass(frozen=True)
class Fall:
    """How the `official` score becomes a harness's own: the points that each of CAUSES adds."""

    name: str
    official: float
    steps: dict[str, float]
    score: float


def falls(samples: Iterable[dict]) -> list[Fall]:
    """One fall for each harness other than the official one, of rows of samples.jsonl."""
    samples, found = list(samples), []
    official, *others = harnesses.RULES.values()  # rules are taken over one after the other, so steps add up
    start = summarise(samples, official, resamples=1)["overall"]
    for other in others:
        rules, score, steps = official, start, {}
        for cause in CAUSES:
            rules, before = replace(rules, **{cause: getattr(other, cause)}), score
            score = summarise(samples, rules, resamples=1)["overall"]
            steps[cause] = score - before
        found.append(Fall(other.name, start, steps, score))
    return found


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
    scores = {"the official harness": found[0].official, **{fall.name: fall.score for fall in found}}
    low, high = min(scores, key=scores.get), max(scores, key=scores.get)
    text = f"The same answers score {scores[low]:.1f} under {low} and {scores[high]:.1f} under {high}"
    if scores[high] - scores[low] < LEAST:
        text = f"Every harness gives these answers {scores[low]:.1f}"
    fig = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = fig.subplots()
    axes.axvline(found[0].official, color="0.3", linewidth=1.2, linestyle=":", zorder=1)
    for y, fall in enumerate(found[::-1]):
        _draw_fall(axes, y, fall)
    axes.set_yticks(range(len(found)), [fall.name for fall in found[::-1]])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.use_sticky_edges = False  # bars would hold the margin off
    axes.margins(x=0.18)
    axes.grid(axis="y", visible=False)
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    place = {"loc": "lower left", "bbox_to_anchor": (-0.13, 1.0), "borderaxespad": 0.1, "columnspacing": 1.2}
    axes.legend(handles, CAUSES.values(), ncols=len(CAUSES), handlelength=1.2, **place)
    axes.set_title(text, pad=26, x=-0.13)
    axes.set_xlabel(f"overall score, % (dotted: {found[0].official:.1f} under the official rules)")
    fig.supxlabel(f"answers: {source}", x=0.01, ha="left", fontsize=6.5, color=GREY)
    return fig


def _draw_fall(axes: Axes, y: int, fall: Fall) -> None:
    """A harness's steps as bars one under the other, each beginning where the last one ended; its score in words."""
    seen = {cause: points for cause, points in fall.steps.items() if abs(points) >= LEAST}
    reached = [fall.official]
    for i, (cause, points) in enumerate(seen.items()):
        height = y + BAR * (len(seen) / 2 - i - 0.5)
        axes.barh(height, points, BAR, left=reached[-1], color=COLOURS[cause], linewidth=0, zorder=3)
        reached.append(reached[-1] + points)
    axes.plot([fall.score], [y], "|", color="black", markersize=22, markeredgewidth=1.6, zorder=4)
    change = fall.score - fall.official
    text = f"{fall.score:.1f}" + (f" ({change:+.1f})" if abs(change) >= LEAST else " (the same)")
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no grid line through the words
    offset = {"textcoords": "offset points", "xytext": (7, 0), "va": "center"}
    axes.annotate(text, (max(reached), y), fontsize="small", bbox=plain, **offset)
