"""Intervals that respect scenes: questions about one scene are not independent, so scenes are resampled.

Everything here is numpy on sums and counts a scene (S, K): K kinds of question, S scenes. A bootstrap draw is a
vector of how often each scene was taken, so all draws are two matrix products.

Differences between trained methods have a second source of chance: the seed. Three seeds are too few to resample, so
their variance is added to that of the scenes, and the interval uses Student's t with Welch and Satterthwaite's degrees
of freedom. What seeds differ by on these scenes alone is already in the scenes' part and is taken out of the seeds'.
With three to five seeds such an interval covers 92 to 97 %; the low end is where seeds vary more than scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr, stdtrit

LEVEL, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Cells:
    """Sums and counts of scores by scene and kind: `sums` (S, K), `counts` (S, K), `kinds` K names."""

    kinds: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray

    @property
    def scenes(self) -> int:
        """S."""
        return len(self.sums)


def tabulate(scores: Sequence[float], scenes: Sequence[str], kinds: Sequence[str]) -> Cells:
    """Cells of N scored questions, given each one's scene and kind."""
    if not len(scores) == len(scenes) == len(kinds):
        raise ValueError(f"{len(scores)} scores, {len(scenes)} scenes, {len(kinds)} kinds: lengths differ")
    scene_names, scene = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    kind_names, kind = np.unique(np.asarray(kinds, dtype=str), return_inverse=True)
    sums = np.zeros((len(scene_names), len(kind_names)))
    counts = np.zeros_like(sums)
    np.add.at(sums, (scene, kind), np.asarray(scores, dtype=float))
    np.add.at(counts, (scene, kind), 1.0)
    return Cells(tuple(kind_names.tolist()), sums, counts)


def resample(cells: Cells, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of `resamples` bootstrap draws of scenes, each (R, K)."""
    size = cells.scenes
    taken = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    return taken @ cells.sums, taken @ cells.counts


def interval(draws: np.ndarray, scenes: int, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of draws (R,), widened for a small number of scenes; (nan, nan) for a single scene.

    A percentile bootstrap of S units is too narrow by sqrt((S - 1)/S) and uses normal instead of t quantiles;
    Hesterberg's expanded percentiles (The American Statistician 69, 2015) undo both. Draws that have no
    value (nan) are left out.
    """
    if scenes < 2 or np.isnan(draws).all():
        return float("nan"), float("nan")
    tail = ndtr(stdtrit(scenes - 1, (1 - level) / 2) * np.sqrt(scenes / (scenes - 1)))
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def detectable(standard_error: float, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true effect that a two-sided test at 1 - `level` finds with probability `power`."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * standard_error


@dataclass(frozen=True)
class Value:
    """A score in percent with its 95 % interval, where there is one; over several `seeds` their mean, and `spread`,
    the standard deviation between them."""

    score: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        """'35.4 [33.0, 37.9]', and ' sd 0.8' between seeds."""
        spread = "" if self.spread is None else f" sd {self.spread:.1f}"
        return f"{self.score:.1f}" + (f" [{self.low:.1f}, {self.high:.1f}]" if self.low is not None else "") + spread


@dataclass(frozen=True)
class Effect:
    """A difference with its interval, and the smallest difference that this many scenes and seeds could have shown.

    `n` questions (or other things counted) in `scenes` scenes; `seeds` on either side of the difference."""

    value: float
    low: float
    high: float
    detectable: float
    n: int
    scenes: int
    seeds: tuple[int, ...] = (1, 1)

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def effect(value: float, draws: np.ndarray, n: int, scenes: int) -> Effect:
    """The Effect of a difference `value` whose bootstrap draws are (R,)."""
    low, high = interval(draws, scenes)
    error = float(np.sqrt(scene_variance(draws, scenes)))
    return Effect(float(value), low, high, float(detectable(error)), n, scenes)


def scene_variance(draws: np.ndarray, scenes: int) -> float:
    """The variance that a figure owes to the choice of scenes, from its draws (R,); nan for a single scene."""
    return float(np.nanvar(draws, ddof=1)) * scenes / (scenes - 1) if scenes > 1 else float("nan")


def seed_variance(scores: np.ndarray, draws: np.ndarray, scenes: int) -> float:
    """The variance that the mean of K seeds' scores (K,) owes to the choice of seeds, never below 0; `draws` (K, R)."""
    size = len(scores)
    apart = draws - draws.mean(0)
    shared = sum(scene_variance(row, scenes) for row in apart) / (size - 1)
    return max(0.0, float(np.var(scores, ddof=1)) - shared) / size


def student(value: float, parts: Sequence[tuple[float, float]], n: int, scenes: int, seeds: tuple[int, ...]) -> Effect:
    """The Effect whose variance is the sum of `parts`, each with its degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts) if total > 0 else 1.0
    error, tail = np.sqrt(total), (1 + LEVEL) / 2
    half = float(stdtrit(freedom, tail) * error)
    found = float((stdtrit(freedom, tail) + stdtrit(freedom, POWER)) * error)
    return Effect(float(value), value - half, value + half, found, n, scenes, seeds)


def between(ours: Sequence[float], theirs: Sequence[float] = (0.0,)) -> Effect:
    """The difference of the means of two sets of runs, each run one number (Welch's t); one run alone, or none, has
    no spread of its own. Both with one run have no interval."""
    sides = [np.asarray(side, dtype=float) for side in (ours, theirs)]
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    value, sizes = float(sides[0].mean() - sides[1].mean()), tuple(map(len, sides))
    if not parts:
        return Effect(value, float("nan"), float("nan"), float("nan"), sum(sizes), 0, sizes)
    return student(value, parts, sum(sizes), 0, sizes)
