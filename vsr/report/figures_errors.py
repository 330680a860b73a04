"""Figures of the answers themselves: what kind of error an answer is (numbers beside true ones, choices beside right
ones), how typical a truth is, and Figure 1's counterpart."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.report.evaluations import BASE, BASE_T, GRPO_V, Evaluation, Method, evaluation
from vsr.report.plotting import BLUE, name_runs, not_run, style, title
from vsr.report.tables import NOT_RUN
from vsr.scoring import score_samples, task_of
from vsr.scoring.answers import final_answer, mean_relative_accuracy, normalise, read_letter, read_number, to_float

MOST_WORDS = 8  # a task with more different options than this is shown by letters


def numbers(samples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """True and given numbers (N,) of samples that ask for one; nan where no number was read."""
    true = [to_float(sample["ground_truth"]) for sample in samples]
    given = [read_number(sample["response"]) for sample in samples]
    return np.array(true, dtype=float), np.array([np.nan if g is None else g for g in given], dtype=float)


def relative_error(samples: list[dict]) -> float:
    """The median of abs(given - true)/true; an answer without a number is infinitely wrong."""
    true, given = numbers(samples)
    return float(np.median(np.nan_to_num(np.abs(given - true) / true, nan=np.inf)))


def choices(samples: list[dict]) -> tuple[list[str], np.ndarray]:
    """How often each choice (rows) was answered by each (columns, the last for anything else): names, counts (K, K+1).

    Choices are the options' words where a task has at most MOST_WORDS different ones, else the letters."""
    words = sorted({word for sample in samples for word in _options(sample).values()})
    use_words = 0 < len(words) <= MOST_WORDS
    letters = sorted({letter for sample in samples for letter in _options(sample)})
    names = words if use_words else letters or sorted({normalise(sample["ground_truth"]) for sample in samples})
    table = np.zeros((len(names), len(names) + 1), dtype=int)
    for sample in samples:
        true, given = (_choice(sample, text, use_words) for text in (sample["ground_truth"], sample["response"]))
        table[names.index(true), names.index(given) if given in names else -1] += 1
    return names, table


def _options(sample: dict) -> dict[str, str]:
    """Letter -> words."""
    parts = [option.partition(". ") for option in sample["options"] or ()]
    return {letter.strip(): words.strip() for letter, _, words in parts}


def _choice(sample: dict, text: str, use_words: bool) -> str:
    if not sample["options"]:
        return normalise(final_answer(text))
    letter = read_letter(text).upper()
    return _options(sample).get(letter, "") if use_words else letter


def truth_prior(samples: list[dict]) -> np.ndarray:
    """The fifth 0..4 (N,) within its question type that each sample's truth is in, by how it would score as a constant
    answer to all questions of the type; 4 holds the most typical truths."""
    by_type: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        by_type.setdefault(sample["question_type"], []).append(i)
    fifths = np.zeros(len(samples), dtype=int)
    for kind, members in by_type.items():
        truths = [samples[i]["ground_truth"] for i in members]
        values, where, often = np.unique(truths, return_inverse=True, return_counts=True)
        as_constant = _constant_scores(values, often, kind in NUMERICAL)[where]
        order = np.argsort(np.argsort(as_constant, kind="stable"), kind="stable")
        fifths[members] = 5 * order // len(members)
    return fifths


def _constant_scores(values: np.ndarray, often: np.ndarray, numerical: bool) -> np.ndarray:
    """The mean score of each distinct truth as the answer to all."""
    if not numerical:
        return often / often.sum()
    numbers_ = values.astype(float)
    accuracy = [[mean_relative_accuracy(guess, truth) for truth in numbers_] for guess in numbers_]
    return np.array(accuracy) @ often / often.sum()


@style()
def errors(results: str | Path, method: Method | None = None) -> Figure:
    """One seed's answers task by task: numbers given against true ones, and which choice was taken for which.

    `method` is vsGRPO-V where it was run, else the base."""
    candidates = [method] if method else [GRPO_V, BASE]
    run = next((found for m in candidates if (found := evaluation(results, m))), None)
    fig = Figure(figsize=(10.5, 5.8), layout="constrained")
    panels = fig.subplots(2, 4)
    samples = run.samples() if run else []
    for axes, task in zip(panels.flat, TASKS, strict=True):
        asked = [sample for sample in samples if task_of(sample["question_type"]) == task]
        if not asked:
            not_run(axes)
            axes.set_title(TASKS[task], fontsize="medium")
        elif task in NUMERICAL:
            _draw_numbers(axes, task, asked)
        else:
            _choices(axes, task, asked)
    fig.suptitle(_error_title(run, samples), x=0.01, ha="left", fontweight="bold", fontsize="large")
    name_runs(fig, [run.runs[0].manifest["id"]] if run else [])
    return fig


