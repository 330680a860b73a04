"""Intervals that respect scenes: questions about one scene are not independent, so scenes are resampled.

One function draws scenes (`draw`), one turns draws into an interval (`interval`). A draw is a vector of how often each
scene was taken, so all draws are one matrix product, and methods that were asked the same are paired by the same draws.

Differences between trained methods have a second source of chance: the seed. Three seeds are too few to resample, so
their variance is added to that of the scenes, and the interval uses Student's t with Welch and Satterthwaite's degrees
of freedom. What seeds differ by on these scenes alone is already in the scenes' part and is taken out of the seeds'.
With three to five seeds such an interval covers 92 to 97 %; the low end is where seeds vary more than scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import compress
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr, stdtrit

from vsr.errors import VsrError
from vsr.scoring.harnesses import DIRECTION, MEMBERS, Sums, mean_over, task_means

LEVEL, POWER = 0.95, 0.8
RESAMPLES, SEED = 2000, 0


@lru_cache(maxsize=16)
def draw(size: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each of R bootstrap draws takes each of `size` scenes (R, S)."""
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples).astype(float)


def interval(draws: np.ndarray, scenes: int) -> tuple[float, float]:
    """The 95 % percentile interval of draws (R,), nan left out; (nan, nan) for a single scene."""
    if scenes < 2 or np.isnan(draws).all():
        return float("nan"), float("nan")
    # a percentile bootstrap of S units is too narrow by sqrt((S - 1)/S) and uses normal instead of t quantiles;
    # Hesterberg's expanded percentiles (The American Statistician 69, 2015) undo both: the t quantile of S - 1 degrees
    # of freedom, as the share of a normal's tail
    tail = ndtr(stdtrit(scenes - 1, (1 - LEVEL) / 2) * np.sqrt(scenes / (scenes - 1)))
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def detectable(standard_error: float) -> float:
    """The smallest true effect that a two-sided test at 1 - LEVEL finds with probability POWER."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * standard_error


@dataclass(frozen=True)
class Value:
    """A score in percent, a mean over `seeds`, with its 95 % interval where there is one."""

    score: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None  # the standard deviation between seeds
    seeds: int = 1

    @classmethod
    def read(cls, summary: dict, over: str) -> "Value | None":
        """From a summary, overall, over the trained six or one task; None where no question asked for it."""
        whole = over in MEMBERS  # averages stand at the top of a summary, tasks below
        part = summary if whole else summary["tasks"].get(over, {})
        names = (over, f"{over}_low", f"{over}_high") if whole else ("score", "low", "high")
        numbers = [None if part.get(name) is None else float(part[name]) for name in names]
        return None if numbers[0] is None else cls(*numbers)

    def __str__(self) -> str:
        """'35.4 [33.0, 37.9]', and ' sd 0.8' between seeds."""
        interval = "" if self.low is None else f" [{self.low:.1f}, {self.high:.1f}]"
        return f"{self.score:.1f}{interval}" + ("" if self.spread is None else f" sd {self.spread:.1f}")


@dataclass(frozen=True)
class Effect:
    """A difference in points with its interval."""

    value: float
    low: float
    high: float
    detectable: float  # the smallest difference that this many scenes and seeds could have shown
    n: int  # questions, or other things counted
    scenes: int
    seeds: tuple[int, ...] = (1, 1)  # on either side of the difference

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


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
    def size(self) -> int:
        """How many scenes there are."""
        return len(set(self.scenes))

    def drawn(self, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[Sums, Sums]:
        """By question type, what all scenes add up to (K,) and what bootstrap draws of scenes do (K, R)."""
        _, scene = np.unique(self.scenes, return_inverse=True)
        names, kind = np.unique(self.kinds, return_inverse=True)
        counts = np.zeros((self.size, len(names)))  # of questions by scene and type (S, T)
        sums = np.zeros((len(self.scores), *counts.shape))  # of their scores, by seed too (K, S, T)
        np.add.at(counts, (scene, kind), 1.0)
        np.add.at(sums, (slice(None), scene, kind), self.scores)
        # (R, S) @ (K, S, T): every seed meets the same draws, so seeds and methods are paired
        taken = draw(self.size, resamples, seed)
        whole, drawn = (sums.sum(1), counts.sum(0)), (taken @ sums, taken @ counts)
        return tuple(
            {name: (total[..., t], number[..., t]) for t, name in enumerate(names.tolist())}
            for total, number in (whole, drawn)
        )

    @cached_property
    def _tasks(self) -> dict[int, tuple[dict, dict]]:
        return {}

    def points(self, over: str, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
        """Each seed's score (K,) and its draws (K, R) over `over`: overall, trained or a task; nan if not asked. `seed`
        is the bootstrap's."""
        if seed not in self._tasks:
            self._tasks[seed] = tuple(map(task_means, self.drawn(seed=seed)))
        return tuple(100 * mean_over(tasks, over) for tasks in self._tasks[seed])

    def value(self, over: str) -> Value | None:
        """The mean over seeds with its interval and the seeds' spread; None where no question asks for it."""
        scores, draws = self.points(over)
        if np.isnan(scores).any():
            return None
        bounds = interval(draws.mean(0), self.size)
        bounds = (None, None) if np.isnan(bounds[0]) else bounds
        spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
        return Value(float(scores.mean()), *bounds, spread, len(scores))

    def asked(self, over: str) -> int:
        """How many questions count."""
        return sum(task_of(kind) in MEMBERS.get(over, (over,)) for kind in self.kinds)

    def debiased(self) -> "Answers | None":
        """The questions that VSI-Bench-Debiased keeps; None unless every question says."""
        if None in self.pruned or all(self.pruned):
            return None
        return self.only(~np.array(self.pruned))

    def without(self, task: str) -> "Answers":
        """The questions of all other tasks."""
        return self.only(np.array([task_of(kind) != task for kind in self.kinds]))

    def above(self, other: "Answers") -> "Answers":
        """What the same questions score more here than the mean seed of `other` scores."""
        _same_questions(self, other)
        return replace(self, scores=self.scores - other.scores.mean(0))

    def only(self, kept: np.ndarray) -> "Answers":
        """The questions where `kept` (N,) is true."""
        fields = {name: tuple(compress(getattr(self, name), kept)) for name in ("ids", "scenes", "kinds", "pruned")}
        return replace(self, scores=self.scores[:, kept], **fields)


