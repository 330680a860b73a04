"""Reading and scoring answers: golden cases of eight harnesses, a naive twin of the official one, and fuzzing."""

import dataclasses
import random
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL, Question, read_questions
from vsr.scoring import (
    best_constant,
    mean_relative_accuracy,
    readable,
    rosetta_table,
    score,
    summarise,
    task_of,
)
from vsr.scoring.answers import final_answer, read_number
from vsr.scoring.harnesses import RULES, float32_accuracy

LETTERS = ("A. table", "B. sofa", "C. bed", "D. lamp")
DISTANCE = Question("1", "rooms", "room0", "object_abs_distance", "How far?", None, "3.2")
CHOICE = Question("2", "rooms", "room0", "object_rel_distance", "Which?", LETTERS, "B")
FREE = dataclasses.replace(CHOICE, options=None, ground_truth="trash bin")
KINDS = (*list(TASKS)[:5], *(f"object_rel_direction_{x}" for x in ("easy", "medium", "hard")), *list(TASKS)[6:])


def sample(kind: str, truth: str, response: str, scene: str = "room0", number: int = 0) -> dict:
    options = None if kind in NUMERICAL else list(LETTERS)
    return {
        "id": number, "scene_name": scene, "question_type": kind, "options": options,
        "ground_truth": truth, "response": response, "video": "true", "mode": "vanilla",
    }  # fmt: skip


def random_samples(seed: int, scenes: int = 12, each: int = 3) -> list[dict]:
    rng = random.Random(seed)
    made = []
    for scene in range(scenes):
        for kind in KINDS:
            for _ in range(rng.randint(1, each)):
                truth = str(rng.randint(1, 9)) if kind in NUMERICAL else rng.choice("ABCD")
                guess = str(rng.randint(1, 9)) if kind in NUMERICAL else rng.choice(["A", "b.", "C", "D. lamp", ""])
                made.append(sample(kind, truth, guess, f"room{scene}", len(made)))
    return made


# --- mean relative accuracy ---
@pytest.mark.parametrize(
    ("pred", "truth", "official", "strict"),
    [  # strict: as torch computes it in float32 with <
        (4, 5, 0.6, 0.6), (3, 2, 0.1, 0.0), (9, 10, 0.9, 0.9), (7, 10, 0.5, 0.4), (1.1, 1.0, 0.9, 0.8),
        (5, 4, 0.6, 0.5), (5, 5, 1.0, 1.0), (0, 5, 0.0, 0.0), (-5, 5, 0.0, 0.0), (1e308, 5, 0.0, 0.0),
    ],
)  # fmt: skip
def test_mean_relative_accuracy_golden(pred, truth, official, strict):
    assert mean_relative_accuracy(pred, truth) == pytest.approx(official)
    assert float32_accuracy(pred, truth) == pytest.approx(strict)


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_mean_relative_accuracy_is_the_naive_count(pred, truth):
    passed = sum(abs(pred - truth) / truth <= 1 - threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert mean_relative_accuracy(pred, truth) == passed / 10


def test_a_truth_that_is_no_positive_number_is_named():
    for truth in ("0", "-1", "many", "nan"):
        with pytest.raises(VsrError, match=r"question 1.*no positive number"):
            score(dataclasses.replace(DISTANCE, ground_truth=truth), "3")


# --- reading, official ---
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.2", 3.2), ("3.2.", 3.2), ("3.2 meters", 3.2), ("3.2\n", 3.2), (" 3.2", None),
        ("2 to 3 meters", 2.0), ("1e1", 10.0),
        ("-4", -4.0), ("about 3.2 meters", None), ("1,200", None), ("", None), ("nan", None), ("inf", None),
        ("1e999", None), ("three", None), ("3.2meters", None), ("٣", 3.0),
        ("<think> 7 </think> <answer> 3.2 </answer>", 3.2), ("<answer>3</answer><answer>4</answer>", 3.0),
        ("<answer></answer> 3", None), ("<answer>3", None),
    ],
)  # fmt: skip
def test_official_number(text, number):
    assert read_number(text) == number
    assert readable("object_counting", None, text) == (number is not None)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B.", 1), ("b", 1), ("B", 1), ("B. sofa", 1), ("<answer>b</answer>", 1), ("(B)", 0), ("", 0), ("sofa", 0),
        ("AB", 0),
    ],
)  # fmt: skip
def test_official_letter(text, right):
    assert score(CHOICE, text) == right


