"""Several seeds of one method on the same questions: their mean, its interval, and differences between methods.

Everything is under the official rules and in points. A mean's interval is a bootstrap over scenes of each question's
mean over seeds, so it speaks about these very models; a difference between methods adds what the seeds' choice is
worth (`vsr.scoring.stats`). A method without training has one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from vsr.errors import VsrError
from vsr.paper import TASKS, TRAINED
from vsr.scoring import clusters, score_samples, task_of
from vsr.scoring.averages import Sums, official
from vsr.scoring.stats import Effect, Value, effect, interval, scene_variance, seed_variance, student, tabulate

RESAMPLES, SEED = 2000, 0
MEMBERS = {"overall": tuple(TASKS), "trained": TRAINED}  # the tasks an average is over


@dataclass(frozen=True)
class Answers:
    """N scored questions answered by K seeds: `scores` (K, N) in [0, 1]; `ids`, `scenes`, `kinds` (question types) and
    `pruned` (whether VSI-Bench-Debiased leaves the question out; None where nobody says) have length N."""

    ids: tuple[str, ...]
    scenes: tuple[str, ...]
    kinds: tuple[str, ...]
    pruned: tuple[bool | None, ...]
    scores: np.ndarray

    @cached_property
    def sums(self) -> tuple[Sums, Sums]:
        """By question type, what all scenes add up to (K,) and what bootstrap draws of scenes do (K, R)."""
        cells = [tabulate(row, self.scenes, self.kinds) for row in self.scores]
        counts, taken = cells[0].counts, _taken(cells[0].scenes)
        whole = np.stack([one.sums.sum(0) for one in cells]), np.stack([taken @ one.sums for one in cells])
        return tuple(
            {kind: (found[..., k], number[..., k]) for k, kind in enumerate(cells[0].kinds)}
            for found, number in zip(whole, (counts.sum(0), taken @ counts), strict=True)
        )

    @cached_property
    def size(self) -> int:
        """How many scenes there are."""
        return len(set(self.scenes))

    def points(self, over: str) -> tuple[np.ndarray, np.ndarray]:
        """Each seed's score (K,) and its draws (K, R) over `over`: overall, trained or a task; nan if not asked."""
        sample, draws = self.sums
        return 100 * official(sample, over), 100 * official(draws, over)

    def value(self, over: str) -> Value | None:
        """The mean over seeds with its interval and the seeds' spread; None where no question asks for it."""
        scores, draws = self.points(over)
        if np.isnan(scores).any():
            return None
        low, high = interval(draws.mean(0), self.size)
        bounds = (None, None) if np.isnan(low) else (low, high)
        spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
        return Value(float(scores.mean()), *bounds, spread, len(scores))

    def asked(self, over: str) -> int:
        """How many questions count."""
        return sum(task_of(kind) in MEMBERS.get(over, (over,)) for kind in self.kinds)

    def debiased(self) -> "Answers | None":
        """The questions that VSI-Bench-Debiased keeps; None unless every question says."""
        if None in self.pruned or all(self.pruned):
            return None
        kept = [i for i, pruned in enumerate(self.pruned) if not pruned]
        fields = {name: tuple(getattr(self, name)[i] for i in kept) for name in ("ids", "scenes", "kinds", "pruned")}
        return replace(self, scores=self.scores[:, kept], **fields)


@lru_cache(maxsize=8)
def _taken(size: int) -> np.ndarray:
    """How often each draw takes each of `size` scenes (R, S): the same for all methods, which pairs them."""
    return np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(float)


def answers(samples: list[dict]) -> Answers:
    """One seed's rows of samples.jsonl, scored, in the order of their ids."""
    if not samples:
        raise VsrError("no samples to compare: the run is empty; run 'vsr evaluate' first")
    samples = sorted(samples, key=lambda sample: str(sample.get("id")))
    scores = score_samples(samples)
    ids, pruned = zip(*((str(sample["id"]), sample.get("pruned")) for sample in samples), strict=True)
    return Answers(ids, *map(tuple, clusters(samples)), pruned, scores[None])


def stack(seeds: Sequence[Answers]) -> Answers:
    """Several seeds as one; different questions are an error, since nothing is dropped in silence."""
    for other in seeds[1:]:
        _same_questions(seeds[0], other)
    return replace(seeds[0], scores=np.concatenate([one.scores for one in seeds]))


def compare(ours: Answers, theirs: Answers, over: str = "overall") -> Effect:
    """The paired difference ours - theirs in points, on the same questions and the same draws of scenes."""
    _same_questions(ours, theirs)
    pairs = [ours.points(over), theirs.points(over)]
    seeds = tuple(len(scores) for scores, _ in pairs)
    value = float(pairs[0][0].mean() - pairs[1][0].mean())
    draws = pairs[0][1].mean(0) - pairs[1][1].mean(0)
    if max(seeds) == 1 or ours.size < 2 or np.isnan(value):
        return effect(value, draws, ours.asked(over), ours.size)
    parts = [(scene_variance(draws, ours.size), ours.size - 1)]
    parts += [(seed_variance(*pair, ours.size), len(pair[0]) - 1) for pair in pairs if len(pair[0]) > 1]
    return student(value, parts, ours.asked(over), ours.size, seeds)


def _same_questions(ours: Answers, theirs: Answers) -> None:
    if ours.ids != theirs.ids:
        raise VsrError("the two runs answered different questions; evaluate both with the same --bench")
