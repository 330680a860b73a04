"""What kind of error an answer is: numbers beside true ones, choices beside right ones, and how typical a truth is."""

import numpy as np

from vsr.questions.question import NUMERICAL
from vsr.scoring.answers import final_answer, mean_relative_accuracy, normalise, read_letter, read_number, to_float

MOST_WORDS = 8  # a task with more different options than this is shown by letters


def numbers(samples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """True and given numbers (N,) of samples that ask for one; nan where no number was read."""
    true = [to_float(sample["ground_truth"]) for sample in samples]
    given = [read_number(sample["response"]) for sample in samples]
    return np.array(true, dtype=float), np.array([np.nan if g is None else g for g in given], dtype=float)


def relative_error(samples: list[dict]) -> float:
    """The median of abs(given - true)/true; an answer without a number is infinitely wrong."""
    true, given = numbers(samples)
    return float(np.median(np.nan_to_num(np.abs(given - true) / true, nan=np.inf)))


def choices(samples: list[dict]) -> tuple[list[str], np.ndarray]:
    """How often each choice (rows) was answered by each (columns, the last for anything else): names, counts (K, K+1).

    Choices are the options' words where a task has at most MOST_WORDS different ones, else the letters."""
    words = sorted({word for sample in samples for word in _options(sample).values()})
    use_words = 0 < len(words) <= MOST_WORDS
    letters = sorted({letter for sample in samples for letter in _options(sample)})
    names = words if use_words else letters or sorted({normalise(sample["ground_truth"]) for sample in samples})
    table = np.zeros((len(names), len(names) + 1), dtype=int)
    for sample in samples:
        true, given = (_choice(sample, text, use_words) for text in (sample["ground_truth"], sample["response"]))
        table[names.index(true), names.index(given) if given in names else -1] += 1
    return names, table


def _options(sample: dict) -> dict[str, str]:
    """Letter -> words."""
    parts = [option.partition(". ") for option in sample["options"] or ()]
    return {letter.strip(): words.strip() for letter, _, words in parts}


def _choice(sample: dict, text: str, use_words: bool) -> str:
    if not sample["options"]:
        return normalise(final_answer(text))
    letter = read_letter(text).upper()
    return _options(sample).get(letter, "") if use_words else letter


def truth_prior(samples: list[dict]) -> np.ndarray:
    """The fifth 0..4 (N,) within its question type that each sample's truth is in, by how it would score as a constant
    answer to all questions of the type; 4 holds the most typical truths."""
    by_type: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        by_type.setdefault(sample["question_type"], []).append(i)
    fifths = np.zeros(len(samples), dtype=int)
    for kind, members in by_type.items():
        truths = [samples[i]["ground_truth"] for i in members]
        values, where, often = np.unique(truths, return_inverse=True, return_counts=True)
        as_constant = _constant_scores(values, often, kind in NUMERICAL)[where]
        order = np.argsort(np.argsort(as_constant, kind="stable"), kind="stable")
        fifths[members] = 5 * order // len(members)
    return fifths


def _constant_scores(values: np.ndarray, often: np.ndarray, numerical: bool) -> np.ndarray:
    """The mean score of each distinct truth as the answer to all."""
    if not numerical:
        return often / often.sum()
    numbers_ = values.astype(float)
    accuracy = [[mean_relative_accuracy(guess, truth) for truth in numbers_] for guess in numbers_]
    return np.array(accuracy) @ often / often.sum()