@pytest.mark.parametrize(
    ("text", "right"), [("trash bin", 1), (" Trash  Bin.", 1), ("<answer>trash bin</answer>", 1), ("trash", 0), ("", 0)]
)
def test_free_form_is_compared_as_text(text, right):
    assert all(score(FREE, text, rules) == right for rules in RULES)


# --- the harnesses' rules ---
@pytest.mark.parametrize(
    ("text", "numbers"),
    [  # official, lmms-eval, VLMEvalKit, Video-R1, SpaceR, ViLaSR, Spatial-MLLM, TsT
        ("about 3.2 meters", (None, 3.2, 3.2, None, 3.2, None, None, 3.2)),
        ("2 to 3 meters", (2, 2, 3, None, 2, None, None, 2)),
        ("1,200", (None, 1, 200, 1200, 1, 1200, 1200, 1200)),
        ("seventy five", (None, 75, 5, None, 5, None, None, 70)),
        ("one hundred", (None, 100, 1, None, 1, None, None, 1)),
        ("1e3", (1000, 1, 1000, 1000, 1, 1000, 1000, 1)),
        ("a distance of 2.4 meters", (None, 2.4, 2.4, None, 1, None, None, 2.4)),
        ("two chairs and one table", (None, 2, 1, None, 1, None, None, 2)),
        ("320 cm", (320, 320, 320, None, 320, None, None, 3.2)),
        ("<think>7</think><answer>3</answer>", (3, 3, 3, 3, 3, 3, 3, 3)),
        ("<answer>3</answer><answer>4</answer>", (3, 3, 3, 3, 3, 3, 4, 3)),
        ("", (None,) * 8),
    ],
)
def test_numbers_by_harness(text, numbers):
    assert tuple(rules.number(text, "object_abs_distance") for rules in RULES.values()) == numbers


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B", "11111111"), ("B.", "11101111"), ("b", "11101111"), (" B", "00111110"), ("(B)", "00100000"),
        ("", "00000000"), ("<think>A</think>B", "00000000"),
        ("B. sofa", "11101101"), ("The answer is B", "00100000"), ("A or B", "00000000"),
        ("<think>A, then?</think>\nB", "00100000"), ("<answer> B </answer>", "11111111"),
    ],
)  # fmt: skip
def test_letters_by_harness(text, right):
    assert "".join(str(int(rules.choice(text, "B"))) for rules in RULES.values()) == right


def test_tst_reads_the_unit_that_the_question_asks_for():
    read = RULES["TsT"].number
    assert read("1.5 meters", "object_size_estimation") == 150
    assert read("1.5 meters", "object_abs_distance") == 1.5
    assert read("150 cm", "object_size_estimation") == 150
    assert read("3 mm", "object_size_estimation") == pytest.approx(0.3)
    assert read("30 mm", "object_abs_distance") == pytest.approx(0.03)


def test_averages_by_harness():
    level = [sample("object_rel_direction_easy", "A", "A", number=i) for i in range(3)]
    hard = [sample("object_rel_direction_hard", "A", "B", number=3)]
    count = [sample("object_counting", "4", "4", number=4)]
    both = level + hard + count
    found = {name: summarise(both, name) for name in RULES}
    assert found["official"]["tasks"]["object_rel_direction"]["score"] == 50  # mean of the levels asked
    assert found["official"]["overall"] == 75
    assert found["ViLaSR"]["tasks"]["object_rel_direction"]["score"] == 75  # pooled
    assert found["SpaceR"]["tasks"]["object_rel_direction"]["score"] == 0  # medium is absent
    assert found["SpaceR"]["overall"] == found["TsT"]["overall"] == 80  # over questions
    assert found["Video-R1"]["averages"] == {"mean of both": 87.5, "accuracy": 75.0, "mra": 100.0}
    assert found["Spatial-MLLM"]["averages"] == {"macro": 75.0, "micro": 80.0}


