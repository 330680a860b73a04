"""The three rewards of GRPO (section 3.2), pure functions of one response, on the metric's own parser.

`trl_rewards` gives them in TRL's signature. The trainer adds them up; the paper names no weights.
"""

import re
from collections.abc import Callable, Sequence

from vsr.errors import unknown
from vsr.paper import MODES
from vsr.profiles import CHOICES
from vsr.questions.question import NUMERICAL
from vsr.scoring.answers import read_letter, read_number, same_text, to_float

TAGGED_MODES = ("think", "observe")  # each asks for a reasoning tag of its own name
LENGTH_TARGET = 32  # words at which the length reward is full; the paper gives no form for it
_TAG = re.compile(r"</?\s*(?:think|observe|answer)\s*>")
_REASONING = re.compile(r"<\s*(think|observe)\s*>(.*?)<\s*/\s*\1\s*>", re.DOTALL)
# R1-V's rule, which the paper follows: the tags in order, whatever stands between them
_LENIENT = {mode: re.compile(rf"<{mode}>.*?</{mode}>\s*<answer>.*?</answer>", re.DOTALL) for mode in TAGGED_MODES}
FORMAT_RULES = CHOICES["format_rule"]


def accuracy(text: str, truth: str, question_type: str, options: Sequence[str] | None = None) -> float:
    """Whether the answer is right, in [0, 1]. Numbers: max(0, 1 - abs(p - t)/min(p, t)); the paper gives the ratio, not
    its mapping to a reward. What is no positive number earns 0. Options: the letter. Anything else: the text."""
    if question_type in NUMERICAL:
        target = to_float(truth)
        if target is None or target <= 0:
            raise ValueError(f"the truth of a numerical question must be a positive number, got {truth!r}")
        number = read_number(text)
        if number is None or number <= 0:
            return 0.0
        # by the smaller of the two: twice the truth and half of it are equally wrong
        return max(0.0, 1.0 - abs(number - target) / min(number, target))
    if options:
        return float(read_letter(text) == truth.lower())
    return float(same_text(text, truth))


def format(text: str, mode: str, rule: str = "lenient") -> float:
    """1 if the response follows the tags of `mode`, reasoning then answer with nothing but white space around, else 0.
    Vanilla mode has no tags and no format reward (section 3.2).

    'lenient' is the paper's: an empty shell is "technically correct" (section 3.3.3), repeated tags pass. 'strict' is
    ours: each tag once, and between them at least one letter or digit.
    """
    if mode not in TAGGED_MODES:
        raise unknown("mode with tags", mode, TAGGED_MODES)
    if rule not in FORMAT_RULES:
        raise unknown("format rule", rule, FORMAT_RULES)
    if rule == "lenient":
        return float(_LENIENT[mode].fullmatch(text.strip()) is not None)
    # tags of any mode and spelling are found, so that a second reasoning or a '<think >' is an error and no text
    if _TAG.findall(text) != [f"<{mode}>", f"</{mode}>", "<answer>", "</answer>"]:
        return 0.0
    before, reasoning, between, answer, after = _TAG.split(text)
    empty_outside = not (before + between + after).strip()
    return float(empty_outside and _says_something(reasoning) and _says_something(answer))


def is_shell(text: str) -> bool:
    """Whether a response goes through the motions: reasoning tags with no letter or digit between them (section 4)."""
    reasoning = _REASONING.findall(text)
    return bool(reasoning) and not any(_says_something(inside) for _, inside in reasoning)


def repeats_tags(text: str) -> bool:
    """Whether a response opens more than the two tags it is asked for: what a length reward pays (section 3.3.3)."""
    return len(re.findall(r"<\s*(?:think|observe|answer)\s*>", text)) > 2


def _says_something(text: str) -> bool:
    # the one rule for "empty": white space, dots and zero-width characters are nothing, a single digit is something
    return any(character.isalnum() for character in text)


def length(text: str, target: int = LENGTH_TARGET) -> float:
    """min(1, words/target), words being whatever white space separates."""
    # the paper tried one against empty shells, gave no form, and saw it gamed by repeated tags: so is this plainest one
    return min(1.0, len(text.split()) / target)


def trl_rewards(mode: str, rule: str = "lenient", with_length: bool = False) -> list[Callable[..., list[float]]]:
    """The rewards of a mode in TRL's signature, reading the columns of `Question` by name; format by `rule`."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if rule not in FORMAT_RULES:
        raise unknown("format rule", rule, FORMAT_RULES)

    def text(completion: str | list[dict]) -> str:
        # TRL hands over plain text, or one assistant message where the prompt is a conversation
        return completion if isinstance(completion, str) else completion[0]["content"]

    # TRL logs a reward by its function's __name__
    def accuracy_reward(completions, ground_truth, question_type, options, **_) -> list[float]:
        rows = zip(completions, ground_truth, question_type, options, strict=True)
        return [accuracy(text(completion), *row) for completion, *row in rows]

    def format_reward(completions, **_) -> list[float]:
        return [format(text(completion), mode, rule) for completion in completions]

    def length_reward(completions, **_) -> list[float]:
        return [length(text(completion)) for completion in completions]

    tagged = [format_reward, length_reward][: 1 + with_length] if mode in TAGGED_MODES else []
    return [accuracy_reward, *tagged]
