"""Our ground truth against the official one on VSI-Bench's ScanNet scenes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from vsr.errors import VsrError
from vsr.questions.agree import agree, table
from vsr.questions.question import Question, read_questions
from vsr.scenes.metainfo import read_scenes


@pytest.fixture(scope="module")
def real(shared):
    scenes = read_scenes(shared / "scannet_meta_info_val.json")
    return scenes, read_questions(shared / "vsibench_scannet.jsonl")


@pytest.fixture(scope="module")
def result(real):
    return agree(*real)


EXACT = {
    "object_counting": (222, 223),  # scene0030_02: the file says 6 tables, the benchmark 7
    "object_abs_distance": (347, 347),
    "object_size_estimation": (357, 357),
    "room_size_estimation": (88, 88),
    "object_rel_distance": (259, 259),
    "object_rel_direction_easy": (63, 63),
    "object_rel_direction_medium": (147, 147),
    "object_rel_direction_hard": (133, 133),
}


def test_official_answers_come_out(result):
    found = {kind: (task["exact"], task["n"]) for kind, task in result["tasks"].items() if task["n"]}
    assert found == EXACT
    assert result["tasks"]["object_abs_distance"]["within_0.1"] == 347
    assert result["tasks"]["object_counting"]["mra"] == pytest.approx((222 + 0.8) / 223)  # 6 for 7: off by 1/7


def test_nothing_is_dropped_in_silence(real, result):
    listed = sum(task["n"] + len(task["skipped"]) for task in result["tasks"].values())
    assert listed == len(real[1]) == 2071
    skipped = {kind: len(task["skipped"]) for kind, task in result["tasks"].items() if task["skipped"]}
    assert skipped == {"route_planning": 64, "obj_appearance_order": 390}


def test_a_wrong_answer_is_counted(real):
    scenes, questions = real
    rooms = [q for q in questions if q.question_type == "room_size_estimation"]
    wrong = [replace(rooms[0], ground_truth=str(float(rooms[0].ground_truth) * 2)), *rooms[1:]]
    task = agree(scenes, wrong)["tasks"]["room_size_estimation"]
    assert (task["n"], task["exact"], task["within_0.1"]) == (88, 87, 87)
    assert task["mra"] == pytest.approx((87 + 0.1) / 88)  # half of the truth passes the first threshold only


def ask(scene: str, text: str, kind: str = "object_size_estimation", **more) -> Question:
    return Question("7", "scannet", scene, kind, text, more.get("options"), more.get("truth", "100"))


SIZE = "What is the length of the longest dimension (length, width, or height) of the {}, measured in centimeters?"


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (ask("scene0251_00", SIZE.format("coat rack")), "no object labelled 'coat rack'; it has: chair, door"),
        (ask("scene9999_00", SIZE.format("chair")), "scene9999_00 is not in the scenes file"),
        (ask("scene0251_00", "How long is the chair?"), r"'How long is the chair\?' is not worded as vsibench"),
        (ask("scene0251_00", "Left?", "object_rel_direction"), "unknown question type under vsibench"),
        (ask("scene0251_00", "Order?", "obj_appearance_order"), "needs the frames"),
    ],
)
def test_what_cannot_be_compared_is_listed_with_the_reason(real, question, why):
    scenes, questions = real
    fine = next(q for q in questions if q.question_type == "room_size_estimation")
    result = agree(scenes, [fine, question])
    (skipped,) = result["tasks"].get(question.question_type, {})["skipped"]
    assert skipped["id"] == "7"
    with pytest.raises(VsrError, match=why):  # alone, it is an error
        agree(scenes, [question])
    assert skipped["why"].removeprefix("question 7: ") in table(result)


def test_the_papers_rules_answer_the_benchmarks_questions(real):
    """The ceiling of a perfect learner of VSI-100k, which measures between centres, not closest points."""
    scenes, questions = real
    known, scores = {scene.id: scene for scene in scenes}, []
    for q in (q for q in questions if q.question_type == "object_abs_distance"):
        one, other = re.search(r"between the (.+?) and the (.+?) \(in meters\)", q.question).groups()
        boxes = known[q.scene_name].objects
        a, b = (next(box.center for box in boxes if box.label == label) for label in (one, other))
        off = abs(round(float(np.linalg.norm(a - b)), 1) - float(q.ground_truth)) / float(q.ground_truth)
        scores.append(sum(off <= 1 - (50 + 5 * k) / 100 for k in range(10)) / 10)
    result = agree(*real, rules="vsi100k")
    tasks = {kind: task for kind, task in result["tasks"].items() if task["n"]}
    assert tasks["object_abs_distance"]["n"] == len(scores)
    assert tasks["object_abs_distance"]["mra"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert tasks["object_rel_distance"]["exact"] < 0.9 * tasks["object_rel_distance"]["n"]
    assert tasks["object_rel_direction_hard"]["exact"] > 0.98 * tasks["object_rel_direction_hard"]["n"]


def test_unreadable_ground_truths_are_errors(real):
    counting = ask("scene0251_00", "How many table(s) are in this room?", "object_counting", truth="2")
    lettered = replace(counting, options=("A. 1", "B. 2"), ground_truth="E")
    with pytest.raises(VsrError, match="'E' is none of its options' letters"):
        agree(real[0], [lettered])


def test_table_shows_counts_and_shares(result):
    lines = table(result).splitlines()
    assert lines[2] == "| object_counting | 223 | 222 | 99.6 | 222 | 99.9 | 0 |"
    assert any("390 x obj_appearance_order" in line for line in lines)
