"""From responses to scores: the official VSI-Bench metric by default, other harnesses' rules by name.

"official" is thinking-in-space's harness (first space-separated token, float64 mean relative accuracy, relative
direction as the mean of its three levels, overall as the mean of the eight tasks), after the content of an answer tag
has been taken where there is one. Scores of one answer are in [0, 1]; summaries are in percent.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vsr.errors import VsrError
from vsr.paper import TASKS, TRAINED
from vsr.questions.question import NUMERICAL, Question
from vsr.scoring import averages, harness_rules
from vsr.scoring.answers import final_answer, mean_relative_accuracy, read_letter, read_number, same_text, to_float
from vsr.scoring.averages import DIRECTION, Sums
from vsr.scoring.harness_rules import Rules
from vsr.scoring.stats import Cells, interval, resample, tabulate

SAMPLE_FIELDS = ("id", "scene_name", "question_type", "options", "ground_truth", "response")

__all__ = [
    "TASKS",
    "TRAINED",
    "best_constant",
    "mean_relative_accuracy",
    "rosetta_table",
    "score",
    "summarise",
]


def score(question: Question, text: str, rules: str = "official") -> float:
    """The score of a response in [0, 1]: mean relative accuracy of a number, else right or wrong."""
    return _score(
        question.question_type,
        question.options,
        question.ground_truth,
        text,
        harness_rules.get(rules),
        f"question {question.id}",
    )


def _score(question_type: str, options: Sequence[str] | None, truth: str, text: str, rules: Rules, where: str) -> float:
    if question_type in NUMERICAL:
        target = to_float(truth)
        if target is None or target <= 0:
            raise VsrError(f"{where}: ground_truth '{truth}' is no positive number; build the questions again")
        number = rules.number(text, question_type)
        return 0.0 if number is None else rules.accuracy(number, target)
    if options:
        return float(rules.choice(text, truth))
    return float(same_text(text, truth))


def readable(question_type: str, options: Sequence[str] | None, text: str) -> bool:
    """Whether the official rule finds an answer of the right form: a number, one of the letters, or any text."""
    if question_type in NUMERICAL:
        return read_number(text) is not None
    if options:
        return read_letter(text) in {option[:1].lower() for option in options}
    return bool(final_answer(text))


def task_of(question_type: str) -> str:
    """The official task of a question type: relative direction's levels are one task."""
    return DIRECTION if question_type.startswith(DIRECTION) else question_type


def score_samples(samples: Iterable[dict], rules: str = "official") -> np.ndarray:
    """The scores (N,) of samples, which are rows of samples.jsonl, in [0, 1]."""
    chosen = harness_rules.get(rules)
    scores = []
    for number, s in enumerate(samples, 1):
        missing = [name for name in SAMPLE_FIELDS if name not in s]
        if missing:
            raise VsrError(f"sample {number}: field '{missing[0]}' is missing; a sample has {', '.join(SAMPLE_FIELDS)}")
        if task_of(s["question_type"]) not in TASKS:
            raise VsrError(f"sample {number}: question_type '{s['question_type']}' is none of {', '.join(TASKS)}")
        scores.append(
            _score(s["question_type"], s["options"], s["ground_truth"], s["response"], chosen, f"sample {s['id']}")
        )
    return np.array(scores)


def summarise(samples: Iterable[dict], rules: str = "official", resamples: int = 2000, seed: int = 0) -> dict:
    """Scores of a run in percent with 95 % intervals from a bootstrap over scenes.

    `overall` is the harness's headline, `trained` the mean of the paper's six tasks; tasks that no question asks for
    are named in `absent` and left out of both, never counted as 0. Bounds are None with fewer than two scenes.
    """
    samples = list(samples)
    if not samples:
        raise VsrError("no samples to score: the predictions are empty; run 'vsr evaluate' first")
    chosen = harness_rules.get(rules)
    cells = tabulate(score_samples(samples, rules), *clusters(samples))
    drawn = Draws(cells, resamples, seed)
    tasks = averages.task_means(drawn.sample, chosen.direction)
    number = {task: sum(task_of(sample["question_type"]) == task for sample in samples) for task in tasks}
    headline = dict(chosen.overall)
    right_form = [readable(s["question_type"], s["options"], s["response"]) for s in samples]
    return {
        "rules": chosen.name,
        "n": len(samples),
        "scenes": cells.scenes,
        **drawn.bounds("overall", lambda sums: _average(chosen, sums, next(iter(headline)))),
        **drawn.bounds("trained", lambda sums: averages.trained(averages.task_means(sums, chosen.direction))),
        "averages": {name: _percent(_average(chosen, drawn.sample, name)) for name in headline},
        "tasks": {
            task: {
                **drawn.bounds("", lambda sums, task=task: averages.task_means(sums, chosen.direction)[task]),
                "n": number[task],
            }
            for task in tasks
        },
        "types": {
            kind: {"score": _percent(mean), "n": int(drawn.sample[kind][1])}
            for kind, mean in averages.means(drawn.sample).items()
        },
        "absent": [task for task in TASKS if task not in tasks],
        "parsable": _percent(np.mean(right_form)),
    }


