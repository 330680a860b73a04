"""Reading an answer out of a response and comparing it with the truth: one parser for reward and metric.

The reading rules are those of VSI-Bench's official harness (vision-x-nyu/thinking-in-space,
`lmms_eval/tasks/vsibench/utils.py`), preceded by one step that it lacks: where a response holds an answer tag, the
tag's content is the answer. Models trained with the paper's tags could not be scored otherwise.
"""

import math

import numpy as np

# As the official code makes them: in float64, so that 4 for 5 passes six of them, not seven.
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def final_answer(text: str) -> str:
    """The content of the first complete <answer>...</answer> without outer white space, else the whole response as it
    is: the official rule finds no answer in ' B'.

    The first one, so that a second answer never earns anything; an unclosed tag is no tag.
    """
    _, opened, rest = text.partition("<answer>")
    content, closed, _ = rest.partition("</answer>")
    return content.strip() if opened and closed else text


def read_letter(text: str) -> str:
    """The first space-separated token in lower case, without full stops: 'B.' is 'b'; '(B)' is no letter."""
    return final_answer(text).split(" ")[0].rstrip(".").strip().lower()


def read_number(text: str) -> float | None:
    """The first token as a finite number, else None ('1,200', 'about 3' and 'nan' are None)."""
    return to_float(read_letter(text))


def to_float(token: str) -> float | None:
    """What Python's `float` reads, if it is finite, else None."""
    try:
        number = float(token)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def normalise(text: str) -> str:
    """A free-form answer for comparison: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def same_text(text: str, truth: str) -> bool:
    """Whether the answer is the truth, letter for letter after normalisation (section 3.2: 'the characters match')."""
    return normalise(final_answer(text)) == normalise(truth)


def mean_relative_accuracy(pred: float, truth: float) -> float:
    """The share of the ten thresholds t with abs(pred - truth)/truth <= 1 - t, compared in float64.

    In [0, 1]. The truth must be positive: every quantity asked for is.
    """
    if not truth > 0:
        raise ValueError(f"mean relative accuracy needs a positive truth, got {truth!r}")
    return float((abs(pred - truth) / truth <= 1 - THRESHOLDS).mean())