def _draw_numbers(axes: Axes, task: str, samples: list[dict]) -> None:
    """Every distinct (true, given) pair as a disc whose area is how often it occurs."""
    true, given = numbers(samples)
    read = np.isfinite(given)
    pairs, often = np.unique(np.stack([true[read], given[read]], 1), axis=0, return_counts=True)
    limit = 1.15 * np.quantile(np.concatenate([true, given[read]]), 0.99)
    axes.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=1)
    axes.scatter(pairs[:, 0], pairs[:, 1], s=9 * often, color=BLUE, alpha=0.5, linewidths=0)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, limit)
    axes.set_xlabel("true")
    axes.set_ylabel("answered")
    unread = f", {np.mean(~read):.0%} no number" if not read.all() else ""
    axes.set_title(f"{TASKS[task]}: median error\n{100 * relative_error(samples):.0f} %{unread}", fontsize="medium")


def _choices(axes: Axes, task: str, samples: list[dict]) -> None:
    """Rows true, columns answered, each row's shares."""
    names, table = choices(samples)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    small = {"fontsize": 6.5 if len(names) > 4 else 8}
    axes.set_xticks(range(len(names) + 1), [*names, "?"], rotation=90 if len(names) > 4 else 0, **small)
    axes.set_yticks(range(len(names)), names, **small)
    if len(names) <= 4:
        for (row, column), value in np.ndenumerate(shares):
            colour = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    right, favourite = np.trace(table) / table.sum(), table.sum(0).argmax()
    most = f"'{[*names, '?'][favourite]}' is {table.sum(0)[favourite] / table.sum():.0%} of answers"
    axes.set_title(f"{TASKS[task]}: {right:.0%} right,\n{most}", fontsize="medium")


def _error_title(run: Evaluation | None, samples: list[dict]) -> str:
    if not samples:
        return "Errors by task"
    asked = [sample for sample in samples if sample["question_type"] in NUMERICAL]
    other = [sample for sample in samples if sample["question_type"] not in NUMERICAL]
    parts = [f"numbers are off by {100 * relative_error(asked):.0f} % in the median"] if asked else []
    parts += [f"{100 * score_samples(other).mean():.0f} % of the choices are right"] if other else []
    seed = f", seed{run.runs[0].about['train_seed']}" if len(run.runs) > 1 else ""
    return f"{run.method.label}{seed}: " + ", ".join(parts)


@style()
def figure_1(results: str | Path) -> Figure:
    """Figure 1's counterpart: one question answered plainly and after thinking, where the two differ in score."""
    runs = {method.mode: evaluation(results, method) for method in (BASE, BASE_T)}
    heading, text = "The same question, plainly and after thinking", NOT_RUN
    if all(runs.values()):
        heading, text = _one_question({mode: run.samples() for mode, run in runs.items()})
    fig = Figure(figsize=(8.6, 0.8 + 0.25 * (1 + text.count("\n"))), layout="constrained")
    axes = fig.subplots()
    axes.axis("off")
    axes.text(0, 1, text, transform=axes.transAxes, va="top", fontsize="medium", linespacing=1.4)
    title(axes, heading)
    name_runs(fig, [run.id for run in runs.values() if run])
    return fig


def _one_question(samples: dict[str, list[dict]]) -> tuple[str, str]:
    """A heading, and a question with its answers in two modes: the first one where their scores differ most."""
    by_id = {mode: {row["id"]: row for row in rows} for mode, rows in samples.items()}
    first, second = by_id
    ids = [key for key in by_id[first] if key in by_id[second]]
    scores = {mode: score_samples([rows[key] for key in ids]) for mode, rows in by_id.items()}
    apart = scores[first] - scores[second]
    chosen = int(np.argmax(np.abs(apart)))
    question = by_id[first][ids[chosen]]
    lines = [question.get("question", TASKS[task_of(question["question_type"])]), *(question["options"] or [])]
    lines += [f"True answer: {question['ground_truth']}", ""]
    for mode, rows in by_id.items():
        lines.append(f"{mode}, scores {scores[mode][chosen]:.1f}: {rows[ids[chosen]]['response'] or '(nothing)'}")
    shares = [f"{mode} does better on {share:.0f} %" for mode, share in (
        (first, 100 * np.mean(apart > 0)), (second, 100 * np.mean(apart < 0)))]  # fmt: skip
    text = "\n".join(textwrap.fill(line, 96, subsequent_indent="    ") for line in lines)
    return f"Of the same {len(ids)} questions {', '.join(shares)}", text
