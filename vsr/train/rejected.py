"""DPO's less-preferred answers (paper, baselines of Table 2: "the correct answer modified to a wrong one").

The paper gives no rule for the modification. Ours, by the form of the answer:

- a number (counting, sizes, distances): times or divided by a factor, with even chances, log-uniform in 2..4, rounded
  away from the truth to as many decimals; multiplied where dividing would leave 0. The accuracy reward of section 3.2
  is 0 for every such answer.
- a letter (any question with options): another of its letters.
- an object (relative distance, free-form): another object of the question's list.
- left or right (relative direction, free-form): the other one.

The choice hangs on the seed and the question's id alone, so that every run with a seed sees the same pairs.
"""

import math
import random
import re

from vsr.errors import VsrError
from vsr.questions.question import NUMERICAL, Question
from vsr.scoring.answers import to_float

FACTORS = (2.0, 4.0)  # from 2 on the accuracy reward is 0
OPPOSITE = {"left": "right", "right": "left"}


def rejected(question: Question, seed: int = 0) -> str:
    """A wrong answer in the form of the right one. VsrError, naming the question, where no rule applies."""
    rng = random.Random(f"{seed} {question.id}")
    if question.question_type in NUMERICAL:
        return _number(question, rng)
    if question.options:
        return rng.choice(_others(question, [option.partition(".")[0] for option in question.options]))
    if question.ground_truth in OPPOSITE:
        return OPPOSITE[question.ground_truth]
    return rng.choice(_others(question, _listed(question.question)))


def _number(question: Question, rng: random.Random) -> str:
    truth = to_float(question.ground_truth)
    if truth is None or truth <= 0:
        raise _impossible(question, "is no positive number")
    decimals = len(question.ground_truth.partition(".")[2])
    factor, up = math.exp(rng.uniform(*map(math.log, FACTORS))), rng.random() < 0.5
    unit = 10.0**decimals
    below = math.floor(truth / factor * unit)
    wrong = math.ceil(truth * factor * unit) if up or below == 0 else below
    return f"{wrong / unit:.{decimals}f}"


def _listed(text: str) -> list[str]:
    """The entries of the first list in parentheses: 'Which of these objects (sink, bed) is ...'."""
    found = re.search(r"\(([^()]*,[^()]*)\)", text)
    return [entry.strip() for entry in found.group(1).split(",")] if found else []


def _others(question: Question, answers: list[str]) -> list[str]:
    others = [answer for answer in answers if answer != question.ground_truth]
    if len(others) == len(answers) or not others:
        raise _impossible(question, f"is not one of the answers it offers, {answers}")
    return others


def _impossible(question: Question, why: str) -> VsrError:
    return VsrError(
        f"question '{question.id}' ({question.question_type}): its answer '{question.ground_truth}' {why}, so that DPO "
        "has no wrong answer to set against it; leave the question out or give it options"
    )
