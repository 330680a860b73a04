"""DPO's wrong answers: wrong by the study's own reward, of the right one's form, the same for the same seed."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsr.errors import VsrError
from vsr.questions.question import NUMERICAL, Question
from vsr.scoring.rewards import accuracy
from vsr.train.data import rejected


def ask(kind: str, truth: str, text: str = "?", options: tuple[str, ...] | None = None, name: str = "q") -> Question:
    return Question(name, "rooms", "room-1", kind, text, options, truth)


NUMBERS = st.one_of(
    st.integers(1, 500).map(str),
    st.integers(1, 999).map(lambda n: f"{n / 10:.1f}"),
    st.integers(1, 9999).map(lambda n: f"{n / 100:.2f}"),
)


@given(truth=NUMBERS, kind=st.sampled_from(NUMERICAL), seed=st.integers(0, 99))
def test_wrong_numbers_earn_nothing_and_look_like_the_truth(truth, kind, seed):
    wrong = rejected(ask(kind, truth), seed)
    assert accuracy(wrong, truth, kind) == 0
    assert 0 < float(wrong) <= 4 * float(truth) + 1
    assert len(wrong.partition(".")[2]) == len(truth.partition(".")[2])


def test_wrong_numbers_lie_above_and_below():
    wrong = [float(rejected(ask("object_abs_distance", "2.4", name=f"q{i}"))) for i in range(1000)]
    assert min(wrong) == 0.6
    assert max(wrong) == 9.6
    assert not [w for w in wrong if 1.2 < w < 4.8]
    assert 450 < sum(w < 2.4 for w in wrong) < 550


def test_the_smallest_numbers_go_up():
    assert {rejected(ask("object_counting", "1", name=f"q{i}")) for i in range(100)} == {"3", "4"}
    assert float(rejected(ask("object_abs_distance", "0.1"))) >= 0.2


def test_words_and_letters():
    listed = "Which of these objects (trash bin, bed, guitar, sink)is the closest to the bicycle?"
    wrong = collections.Counter(rejected(ask("object_rel_distance", "bed", listed, name=f"q{i}")) for i in range(600))
    assert set(wrong) == {"trash bin", "guitar", "sink"}
    assert min(wrong.values()) > 150
    assert rejected(ask("object_rel_direction", "left")) == "right"
    assert rejected(ask("object_rel_direction", "right")) == "left"
    letters = ask("route_planning", "B", options=("A. Turn Left", "B. Turn Right", "C. Turn Back"))
    assert {rejected(letters, seed) for seed in range(50)} == {"A", "C"}


def test_the_seed_and_the_question_decide():
    questions = [ask("room_size_estimation", "20.8", name=f"q{i}") for i in range(20)]
    assert [rejected(q, 1) for q in questions] == [rejected(q, 1) for q in reversed(questions)][::-1]
    assert [rejected(q, 1) for q in questions] != [rejected(q, 2) for q in questions]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ask("object_counting", "0"), "'0' is no positive number"),
        (ask("object_counting", "many"), "'many' is no positive number"),
        (ask("object_rel_distance", "bed", "Which is the closest?"), "'bed' is not one of the answers it offers"),
        (ask("object_rel_distance", "bed", "Which of (sink, tv)?"), "'bed' is not one of"),
        (ask("route_planning", "D", options=("A. Turn Left", "B. Turn Right")), "'D' is not one of"),
    ],
)
def test_where_no_rule_applies_the_question_is_named(question, message):
    with pytest.raises(VsrError, match=f"question 'q'.*{message}"):
        rejected(question)
