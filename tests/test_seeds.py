"""Several seeds on the same questions: means, paired differences, and intervals that cover the choice of seeds."""

import random

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.scoring import summarise
from vsr.scoring.seeds import answers, compare, stack
from vsr.scoring.stats import between, scene_variance, seed_variance, student

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


def number_of(summary: dict, over: str) -> float:
    return summary["tasks"][over]["score"] if over in TASKS else summary[over]


# --- one seed is the summary ---
def test_one_seed_is_what_the_summary_says():
    samples = random_samples(1)
    summary = summarise(samples)
    for over in OVER:
        value = answers(samples).value(over)
        assert value.score == pytest.approx(number_of(summary, over), abs=1e-3)
        assert value.spread is None
    assert answers(samples).value("overall").low == pytest.approx(summary["overall_low"], abs=1.0)


def test_compare_is_the_difference_of_the_summaries():
    pair = random_samples(1), random_samples(2)
    for over in OVER:
        a, b = (number_of(summarise(samples), over) for samples in pair)
        effect = compare(*map(answers, pair), over)
        assert effect.value == pytest.approx(a - b, abs=1e-3)
        assert effect.low <= effect.value <= effect.high
        assert compare(*map(answers, reversed(pair)), over).value == pytest.approx(-effect.value)


def test_the_order_of_the_samples_does_not_matter():
    samples, other = random_samples(1), random_samples(2)
    assert compare(answers(samples[::-1]), answers(other)) == compare(answers(samples), answers(other))


def test_pairing_removes_what_both_runs_share():
    ours, rng = random_samples(2, scenes=30), random.Random(0)
    theirs = [{**s, "response": s["ground_truth"]} if rng.random() < 0.05 else s for s in ours]
    effect, summary = compare(answers(ours), answers(theirs)), summarise(ours)
    assert effect.high - effect.low < 0.7 * (summary["overall_high"] - summary["overall_low"])


def test_different_questions_and_empty_runs_are_refused():
    ours = random_samples(0)
    for theirs in (ours[1:], [*ours[1:], {**ours[0], "id": "other"}]):
        with pytest.raises(VsrError, match="different questions"):
            compare(answers(ours), answers(theirs))
        with pytest.raises(VsrError, match="different questions"):
            stack([answers(ours), answers(theirs)])
    with pytest.raises(VsrError, match="empty"):
        answers([])


# --- several seeds ---
def test_seeds_are_averaged():
    each = [answers(random_samples(seed)) for seed in (1, 2, 3)]
    for over in OVER:
        scores = [one.value(over).score for one in each]
        value = stack(each).value(over)
        assert value.score == pytest.approx(np.mean(scores))
        assert value.spread == pytest.approx(np.std(scores, ddof=1))
        assert value.seeds == 3
        assert compare(stack(each), each[0], over).value == pytest.approx(np.mean(scores) - scores[0])


def test_equal_seeds_are_one_seed():
    ours, theirs = answers(random_samples(1)), answers(random_samples(2))
    one, three = compare(ours, theirs), compare(stack([ours] * 3), theirs)
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_question_nobody_asked_has_no_value():
    samples = [s for s in random_samples(1) if s["question_type"] != "route_planning"]
    assert answers(samples).value("route_planning") is None
    assert answers(samples).asked("route_planning") == 0


def test_debiased_keeps_what_is_not_pruned():
    samples = [{**s, "pruned": i % 3 == 0} for i, s in enumerate(random_samples(1))]
    kept = answers(samples).debiased()
    assert kept.value("overall").score == answers([s for s in samples if not s["pruned"]]).value("overall").score
    assert answers(random_samples(1)).debiased() is None


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
    for effect, test in (
        (between(ours, theirs), ttest_ind(ours, theirs, equal_var=False)),
        (between(ours), ttest_1samp(ours, 0.0)),
    ):
        bounds = test.confidence_interval(0.95)
        assert (effect.low, effect.high) == pytest.approx((bounds.low, bounds.high))
    assert np.isnan(between([1.0], [2.0]).low)


def test_the_detectable_effect_of_few_runs_is_larger_than_the_normal_one():
    few, many = between([0.0, 1.0, 2.0]), between(list(np.linspace(-np.sqrt(3), np.sqrt(3), 300)))
    assert few.detectable > 3.5 / np.sqrt(3)
    assert many.detectable == pytest.approx(2.8 / np.sqrt(300), rel=0.02)
