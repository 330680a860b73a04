"""Figures of answers: errors by task, and the score Rosetta's way to each harness's score."""

import json

import numpy as np
import pytest

from vsr import cli, scoring
from vsr.report.figures_answers import (
    CAUSES,
    choices,
    falls,
    numbers,
    relative_error,
    rosetta,
    waterfall,
)
from vsr.report.plotting import savefig
from vsr.scoring.harnesses import RULES


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


# --- score Rosetta ---
def answer(number: int, kind: str, truth: str, response: str) -> dict:
    options = None if kind.startswith("object_abs") else ["A. left", "B. right"]
    row = {"id": f"q{number}", "scene_name": f"room{number % 2}", "question_type": kind}
    return row | {"options": options, "ground_truth": truth, "response": response}


EASY, HARD = "object_rel_direction_easy", "object_rel_direction_hard"
PLAIN = [  # read alike by every harness, right answers only
    answer(0, "object_abs_distance", "2", "2"),
    *(answer(i, f"object_rel_direction_{level}", "A", "A") for i, level in enumerate(("easy", "medium", "hard"), 1)),
]


def fall_of(name: str, samples: list[dict]) -> dict[str, float]:
    return next(fall for fall in falls(samples) if fall.name == name).steps


def test_every_fall_ends_at_the_harness_s_own_score():
    responses = ["2.4 meters", "about 2.4", "240 cm", "<answer>2.4</answer>", "two", "9"]
    samples = [answer(i, "object_abs_distance", "2.4", text) for i, text in enumerate(responses)]
    samples += [answer(9 + i, EASY, "A", text) for i, text in enumerate(["A", "A.", "a", "The answer is A.", "B"])]
    samples += [answer(20, HARD, "B", "B"), answer(21, "route_planning", "B", "A")]
    found = falls(samples)
    assert [fall.name for fall in found] == [name for name in RULES if name != "official"]
    for fall in found:
        assert fall.official == scoring.summarise(samples)["overall"]
        assert fall.score == pytest.approx(scoring.summarise(samples, fall.name)["overall"])
        assert list(fall.steps) == list(CAUSES)
    assert len({round(fall.score, 3) for fall in found}) > 4


def test_each_difference_has_its_cause():
    still = dict.fromkeys(CAUSES, 0.0)
    assert fall_of("ViLaSR", PLAIN) == fall_of("Spatial-MLLM", PLAIN) == still
    said = [{**PLAIN[0], "response": "about 2"}, *PLAIN[1:]]  # 50 points of the mean of two tasks
    assert fall_of("lmms-eval", said) == still | {"number": 50}
    lower = [*PLAIN[:3], {**PLAIN[3], "response": "a"}]  # a third of the other task
    assert fall_of("Video-R1", lower)["choice"] == pytest.approx(-100 / 6, abs=1e-3)
    edge = [{**PLAIN[0], "response": "1"}, *PLAIN[1:]]  # an error of exactly a half passes `<=` once, `<` never
    assert fall_of("Spatial-MLLM", edge) == still | {"accuracy": pytest.approx(-5)}
    levels = [*PLAIN, *(answer(9 + i, EASY, "A", "B") for i in range(3))]  # pooled 3 of 6, by level 3/4 of one of three
    assert fall_of("ViLaSR", levels)["direction"] == pytest.approx(50 * (3 / 6 - (1 / 4 + 1 + 1) / 3), abs=1e-3)
    assert fall_of("SpaceR", PLAIN[:3])["direction"] == pytest.approx(-50)  # a level is absent
    assert fall_of("TsT", said)["overall"] == 0
    assert fall_of("TsT", [{**PLAIN[0], "response": "9"}, *PLAIN[1:]])["overall"] == pytest.approx(75 - 50)


def test_the_figure_says_what_it_shows_and_repeats_to_the_byte(tmp_path):
    said = [{**PLAIN[0], "response": "about 2"}, *PLAIN[1:]]
    first, second = (savefig(waterfall(said, "run/samples.jsonl"), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    axes = waterfall(said, "run/samples.jsonl").axes[0]
    assert (
        axes.get_title(loc="left") == "The same answers score 50.0 under the official harness and 100.0 under lmms-eval"
    )
    widths = [bar.get_width() for bar in axes.patches]
    steps = [points for fall in reversed(falls(said)) for points in fall.steps.values() if abs(points) > 0.05]
    assert widths == pytest.approx(steps)
    assert waterfall(PLAIN, "x").axes[0].get_title(loc="left") == "Every harness gives these answers 100.0"
    assert "not run" in {text.get_text()[:7] for text in rosetta(tmp_path).axes[0].texts}


def test_vsr_score_prints_the_table_and_draws_the_figure(tmp_path, capsys):
    predictions = tmp_path / "run" / "samples.jsonl"
    predictions.parent.mkdir()
    predictions.write_text("".join(json.dumps(row) + "\n" for row in PLAIN))
    out = tmp_path / "results" / "mine"
    assert cli.main(["score", "--predictions", str(predictions), "--rules", "all", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n| {name} | " in shown for name in RULES)
    assert (tmp_path / "figures" / "mine" / "rosetta.png").is_file()
    assert (tmp_path / "figures" / "mine" / "rosetta.svg").is_file()
