"""Intervals over scenes and seeds: coverage on clustered data, equality with plain loops, paired differences."""

import random
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.scoring import answered, score_samples, summarise
from vsr.scoring.intervals import (
    between,
    compare,
    detectable,
    draw,
    effect,
    interval,
    scene_variance,
    seed_variance,
    stack,
    student,
)

KINDS = (*list(TASKS)[:5], *(f"object_rel_direction_{x}" for x in ("easy", "medium", "hard")), *list(TASKS)[6:])
OVER = ("overall", "trained", "route_planning", "object_rel_direction")


def random_samples(seed: int, scenes: int = 12, questions: int = 0) -> list[dict]:
    """Random answers (by `seed`) to random questions (by `questions`)."""
    asked, rng, made = random.Random(questions), random.Random(seed), []
    for scene in range(scenes):
        for kind in KINDS:
            for _ in range(asked.randint(1, 3)):
                number = kind in NUMERICAL
                made.append({
                    "id": len(made), "scene_name": f"room{scene}", "question_type": kind,
                    "options": None if number else ["A. a", "B. b"],
                    "ground_truth": str(asked.randint(1, 9)) if number else asked.choice("AB"),
                    "response": str(rng.randint(1, 9)) if number else rng.choice("AB"),
                })  # fmt: skip
    return made


