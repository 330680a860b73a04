"""From responses to scores: the official VSI-Bench metric by default, other harnesses' rules by name.

"official" is thinking-in-space's harness (first space-separated token, float64 mean relative accuracy, relative
direction as the mean of its three levels, overall as the mean of the eight tasks), after the content of an answer tag
has been taken where there is one. Scores of one answer are in [0, 1]; summaries are in percent.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import comb

from vsr import markdown
from vsr.errors import VsrError
from vsr.files import placed_jsonl
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL, Question, checked
from vsr.scoring import harnesses
from vsr.scoring.answers import THRESHOLDS, final_answer, read_letter, read_number, same_text
from vsr.scoring.answers import mean_relative_accuracy as mean_relative_accuracy  # the notebooks' name for it
from vsr.scoring.harnesses import Harness
from vsr.scoring.intervals import RESAMPLES, SEED, Answers, interval, task_of

SAMPLE_FIELDS = ("id", "scene_name", "question_type", "options", "ground_truth", "response")


def score(question: Question, text: str, rules: str = "official") -> float:
    """The score of a response in [0, 1]: mean relative accuracy of a number, else right or wrong."""
    asked = question.question_type, question.options, question.ground_truth
    return _score(question.question_type, *checked(*asked, f"question {question.id}"), text, harnesses.get(rules))


def _score(kind: str, options: Sequence[str] | None, truth: str, text: str, rules: Harness) -> float:
    if kind in NUMERICAL:
        number = rules.number(text, kind)
        return 0.0 if number is None else rules.accuracy(number, float(truth))
    return float(rules.choice(text, truth) if options else same_text(text, truth))


def readable(question_type: str, options: Sequence[str] | None, text: str) -> bool:
    """Whether the official rule finds an answer of the right form: a number, one of the letters, or any text."""
    if question_type in NUMERICAL:
        return read_number(text) is not None
    if options:
        return read_letter(text) in {option[:1].lower() for option in options}
    return bool(final_answer(text).strip())


def score_samples(samples: Iterable[dict], rules: str | Harness = "official") -> np.ndarray:
    """The scores (N,) of samples, which are rows of samples.jsonl, in [0, 1]."""
    chosen, scores = harnesses.get(rules), []
    for number, s in enumerate(samples, 1):
        asked = _checked(s, f"sample {number}")
        scores.append(_score(s["question_type"], *asked, s["response"], chosen))
    return np.array(scores)


def read_samples(path: str | Path) -> list[dict]:
    """The rows of a samples.jsonl, from whatever harness: VsrError, naming line and field, where one cannot be scored,
    or has the id of an earlier one."""
    rows, places = [], {}
    for where, row in placed_jsonl(path):
        _checked(row, where)
        if (first := places.setdefault(str(row["id"]), where)) != where:
            raise VsrError(f"{where}: id {row['id']!r} is also in {first}; score each file of answers by itself")
        rows.append(row)
    return rows


def _checked(sample: dict, where: str) -> tuple[Sequence[str] | None, str]:
    missing = [name for name in SAMPLE_FIELDS if name not in sample]
    if missing:
        raise VsrError(f"{where}: field '{missing[0]}' is missing; a sample has {', '.join(SAMPLE_FIELDS)}")
    if not isinstance(sample["response"], str):
        raise VsrError(f"{where}: response {sample['response']!r}: expected the answer's text")
    return checked(sample["question_type"], sample["options"], sample["ground_truth"], where)


def answered(samples: Sequence[dict], rules: str | Harness = "official") -> Answers:
    """One seed's rows of samples.jsonl, scored, in the order of their ids."""
    if not samples:
        raise VsrError("no samples to score: the predictions are empty; run 'vsr evaluate' first")
    scores = score_samples(samples, rules)
    order = sorted(range(len(samples)), key=lambda i: str(samples[i]["id"]))
    rows = [(str(s["id"]), str(s["scene_name"]), s["question_type"], s.get("pruned")) for s in samples]
    return Answers(*zip(*(rows[i] for i in order), strict=True), scores[None, order])


