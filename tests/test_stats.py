"""Intervals over scenes: coverage on clustered data, equality with plain loops, power of the detectable effect."""

from statistics import NormalDist

import numpy as np
import pytest

from vsr.scoring.stats import Cells, detectable, effect, interval, resample, tabulate


def clustered_cells(trials: int, scenes: int, each: int, rng: np.random.Generator) -> tuple[Cells, float]:
    """`trials` independent experiments as kinds: scenes differ in difficulty, answers are right or wrong."""
    difficulty = rng.beta(1.2, 1.8, size=(scenes, trials))
    questions = rng.integers(1, 2 * each, size=(scenes, 1))  # scenes have different numbers of questions
    sums = rng.binomial(questions, difficulty).astype(float)
    return Cells(tuple(map(str, range(trials))), sums, np.broadcast_to(questions, sums.shape).astype(float)), 0.4


def covered(cells: Cells, truth: float) -> float:
    """The share of experiments whose interval holds the truth."""
    sums, counts = resample(cells, 1000, seed=1)
    bounds = np.array([interval(draws, cells.scenes) for draws in (sums / counts).T])
    return float(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean())


@pytest.mark.parametrize("scenes", [20, 60, 200])
def test_coverage_is_what_it_says(scenes):
    cells, truth = clustered_cells(2000, scenes, each=6, rng=np.random.default_rng(scenes))
    assert 0.93 <= covered(cells, truth) <= 0.97


def test_ignoring_scenes_would_not_cover():
    cells, truth = clustered_cells(4000, 60, each=6, rng=np.random.default_rng(0))
    mean, n = cells.sums.sum(0) / cells.counts.sum(0), cells.counts.sum(0)
    half = 1.96 * np.sqrt(mean * (1 - mean) / n)
    assert ((mean - half <= truth) & (truth <= mean + half)).mean() < 0.85


def test_tabulate_and_resample_are_the_plain_loops():
    rng = np.random.default_rng(0)
    scores, scenes, kinds = rng.random(50), rng.choice(list("stuv"), 50), rng.choice(["a", "b"], 50)
    cells = tabulate(scores, scenes, kinds)
    assert cells.kinds == ("a", "b")
    for s, scene in enumerate(sorted(set(scenes))):
        for k, kind in enumerate(cells.kinds):
            inside = scores[(scenes == scene) & (kinds == kind)]
            assert cells.sums[s, k] == pytest.approx(inside.sum())
            assert cells.counts[s, k] == len(inside)
    sums, counts = resample(cells, 5, seed=3)
    taken = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=5)
    for r in range(5):
        drawn = np.repeat(np.arange(4), taken[r])
        assert sums[r] == pytest.approx(sum(cells.sums[s] for s in drawn))
        assert counts[r] == pytest.approx(sum(cells.counts[s] for s in drawn))


def test_draws_are_seeded():
    cells = tabulate(np.arange(20.0), [str(i % 5) for i in range(20)], ["a"] * 20)
    assert np.array_equal(resample(cells, 50, 7)[0], resample(cells, 50, 7)[0])
    assert not np.array_equal(resample(cells, 50, 7)[0], resample(cells, 50, 8)[0])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="lengths differ"):
        tabulate([1.0, 2.0], ["s"], ["a", "a"])


def test_interval_leaves_out_draws_without_a_value():
    draws = np.append(np.linspace(0, 1, 1001), [np.nan] * 500)
    assert interval(draws, scenes=10**6) == pytest.approx((0.025, 0.975), abs=1e-5)
    assert all(np.isnan(bound) for bound in interval(np.full(3, np.nan), scenes=5))


def test_one_scene_has_no_interval():
    assert all(np.isnan(bound) for bound in interval(np.zeros(9), scenes=1))


def test_few_scenes_widen_the_interval_as_students_t_does():
    draws = np.random.default_rng(0).normal(0, 1, 400_000)
    low, high = interval(draws, scenes=5)
    assert high == pytest.approx(2.776 * np.sqrt(5 / 4), rel=0.02)  # t quantile of 4 degrees of freedom
    assert low == pytest.approx(-high, rel=0.03)


def test_detectable_effect_is_found_four_times_in_five():
    found = NormalDist(mu=detectable(0.7), sigma=0.7)
    assert 1 - found.cdf(1.959964 * 0.7) == pytest.approx(0.8, abs=1e-3)


def test_effect_reports_the_bootstrap_standard_error():
    draws = np.random.default_rng(0).normal(1.0, 0.5, 20_000)
    got = effect(1.0, draws, n=10, scenes=10_000)
    assert got.low == pytest.approx(1 - 1.96 * 0.5, abs=0.03)
    assert got.detectable == pytest.approx(2.8016 * 0.5, abs=0.03)
