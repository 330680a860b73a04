"""Intervals that respect scenes: questions about one scene are not independent, so scenes are resampled.

Everything here is numpy on sums and counts a scene (S, K): K kinds of question, S scenes. A bootstrap draw is a
vector of how often each scene was taken, so all draws are two matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr, stdtrit

LEVEL = 0.95


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


def detectable(standard_error: float, power: float = 0.8, level: float = LEVEL) -> float:
    """The smallest true effect that a two-sided test at 1 - `level` finds with probability `power`."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * standard_error


@dataclass(frozen=True)
class Effect:
    """A difference in points with its interval, and the smallest difference these questions could have shown."""

    value: float
    low: float
    high: float
    detectable: float
    n: int
    scenes: int


def effect(value: float, draws: np.ndarray, n: int, scenes: int) -> Effect:
    """The Effect of a difference `value` whose bootstrap draws are (R,)."""
    low, high = interval(draws, scenes)
    error = float(np.nanstd(draws, ddof=1)) * np.sqrt(scenes / (scenes - 1)) if scenes > 1 else float("nan")
    return Effect(float(value), low, high, float(detectable(error)), n, scenes)