def task_of(question_type: str) -> str:
    """The official task of a question type: relative direction's levels are one task."""
    return DIRECTION if question_type.startswith(DIRECTION) else question_type


def stack(seeds: Sequence[Answers]) -> Answers:
    """Several seeds as one; different questions are an error, since nothing is dropped in silence."""
    for other in seeds[1:]:
        _same_questions(seeds[0], other)
    return replace(seeds[0], scores=np.concatenate([one.scores for one in seeds]))


def compare(ours: Answers, theirs: Answers, over: str = "overall", seed: int = SEED) -> Effect:
    """The paired difference ours - theirs in points, on the same questions and the same draws of scenes."""
    _same_questions(ours, theirs)
    pairs = [ours.points(over, seed), theirs.points(over, seed)]
    seeds = tuple(len(scores) for scores, _ in pairs)
    value = float(pairs[0][0].mean() - pairs[1][0].mean())
    draws = pairs[0][1].mean(0) - pairs[1][1].mean(0)
    if max(seeds) == 1 or ours.size < 2 or np.isnan(value):
        return effect(value, draws, ours.asked(over), ours.size)
    # a side of one seed is no trained method: it owes nothing to the choice of seeds
    parts = [(scene_variance(draws, ours.size), ours.size - 1)]
    parts += [(seed_variance(*pair, ours.size), len(pair[0]) - 1) for pair in pairs if len(pair[0]) > 1]
    return student(value, parts, ours.asked(over), ours.size, seeds)


def _same_questions(ours: Answers, theirs: Answers) -> None:
    if ours.ids != theirs.ids:
        raise VsrError("the two runs answered different questions; evaluate both with the same --bench")


def effect(value: float, draws: np.ndarray, n: int, scenes: int) -> Effect:
    """The Effect of a difference `value` whose bootstrap draws are (R,)."""
    error = float(np.sqrt(scene_variance(draws, scenes)))
    return Effect(float(value), *interval(draws, scenes), float(detectable(error)), n, scenes)


def scene_variance(draws: np.ndarray, scenes: int) -> float:
    """The variance that a figure owes to the choice of scenes, from its draws (R,); nan for a single scene."""
    return float(np.nanvar(draws, ddof=1)) * scenes / (scenes - 1) if scenes > 1 else float("nan")


def seed_variance(scores: np.ndarray, draws: np.ndarray, scenes: int) -> float:
    """The variance that the mean of K seeds' scores (K,) owes to the choice of seeds, never below 0; `draws` (K, R)."""
    size = len(scores)
    # how seeds differ by draw of scenes: that part of their spread is the scenes' and would be counted twice
    shared = sum(scene_variance(row, scenes) for row in draws - draws.mean(0)) / (size - 1)
    return max(0.0, float(np.var(scores, ddof=1)) - shared) / size


def student(value: float, parts: Sequence[tuple[float, float]], n: int, scenes: int, seeds: tuple[int, ...]) -> Effect:
    """The Effect whose variance is the sum of `parts`, each with its degrees of freedom."""
    # Welch and Satterthwaite: the freedom of a sum of variances that were each estimated from few values
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts) if total > 0 else 1.0
    error, tail = np.sqrt(total), (1 + LEVEL) / 2
    half = float(stdtrit(freedom, tail) * error)
    found = float((stdtrit(freedom, tail) + stdtrit(freedom, POWER)) * error)
    return Effect(float(value), value - half, value + half, found, n, scenes, seeds)


def between(ours: Sequence[float], theirs: Sequence[float] = (0.0,)) -> Effect:
    """The difference of the means of two sets of runs, each one number (Welch's t); a single run has no spread."""
    sides = [np.asarray(side, dtype=float) for side in (ours, theirs)]
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    value, sizes = float(sides[0].mean() - sides[1].mean()), tuple(map(len, sides))
    if not parts:
        return Effect(value, np.nan, np.nan, np.nan, sum(sizes), 0, sizes)
    return student(value, parts, sum(sizes), 0, sizes)
