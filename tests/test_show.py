"""What notebooks display reads as text: no raw records, no empty code marks, no line ends inside intervals."""

from vsr.report import show


def test_facts_have_one_row_for_each_part():
    record = {
        "seed": 0,
        "git": {"dirty": False, "sha": "ab"},
        "stages": [{"name": "see", "weights": {"x": 1}}],
        "n": [1, 2],
    }
    rows = show.facts(record).data.splitlines()[2:]
    assert rows == [
        "| seed | 0 |",
        "| git | dirty False, sha ab |",
        "| stages · see | name see |",
        "| stages · see · weights | x 1 |",
        "| n | 1, 2 |",
    ]


def test_an_empty_answer_is_named():
    row = {"id": 1, "question_type": "route_planning", "ground_truth": "C"}
    text = show.answers({"true": [row | {"response": ""}], "none": [row | {"response": "B"}]}).data
    assert text.splitlines()[-1] == "| route_planning | C | *empty* | `B` |"


def test_an_interval_is_never_broken():
    part = {"score": 5.0, "low": 1.0, "high": 9.0}
    ends = {f"{key}{end}": part[end[1:] or "score"] for key in ("overall", "trained") for end in ("", "_low", "_high")}
    text = show.scores({"base": ends | {"tasks": {"object_counting": part}}}).data
    assert text.splitlines()[-1].count("5.0 [1.0,\u00a09.0]") == 3
