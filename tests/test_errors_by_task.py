"""Errors by task: numbers read, choices by letter or word, and how typical a truth is."""

import numpy as np
import pytest

from vsr.report.figures_answers import choices, numbers, relative_error, truth_prior
from vsr.scoring.answers import mean_relative_accuracy


def sample(kind: str, truth: str, response: str, options: list[str] | None = None) -> dict:
    return {"question_type": kind, "ground_truth": truth, "response": response, "options": options}


def test_numbers_are_read_as_the_metric_reads_them():
    samples = [sample("object_counting", "4", text) for text in ("5", "about 3", "3.0.", "<answer>8</answer>")]
    true, given = numbers(samples)
    assert true.tolist() == [4, 4, 4, 4]
    assert given[[0, 2, 3]].tolist() == [5, 3, 8]
    assert np.isnan(given[1])
    assert relative_error(samples) == pytest.approx((0.25 + 1) / 2)


def test_few_different_options_are_shown_by_their_words():
    easy, flipped = ["A. left", "B. right"], ["A. right", "B. left"]
    samples = [
        sample("object_rel_direction_easy", "A", "A", easy), sample("object_rel_direction_easy", "A", "B", flipped),
        sample("object_rel_direction_easy", "B", "a.", easy), sample("object_rel_direction_easy", "B", "no", easy),
    ]  # fmt: skip
    names, table = choices(samples)
    assert names == ["left", "right"]
    assert table.tolist() == [[1, 0, 0], [2, 0, 1]]


def test_many_different_options_are_shown_by_their_letters():
    samples = [sample("object_rel_distance", "A", x, [f"A. thing{i}", f"B. other{i}"]) for i, x in enumerate("AABAB")]
    names, table = choices(samples)
    assert names == ["A", "B"]
    assert table.tolist() == [[3, 2, 0], [0, 0, 0]]


def test_free_answers_are_shown_as_they_are():
    samples = [sample("object_rel_distance", "Sink", "sink."), sample("object_rel_distance", "bed", "a bed")]
    names, table = choices(samples)
    assert names == ["bed", "sink"]
    assert table.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_truth_is_as_typical_as_it_scores_as_a_constant():
    rng = np.random.default_rng(0)
    truths = rng.integers(1, 30, 40)
    fifths = truth_prior([sample("object_counting", str(t), "1") for t in truths])
    constant = np.array([np.mean([mean_relative_accuracy(guess, truth) for truth in truths]) for guess in truths])
    assert np.bincount(fifths).tolist() == [8] * 5
    for fifth in range(4):
        assert constant[fifths == fifth].max() <= constant[fifths == fifth + 1].min() + 1e-12


def test_types_are_ranked_apart():
    samples = [sample("a", x, "") for x in "AAAAB"] + [sample("b", x, "") for x in "BBBBA"]
    fifths = truth_prior(samples)
    assert fifths[4] == fifths[9] == 0