def summarise(
    samples: Iterable[dict], rules: str | Harness = "official", resamples: int = RESAMPLES, seed: int = SEED
) -> dict:
    """Scores of a run in percent with 95 % intervals from a bootstrap over scenes.

    `overall` is the harness's headline, `trained` the mean of the paper's six tasks; tasks that no question asks for
    are named in `absent` and left out of both, never counted as 0. Bounds are None with fewer than two scenes.
    """
    samples, chosen = list(samples), harnesses.get(rules)
    found = answered(samples, chosen)
    sums = found.drawn(resamples, seed)  # of the sample (1,) and of its draws (1, R), as in every pair below
    tasks = [harnesses.task_means(part, chosen.direction) for part in sums]
    averages = {name: [average(*both) for both in zip(sums, tasks, strict=True)] for name, average in chosen.overall}
    trained = [harnesses.mean_over(part, "trained") for part in tasks]

    def told(name: str, value: np.ndarray, draws: np.ndarray) -> dict[str, float | None]:
        ends = (value.item(), *interval(draws[0], found.size))
        names = (name or "score", f"{name}_low".lstrip("_"), f"{name}_high".lstrip("_"))
        return {key: _percent(end) for key, end in zip(names, ends, strict=True)}

    right_form = [readable(s["question_type"], s["options"], s["response"]) for s in samples]
    return {
        "rules": chosen.name,
        "n": len(samples),
        "scenes": found.size,
        **told("overall", *next(iter(averages.values()))),
        **told("trained", *trained),
        "averages": {name: _percent(value.item()) for name, (value, _) in averages.items()},
        "tasks": {task: {**told("", *(part[task] for part in tasks)), "n": found.asked(task)} for task in tasks[0]},
        "types": {
            kind: {"score": _percent(mean.item()), "n": found.kinds.count(kind)}
            for kind, mean in harnesses.means(sums[0]).items()
        },
        "absent": [task for task in TASKS if task not in tasks[0]],
        "parsable": _percent(np.mean(right_form)),
    }


@dataclass(frozen=True)
class Sampled:
    """Questions that were answered n times each: for every k from 1 to n what the best of k answers scores (pass@k, of
    all ways to draw k of the n) and what the most frequent of k neighbours does (maj@k)."""

    best: list[Answers]
    most: list[Answers]

    @classmethod
    def of(cls, questions: Sequence[Question], texts: Sequence[Sequence[str]]) -> "Sampled":
        """`texts[i]` are the n answers to `questions[i]`."""
        scores = np.array([[score(one, text) for text in group] for one, group in zip(questions, texts, strict=True)])
        answers, n = [list(map(final_answer, group)) for group in texts], scores.shape[1]
        sizes, most = np.arange(1, n + 1), np.empty_like(scores)
        # the i-th answer from below (from 0) is the best of C(i, k-1) of the C(n, k) draws
        best = np.sort(scores, 1) @ (comb(np.arange(n)[:, None], sizes - 1) / comb(n, sizes))
        for row, group in enumerate(answers):
            earned, ring = dict(zip(group, scores[row], strict=True)), group + group
            for k in sizes:
                winners = [Counter(ring[i : i + k]).most_common(1)[0][0] for i in range(n)]
                most[row, k - 1] = np.mean([earned[winner] for winner in winners])
        about = tuple(zip(*((q.id, q.scene_name, q.question_type, None) for q in questions), strict=True))
        return cls(*([Answers(*about, column[None]) for column in part.T] for part in (best, most)))


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 4)


def rosetta_table(samples: Iterable[dict], rules: str = "all") -> str:
    """The same answers under several harnesses' rules, in Markdown: `rules` is all, or names with commas between."""
    samples = list(samples)
    names = list(harnesses.RULES) if rules == "all" else [name.strip() for name in rules.split(",")]
    official = summarise(samples, resamples=1)["overall"]
    rows = []
    for name in names:
        found = summarise(samples, name, resamples=1)
        parts = [f"{part} {'-' if value is None else f'{value:.1f}'}" for part, value in found["averages"].items()]
        overall = found["overall"]
        rows.append((name, f"{overall:.1f}", f"{overall - official:+.1f}", ", ".join(parts)))
    return markdown.table(("rules", "overall", "official", "its averages"), rows).rstrip()


def best_constant(questions: Iterable[Question]) -> dict[str, tuple[str, float]]:
    """For each official task the single answer that scores best on these very questions, and its score in percent."""
    by_task: dict[str, dict[str, list[Question]]] = {}
    for question in questions:
        kinds = by_task.setdefault(task_of(question.question_type), {})
        kinds.setdefault(question.question_type, []).append(question)
    return {task: _constant(task, list(kinds.values())) for task, kinds in sorted(by_task.items())}


def _constant(task: str, levels: list[list[Question]]) -> tuple[str, float]:
    asked = [question.ground_truth for level in levels for question in level]
    if task in NUMERICAL:
        truths, counts = np.unique([float(truth) for truth in asked], return_counts=True)
        # a guess's score only changes where it enters or leaves one of the ten bands around a truth
        edges = np.multiply.outer(truths, 1 + np.linspace(-0.5, 0.5, 21))
        guesses = np.unique([float(f"{edge:.3g}") for edge in edges.ravel()])
        errors = abs(np.subtract.outer(guesses, truths)) / truths  # (guesses, truths), each truth once
        scores = np.average((errors[..., None] <= 1 - THRESHOLDS).mean(-1), axis=1, weights=counts)
        answers = [f"{guess:g}" for guess in guesses]
    else:
        answers = sorted(set(asked))
        scores = [np.mean([np.mean([score(q, answer) for q in level]) for level in levels]) for answer in answers]
    best = int(np.argmax(scores))
    return answers[best], 100 * float(scores[best])
