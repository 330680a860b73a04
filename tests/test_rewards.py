"""The rewards of GRPO: what earns, what must not, and that they read answers as the metric does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsr.errors import VsrError
from vsr.questions.question import Question
from vsr.scoring import rewards, score
from vsr.scoring.answers import read_number

GOOD = {
    "think": "<think>The bed is 2 m long.</think> <answer>2</answer>",
    "observe": "<observe>A bed by the wall.</observe>\n<answer>2</answer>\n",
}


def number(text: str, truth: str = "2") -> float:
    return rewards.accuracy(text, truth, "object_abs_distance")


# --- accuracy ---
@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("2", 1.0), ("2.0 meters", 1.0), ("3", 0.5), ("4", 0.0), ("1", 0.0), ("1.6", 0.75), ("100", 0.0), ("0", 0.0),
        ("-2", 0.0), ("", 0.0), ("two", 0.0), ("nan", 0.0), ("inf", 0.0), ("1e-320", 0.0), ("٢", 1.0), ("²", 0.0),
        ("<answer>2</answer>", 1.0), ("<answer></answer> 2", 0.0), ("2 <answer>9</answer>", 0.0),
        ("<answer>9</answer> <answer>2</answer>", 0.0), ("9" * 10_000, 0.0), ("word " * 2000, 0.0),
    ],
)  # fmt: skip
def test_numerical_accuracy(text, reward):
    assert number(text) == pytest.approx(reward)


@given(st.floats(0.01, 1e3), st.floats(0.01, 1e3))
def test_numerical_accuracy_is_symmetric_and_bounded(a, b):
    there, back = number(repr(a), repr(b)), number(repr(b), repr(a))
    assert there == pytest.approx(back)
    assert 0 <= there <= 1


@given(st.floats(0.1, 100), st.floats(1.01, 1.9))
def test_numerical_accuracy_falls_with_the_ratio(truth, ratio):
    assert number(repr(truth * ratio), repr(truth)) == pytest.approx(2 - ratio)
    assert number(repr(truth / ratio), repr(truth)) == pytest.approx(2 - ratio)


def test_a_truth_that_is_no_positive_number_is_refused():
    for truth in ("0", "-1", "x"):
        with pytest.raises(ValueError, match="positive number"):
            number("2", truth)


@pytest.mark.parametrize(
    ("text", "truth", "options", "reward"),
    [
        ("B.", "B", ("A. x", "B. y"), 1), ("(B)", "B", ("A. x", "B. y"), 0), ("", "B", ("A. x", "B. y"), 0),
        ("sink", "sink", None, 1), (" Sink.", "sink", None, 1), ("the sink", "sink", None, 0),
        ("sink or bed", "sink", None, 0), ("<answer>trash bin</answer>", "trash bin", None, 1), ("", "sink", None, 0),
        ("<answer>bed</answer><answer>sink</answer>", "sink", None, 0), ("sink <answer>bed</answer>", "sink", None, 0),
    ],
)  # fmt: skip
def test_other_accuracy_is_exact(text, truth, options, reward):
    assert rewards.accuracy(text, truth, "object_rel_distance", options) == reward


@given(st.text(max_size=60))
def test_reward_and_metric_read_the_same_answer(text):
    options = ("A. x", "B. y")
    choice = Question("1", "rooms", "room0", "object_rel_distance", "?", options, "B")
    free = Question("1", "rooms", "room0", "object_rel_distance", "?", None, "sink")
    assert rewards.accuracy(text, "B", choice.question_type, options) == score(choice, text)
    assert rewards.accuracy(text, "sink", free.question_type) == score(free, text)
    distance = Question("1", "rooms", "room0", "object_abs_distance", "?", None, "2")
    if read_number(text) is None:
        assert number(text) == score(distance, text) == 0
    if number(text) > 0.5:  # within half: some threshold of the metric is passed as well
        assert score(distance, text) > 0


# --- format ---
@pytest.mark.parametrize("mode", ["think", "observe"])
def test_exactly_the_tags_of_the_mode_earn(mode):
    other = "observe" if mode == "think" else "think"
    for rule in rewards.FORMAT_RULES:
        assert rewards.format(GOOD[mode], mode, rule) == 1
        assert rewards.format(GOOD[other], mode, rule) == 0


@pytest.mark.parametrize(
    "text",
    [
        "", "2", "<answer>2</answer>", "<think>so</think>", "<think></think> <answer>2</answer>",
        "<think> \n\t</think> <answer>2</answer>", "<think>...</think> <answer>2</answer>",
        "<think>\u200b</think> <answer>2</answer>", "<think>so</think> <answer></answer>",
        "<think>so</think> <answer> </answer>", "<answer>2</answer> <think>so</think>",
        "<think>so</think> <answer>2</answer> <answer>2</answer>",
        "<think>so</think> <think>so</think> <answer>2</answer>",
        "<think>so <think>so</think></think> <answer>2</answer>", "<think>so <answer>2</answer></think>",
        "<think>so</think> <answer>2</answer> done", "Well: <think>so</think> <answer>2</answer>",
        "<think>so</think> 2 <answer>2</answer>", "<think>so</think> <answer>2", "<think>so <answer>2</answer>",
        "<think >so</think> <answer>2</answer>", "<think>so</think> <observe>x</observe> <answer>2</answer>",
        "<think>a <observe> b</think> <answer>2</answer>",
    ],
)  # fmt: skip
def test_anything_else_earns_no_strict_format_reward(text):
    assert rewards.format(text, "think", "strict") == 0


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        # section 3.3.3's "technically correct" shell, and the repeated tags that game a length reward
        ("<think> </think> <answer>xx</answer>", 1), ("<think></think><answer>2</answer>", 1),
        ("<think> a </think> <think> a </think> <answer>2</answer>", 1),
        ("\n<think>so</think>\n<answer>2</answer> ", 1),
        ("2", 0), ("<answer>2</answer>", 0), ("<answer>2</answer> <think>so</think>", 0),
        ("<think>so</think> 2 <answer>2</answer>", 0), ("<think>so</think> <answer>2", 0),
        ("Well: <think>so</think> <answer>2</answer>", 0), ("<think>so</think> <answer>2</answer> done", 0),
    ],
)  # fmt: skip
def test_the_papers_rule_is_lenient(text, earned):
    assert rewards.format(text, "think") == earned
    assert rewards.format(text, "think", "strict") <= earned


@pytest.mark.parametrize("rule", rewards.FORMAT_RULES)
def test_long_reasoning_is_no_format_error(rule):
    assert rewards.format(f"<think>{'word ' * 2000}</think><answer>2</answer>", "think", rule) == 1


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<observe>", "</observe>", "so", "2", " ", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_format_is_the_naive_check(text):
    naive = 0.0
    stripped = text.strip()
    if all(text.count(tag) == 1 for tag in PIECES[:4]) and not any(text.count(tag) for tag in PIECES[4:6]):
        opened, closed = stripped.find("<think>"), stripped.find("</think>")
        answer, ended = stripped.find("<answer>"), stripped.find("</answer>")
        inner = stripped[opened + 7 : closed].strip(), stripped[answer + 8 : ended].strip()
        ordered = opened == 0 and opened < closed < answer < ended == len(stripped) - len("</answer>")
        naive = float(ordered and all(inner) and not stripped[closed + 8 : answer].strip())
    assert rewards.format(text, "think", "strict") == naive


@given(st.text(max_size=300))
def test_format_never_raises(text):
    for wrapped in (text, f"<think>{text}</think><answer>{text}</answer>"):
        assert rewards.format(wrapped, "think", "strict") <= rewards.format(wrapped, "think") <= 1.0


def test_vanilla_has_no_format():
    with pytest.raises(VsrError, match="mode with tags 'vanilla'"):
        rewards.format("2", "vanilla")


# --- length ---
def test_length_grows_with_words_and_is_gamed_by_repeated_tags():
    assert rewards.length("") == 0
    assert rewards.length("one two", target=4) == 0.5
    assert rewards.length("word " * 100) == 1
    shell = "<think> </think> " * 20 + "<answer>2</answer>"
    assert rewards.length(shell) == 1  # what the paper saw
    assert (rewards.format(shell, "think"), rewards.format(shell, "think", "strict")) == (1, 0)


# --- TRL ---
def test_trl_rewards_by_mode():
    assert [f.__name__ for f in rewards.trl_rewards("vanilla", with_length=True)] == ["accuracy_reward"]
    assert [f.__name__ for f in rewards.trl_rewards("think")] == ["accuracy_reward", "format_reward"]
    assert len(rewards.trl_rewards("observe", with_length=True)) == 3
    with pytest.raises(VsrError, match="unknown mode 'thinks'"):
        rewards.trl_rewards("thinks")
    with pytest.raises(VsrError, match="unknown format rule 'loose'"):
        rewards.trl_rewards("think", "loose")


def test_trl_rewards_read_columns_and_both_forms_of_completions():
    columns = {
        "ground_truth": ["2", "B"],
        "question_type": ["object_abs_distance", "object_rel_distance"],
        "options": [None, ["A. x", "B. y"]],
    }
    texts = [GOOD["think"], "<answer>A</answer>"]
    for completions in (texts, [[{"role": "assistant", "content": text}] for text in texts]):
        got = [
            f(prompts=["p", "p"], completions=completions, completion_ids=[[1], [2]], **columns)
            for f in rewards.trl_rewards("think")
        ]
        assert got == [[1.0, 0.0], [1.0, 0.0]]