def test_unknown_rules_name_the_nearest():
    with pytest.raises(VsrError, match="did you mean 'official'"):
        score(CHOICE, "B", "oficial")


# --- fuzzing ---
ANSWERS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            ["<answer>", "</answer>", "<think>", "</think>", "3.2", "B", "(", ")", ".", ",", " ", "\n", "a"]
        ),
        max_size=30,
    ).map("".join),
)


@given(ANSWERS)
@example("<answer>" * 500)
@example("9" * 5000)
@example("-")
@example("\x00")
def test_no_response_breaks_any_rule(text):
    for rules in RULES:
        for question in (DISTANCE, CHOICE, FREE):
            assert 0 <= score(question, text, rules) <= 1


@given(st.floats(0.001, 1e6), st.sampled_from(["{}", "{}\n", "{}.", "{} meters", "<answer>{}</answer>"]))
def test_a_plain_number_is_read_back(number, form):
    assert read_number(form.format(repr(number))) == number


@pytest.mark.parametrize(
    "text", ["1" * 10_000, "<answer>" * 1250, "B " * 5000, "<think>" * 1500, "( " * 5000, "and a " * 1700]
)
def test_ten_kilobytes_are_read_at_once(text):
    started = time.perf_counter()
    for rules in RULES:
        score(DISTANCE, text, rules)
        score(CHOICE, text, rules)
    assert time.perf_counter() - started < 0.5


# --- summaries ---
def naive_official(samples: list[dict]) -> dict[str, float]:
    """thinking-in-space's aggregation in plain loops, percent."""
    scores: dict[str, list[float]] = {}
    for s in samples:
        token = s["response"].split(" ")[0].rstrip(".").strip()
        if s["question_type"] in NUMERICAL:
            try:
                error = abs(float(token) - float(s["ground_truth"])) / float(s["ground_truth"])
                value = float((error <= 1 - np.linspace(0.5, 0.95, 10)).mean())
            except ValueError:
                value = 0.0
        else:
            value = float(token.lower() == s["ground_truth"].lower())
        scores.setdefault(s["question_type"], []).append(value)
    means = {kind: sum(values) / len(values) for kind, values in scores.items()}
    directions = [means.pop(kind) for kind in list(means) if kind.startswith("object_rel_direction")]
    means["object_rel_direction"] = sum(directions) / 3
    means["overall"] = sum(means.values()) / 8
    return {name: 100 * value for name, value in means.items()}


@pytest.mark.parametrize("seed", range(3))
def test_summary_is_the_naive_official_one(seed):
    samples = random_samples(seed)
    summary, naive = summarise(samples), naive_official(samples)
    assert summary["overall"] == pytest.approx(naive["overall"], abs=1e-4)
    assert list(summary["tasks"]) == list(TASKS)
    for task, found in summary["tasks"].items():
        assert found["score"] == pytest.approx(naive[task], abs=1e-4)
        assert found["low"] <= found["score"] <= found["high"]
        assert found["n"] == sum(task_of(s["question_type"]) == task for s in samples)
    assert summary["trained"] == pytest.approx(np.mean([naive[task] for task in list(TASKS)[:6]]), abs=1e-4)
    assert summary["n"] == len(samples)
    assert summary["scenes"] == 12


def test_summary_does_not_depend_on_the_order_of_samples():
    samples = random_samples(0)
    assert summarise(samples) == summarise(samples[::-1])


def test_absent_tasks_are_named_and_never_counted_as_0():
    summary = summarise([sample("object_counting", "4", "4", f"room{i}", i) for i in range(3)])
    assert summary["overall"] == summary["trained"] == 100
    assert summary["absent"] == list(TASKS)[1:]
    held_out = summarise([sample("route_planning", "A", "A", f"room{i}", i) for i in range(3)])
    assert held_out["trained"] is None
    assert held_out["trained_low"] is None