def rosetta_table(samples: Iterable[dict], rules: str = "all") -> str:
    """The same answers under several harnesses' rules, as text: `rules` is all, or names with commas between them."""
    samples = list(samples)
    names = list(harness_rules.RULES) if rules == "all" else [name.strip() for name in rules.split(",")]
    official = summarise(samples, resamples=1)["overall"]
    lines = [f"{'rules':<14}{'overall':>9}{'official':>10}   its averages"]
    for name in names:
        found = summarise(samples, name, resamples=1)
        parts = ", ".join(
            f"{part} {'-' if value is None else f'{value:.1f}'}" for part, value in found["averages"].items()
        )
        lines.append(f"{name:<14}{found['overall']:>9.1f}{found['overall'] - official:>+10.1f}   {parts}")
    return "\n".join(lines)


def clusters(samples: list[dict]) -> tuple[list[str], list[str]]:
    """Scene and question type of each sample."""
    return [str(sample["scene_name"]) for sample in samples], [sample["question_type"] for sample in samples]


def _average(rules: Rules, sums: Sums, name: str) -> np.ndarray:
    return dict(rules.overall)[name](sums, averages.task_means(sums, rules.direction))


def _percent(share: np.ndarray | float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 4)


class Draws:
    """A sample's sums by question type, and those of its bootstrap draws."""

    def __init__(self, cells: Cells, resamples: int, seed: int):
        sums, counts = resample(cells, resamples, seed)
        self.scenes = cells.scenes
        self.sample: Sums = {
            kind: (cells.sums[:, k].sum(), cells.counts[:, k].sum()) for k, kind in enumerate(cells.kinds)
        }
        self.draws: Sums = {kind: (sums[:, k], counts[:, k]) for k, kind in enumerate(cells.kinds)}

    def bounds(self, name: str, average) -> dict[str, float | None]:
        """`name` (or score) with its low and high, in percent."""
        prefix = f"{name}_" if name else ""
        low, high = interval(average(self.draws), self.scenes)
        return {
            name or "score": _percent(average(self.sample)),
            f"{prefix}low": _percent(low),
            f"{prefix}high": _percent(high),
        }


def best_constant(questions: Iterable[Question]) -> dict[str, tuple[str, float]]:
    """For each official task the single answer that scores best on these questions, and its score in percent.

    Chosen on the questions it is scored on, so no constant does better: numbers are searched among the edges of the
    ten tolerance bands, kept to three digits; relative direction has one letter for its levels.
    """
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        by_task.setdefault(task_of(question.question_type), []).append(question)
    return {task: _constant(asked) for task, asked in sorted(by_task.items())}


def _constant(questions: list[Question]) -> tuple[str, float]:
    if questions[0].question_type in NUMERICAL:
        truths = np.array([to_float(question.ground_truth) for question in questions], dtype=float)
        scores = {f"{guess:g}": _mean_accuracy(guess, truths) for guess in _guesses(truths)}
    else:
        kinds: dict[str, list[Question]] = {}
        for question in questions:
            kinds.setdefault(question.question_type, []).append(question)
        answers = sorted({question.ground_truth for question in questions})
        scores = {
            answer: np.mean([np.mean([score(q, answer) for q in asked]) for asked in kinds.values()])
            for answer in answers
        }
    best = max(scores, key=lambda answer: scores[answer])
    return best, 100 * float(scores[best])


def _guesses(truths: np.ndarray) -> list[float]:
    edges = np.unique(truths)[:, None] * (1 + np.linspace(-0.5, 0.5, 21))
    return sorted({float(f"{edge:.3g}") for edge in edges.ravel()})


def _mean_accuracy(guess: float, truths: np.ndarray) -> float:
    values, counts = np.unique(truths, return_counts=True)
    return float(np.average([mean_relative_accuracy(guess, truth) for truth in values], weights=counts))
