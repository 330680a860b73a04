"""The record that every part of the study shares: one question about one scene; and what it is before it is chosen."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import placed_jsonl, write_jsonl

NUMERICAL = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
DIRECTIONS = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")
CHOICE = ("object_rel_distance", *DIRECTIONS, "route_planning", "obj_appearance_order")
TYPES = NUMERICAL + CHOICE
FREE_DIRECTION = "object_rel_direction"  # VSI-100k's, which has no levels


@dataclass(frozen=True)
class Question:
    """One row in VSI-Bench's columns. `options` is None for numerical questions and for VSI-100k's free-form ones;
    `ground_truth` is a number as text, an option's letter, or (free-form) the entity's name."""

    id: str
    dataset: str
    scene_name: str
    question_type: str
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    pruned: bool | None = None


FIELDS = ("id", "dataset", "scene_name", "question_type", "question", "options", "ground_truth")


@dataclass(frozen=True)
class Draft:
    """A question before its options have letters and before it is chosen. `answer` is the text of the truth. `choices`
    are the texts to choose from, the answer among them, in no meaningful order; empty for numbers and free-form
    answers. A `question` that lists its choices says {options} in their place. Drafts of one type are chosen so that
    the values of `balance` are equally frequent (None: no preference)."""

    question_type: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    balance: str | None = None


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a jsonl file. A row that is no question is an error naming the file, line and field."""
    questions = [from_row(row, where) for where, row in placed_jsonl(path)]
    if not questions:
        raise VsrError(f"{path}: holds no questions; build it again with 'vsr build'")
    return questions


def from_row(row: dict, where: str) -> Question:
    """The question of a row in VSI-Bench's columns, checked by type and value; `where` names the row in errors."""
    missing = [name for name in FIELDS if name not in row and name != "options"]
    if missing:
        raise VsrError(f"{where}: field '{missing[0]}' is missing; a question has {', '.join(FIELDS)}")
    options, truth = checked(row["question_type"], row.get("options"), row["ground_truth"], where)
    words = {name: row[name] for name in FIELDS if name not in ("options", "ground_truth")}
    for name, value in words.items():  # ids are numbers in the released files
        number = name in ("id", "scene_name") and isinstance(value, int) and not isinstance(value, bool)
        if not number and (not isinstance(value, str) or not value.strip()):
            raise VsrError(f"{where}: {name} {value!r}: expected text")
        words[name] = str(value)
    pruned = row.get("pruned")
    pruned = pruned.strip().lower() if isinstance(pruned, str) else pruned
    if pruned not in (None, True, False, "true", "false", "1", "0"):
        raise VsrError(f"{where}: pruned {pruned!r}: expected true, false or null")
    pruned = None if pruned is None else pruned in (True, "true", "1")
    return Question(**words, options=options, ground_truth=truth, pruned=pruned)


def checked(kind: object, options: object, truth: object, where: str) -> tuple[tuple[str, ...] | None, str]:
    """A question's options (None for an empty list) and its ground truth as text. VsrError, naming `where` and the
    field, unless the truth is a positive number, one of the options' letters, or (free-form) a text."""
    known = (*TYPES, FREE_DIRECTION)
    if kind not in known:
        raise VsrError(f"{where}: question_type {kind!r} is none of {', '.join(known)}")
    if not isinstance(options, list | tuple | None) or not all(isinstance(option, str) for option in options or ()):
        raise VsrError(f"{where}: options {options!r}: expected a list of texts, or null")
    letters = [option[:1] for option in options or ()]
    if len(set(letters)) < len(letters) or not all(re.match(r"[A-Z](?!\w)", option) for option in options or ()):
        raise VsrError(f"{where}: options {options!r}: each must begin with a letter of its own, as in 'A. chair'")
    if kind in NUMERICAL:
        if not _positive(truth):
            raise VsrError(f"{where}: ground_truth {truth!r} is no positive number; write it without unit, as 2.5")
    elif letters and truth not in letters:
        raise VsrError(f"{where}: ground_truth {truth!r} is none of {', '.join(letters)}; write the letter alone")
    elif not isinstance(truth, str) or not truth.strip():
        raise VsrError(f"{where}: ground_truth {truth!r}: expected text")
    return tuple(options or ()) or None, str(truth)


def _positive(truth: object) -> bool:
    try:
        return isinstance(truth, str | int | float) and not isinstance(truth, bool) and 0 < float(truth) < float("inf")
    except (ValueError, OverflowError):
        return False


def write_questions(path: str | Path, questions: Iterable[Question]) -> None:
    """One json line a question, in the order given; atomic."""
    rows = map(asdict, questions)
    write_jsonl(path, ({key: row[key] for key in row if key != "pruned" or row[key] is not None} for row in rows))