# --- draws and intervals ---
def clustered(trials: int, scenes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sums (S, trials) and counts (S, 1) of independent experiments whose truth is 0.4: scenes differ in difficulty and
    in their number of questions, answers are right or wrong."""
    questions = rng.integers(1, 12, size=(scenes, 1))
    return rng.binomial(questions, rng.beta(1.2, 1.8, size=(scenes, trials))).astype(float), questions


@pytest.mark.parametrize("scenes", [20, 60, 200])
def test_coverage_is_what_it_says(scenes):
    sums, counts = clustered(2000, scenes, np.random.default_rng(scenes))
    taken = draw(scenes, 1000, seed=1)
    bounds = np.array([interval(draws, scenes) for draws in (taken @ sums / (taken @ counts)).T])
    assert 0.93 <= ((bounds[:, 0] <= 0.4) & (bounds[:, 1] >= 0.4)).mean() <= 0.97


def test_ignoring_scenes_would_not_cover():
    sums, counts = clustered(4000, 60, np.random.default_rng(0))
    mean, n = sums.sum(0) / counts.sum(), counts.sum()
    half = 1.96 * np.sqrt(mean * (1 - mean) / n)
    assert ((mean - half <= 0.4) & (mean + half >= 0.4)).mean() < 0.85


def test_draws_are_the_plain_loops():
    samples = random_samples(3, scenes=4)
    scores = dict(zip([str(s["id"]) for s in samples], score_samples(samples), strict=True))
    whole, drawn = answered(samples).drawn(5, seed=3)
    taken = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=5)
    for kind in KINDS:
        cells = [
            [scores[str(s["id"])] for s in samples if (s["scene_name"], s["question_type"]) == (f"room{scene}", kind)]
            for scene in range(4)
        ]
        assert (whole[kind][0][0], whole[kind][1]) == pytest.approx((sum(map(sum, cells)), sum(map(len, cells))))
        for r in range(5):
            inside = [score for scene in np.repeat(np.arange(4), taken[r]) for score in cells[scene]]
            assert (drawn[kind][0][0, r], drawn[kind][1][r]) == pytest.approx((sum(inside), len(inside)))


def test_draws_are_seeded():
    assert np.array_equal(draw(5, 50, 7), draw(5, 50, 7))
    assert not np.array_equal(draw(5, 50, 7), draw(5, 50, 8))


def test_draws_without_a_value_are_left_out_and_one_scene_has_no_interval():
    draws = np.append(np.linspace(0, 1, 1001), [np.nan] * 500)
    assert interval(draws, scenes=10**6) == pytest.approx((0.025, 0.975), abs=1e-5)
    assert all(np.isnan(bound) for bound in (*interval(np.full(3, np.nan), 5), *interval(np.zeros(9), 1)))


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


# --- one seed is the summary ---
def number_of(summary: dict, over: str) -> float:
    return summary["tasks"][over]["score"] if over in TASKS else summary[over]


def test_one_seed_is_what_the_summary_says():
    samples = random_samples(1)
    summary = summarise(samples)
    for over in OVER:
        value = answered(samples).value(over)
        assert value.score == pytest.approx(number_of(summary, over), abs=1e-3)
        assert value.spread is None
    assert answered(samples).value("overall").low == pytest.approx(summary["overall_low"], abs=1.0)


def test_compare_is_the_difference_of_the_summaries():
    pair = random_samples(1), random_samples(2)
    for over in OVER:
        a, b = (number_of(summarise(samples), over) for samples in pair)
        effect = compare(*map(answered, pair), over)
        assert effect.value == pytest.approx(a - b, abs=1e-3)
        assert effect.low <= effect.value <= effect.high
        assert compare(*map(answered, reversed(pair)), over).value == pytest.approx(-effect.value)


def test_the_order_of_the_samples_does_not_matter():
    samples, other = random_samples(1), random_samples(2)
    assert compare(answered(samples[::-1]), answered(other)) == compare(answered(samples), answered(other))


def test_pairing_removes_what_both_runs_share():
    ours, rng = random_samples(2, scenes=30), random.Random(0)
    theirs = [{**s, "response": s["ground_truth"]} if rng.random() < 0.05 else s for s in ours]
    effect, summary = compare(answered(ours), answered(theirs)), summarise(ours)
    assert effect.high - effect.low < 0.7 * (summary["overall_high"] - summary["overall_low"])


def test_different_questions_and_empty_runs_are_refused():
    ours = random_samples(0)
    for theirs in (ours[1:], [*ours[1:], {**ours[0], "id": "other"}]):
        with pytest.raises(VsrError, match="different questions"):
            compare(answered(ours), answered(theirs))
        with pytest.raises(VsrError, match="different questions"):
            stack([answered(ours), answered(theirs)])
    with pytest.raises(VsrError, match="empty"):
        answered([])


# --- several seeds ---
def test_seeds_are_averaged():
    each = [answered(random_samples(seed)) for seed in (1, 2, 3)]
    for over in OVER:
        scores = [one.value(over).score for one in each]
        value = stack(each).value(over)
        assert value.score == pytest.approx(np.mean(scores))
        assert value.spread == pytest.approx(np.std(scores, ddof=1))
        assert value.seeds == 3
        assert compare(stack(each), each[0], over).value == pytest.approx(np.mean(scores) - scores[0])


def test_equal_seeds_are_one_seed():
    ours, theirs = answered(random_samples(1)), answered(random_samples(2))
    one, three = compare(ours, theirs), compare(stack([ours] * 3), theirs)
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_question_nobody_asked_has_no_value():
    samples = [s for s in random_samples(1) if s["question_type"] != "route_planning"]
    assert answered(samples).value("route_planning") is None
    assert answered(samples).asked("route_planning") == 0


def test_debiased_keeps_what_is_not_pruned():
    samples = [{**s, "pruned": i % 3 == 0} for i, s in enumerate(random_samples(1))]
    kept = answered(samples).debiased()
    assert kept.value("overall").score == answered([s for s in samples if not s["pruned"]]).value("overall").score
    assert answered(random_samples(1)).debiased() is None


# --- intervals ---
def crossed(rng, scenes: int, seeds: tuple[int, int], seed_sd: float, shared: float) -> tuple[float, float]:
    """Bounds of one simulated difference whose truth is 0: scores of seeds by scenes, as normal numbers."""
    sides = [
        (rng.normal(0, seed_sd, (k, 1)) if k > 1 else 0) + rng.normal(0, 0.5, (k, scenes)) for k in seeds
    ]  # a side of one seed is no trained method
    sides[0] = sides[0] + rng.normal(0, shared, scenes)
    taken = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=200) / scenes
    points = [(side.mean(1), side @ taken.T) for side in sides]
    draws = points[0][1].mean(0) - points[1][1].mean(0)
    parts = [(scene_variance(draws, scenes), scenes - 1)]
    parts += [(seed_variance(*pair, scenes), len(pair[0]) - 1) for pair in points if len(pair[0]) > 1]
    effect = student(points[0][0].mean() - points[1][0].mean(), parts, scenes, scenes, seeds)
    return effect.low, effect.high


@pytest.mark.parametrize("seeds", [(3, 1), (3, 3), (5, 1)])
@pytest.mark.parametrize("seed_sd", [0.0, 0.1, 0.3])
def test_differences_cover_scenes_and_seeds(seeds, seed_sd):
    rng = np.random.default_rng(0)
    bounds = np.array([crossed(rng, 60, seeds, seed_sd, 1.0) for _ in range(1200)])
    assert 0.915 <= ((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean() <= 0.975


def test_scenes_alone_would_not_cover_the_choice_of_seeds():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        side = rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, (3, 60))
        inside += abs(side.mean()) < 1.96 * side.mean(0).std(ddof=1) / np.sqrt(60)
    assert inside / 400 < 0.75


def test_runs_are_compared_by_welch():
    ours, theirs = [3.0, 4.5, 2.0], [1.0, 1.5, 0.2, 0.9]
    for found, test in (
        (between(ours, theirs), ttest_ind(ours, theirs, equal_var=False)),
        (between(ours), ttest_1samp(ours, 0.0)),
    ):
        bounds = test.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))
    assert np.isnan(between([1.0], [2.0]).low)


def test_the_detectable_effect_of_few_runs_is_larger_than_the_normal_one():
    few, many = between([0.0, 1.0, 2.0]), between(list(np.linspace(-np.sqrt(3), np.sqrt(3), 300)))
    assert few.detectable > 3.5 / np.sqrt(3)
    assert many.detectable == pytest.approx(2.8 / np.sqrt(300), rel=0.02)