def test_one_scene_has_no_interval():
    summary = summarise([sample("object_counting", "4", "4"), sample("object_counting", "4", "1")])
    assert (summary["overall"], summary["overall_low"], summary["overall_high"]) == (50, None, None)


def test_parsable_counts_answers_of_the_right_form():
    responses = [
        ("object_counting", "3"),
        ("object_counting", "three"),
        ("route_planning", "d."),
        ("route_planning", "E"),
    ]
    summary = summarise([sample(k, "3" if k in NUMERICAL else "A", r, number=i) for i, (k, r) in enumerate(responses)])
    assert summary["parsable"] == 50


def test_no_samples_is_an_error():
    with pytest.raises(VsrError, match="no samples"):
        summarise([])


@pytest.mark.parametrize("field", ["id", "scene_name", "question_type", "options", "ground_truth", "response"])
def test_a_sample_without_a_field_is_named(field):
    samples = random_samples(0)
    del samples[3][field]
    with pytest.raises(VsrError, match=f"sample 4: field '{field}' is missing"):
        summarise(samples)


def test_a_sample_of_an_unknown_type_is_named():
    with pytest.raises(VsrError, match="sample 1: question_type 'colour'"):
        summarise([sample("colour", "A", "A")])


def test_rosetta_shows_every_harness_beside_the_official_score():
    samples = [sample("object_abs_distance", "3.2", "about 3.2 meters", f"room{i}", i) for i in range(4)]
    lines = {row[0]: row[1:] for row in (line[2:-2].split(" | ") for line in rosetta_table(samples).splitlines())}
    assert list(lines) == ["rules", "---", *RULES]
    assert lines["official"][:2] == ["0.0", "+0.0"]
    assert lines["lmms-eval"][:2] == ["100.0", "+100.0"]
    assert lines["Video-R1"][-1].endswith("accuracy -, mra 0.0")
    assert len(rosetta_table(samples, "official, TsT").splitlines()) == 4
    with pytest.raises(VsrError, match="unknown scoring rules"):
        rosetta_table(samples, "none")


# --- constants ---
def question(kind: str, truth: str, number: int = 0) -> Question:
    return Question(str(number), "rooms", "room0", kind, "?", None if kind in NUMERICAL else LETTERS, truth)


def test_best_constant_beats_every_guess_on_a_fine_grid():
    rng = random.Random(0)
    truths = [round(rng.uniform(0.4, 9), 1) for _ in range(60)]
    answer, best = best_constant([question("object_abs_distance", str(t)) for t in truths])["object_abs_distance"]
    assert best == pytest.approx(100 * np.mean([mean_relative_accuracy(float(answer), t) for t in truths]))
    grid = np.arange(0.1, 14, 0.01)
    assert best >= 100 * max(np.mean([mean_relative_accuracy(guess, t) for t in truths]) for guess in grid) - 1e-9


def test_best_constant_letter_counts_every_level_alike():
    questions = [question("object_rel_direction_easy", "A", i) for i in range(9)]
    questions += [question("object_rel_direction_medium", "B"), question("object_rel_direction_hard", "B")]
    assert best_constant(questions) == {"object_rel_direction": ("B", pytest.approx(200 / 3))}


def test_best_constant_of_real_questions_scores_what_it_says(shared):
    questions = read_questions(shared / "vsibench_scannet.jsonl")
    constants = best_constant(questions)
    answered = [{**dataclasses.asdict(q), "response": constants[task_of(q.question_type)][0]} for q in questions]
    tasks = summarise(answered, resamples=10)["tasks"]
    assert {task: found["score"] for task, found in tasks.items()} == {
        task: pytest.approx(best, abs=1e-3) for task, (_, best) in constants.items()
    }


def test_the_truth_scores_full_marks_under_every_rule(shared):
    questions = read_questions(shared / "vsibench_scannet.jsonl")[::20]
    assert all(score(q, q.ground_truth, rules) == 1 for q in questions for rules in RULES)


def test_final_answer_takes_the_first_complete_tag():
    assert final_answer("<think>x</think> <answer> left\n</answer> right") == "left"
    assert final_answer(" left ") == " left "
    assert final_answer("<answer>left") == "<answer>left"
