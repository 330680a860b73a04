"""The record that every part of the study shares: one question about one scene; and what it is before it is chosen."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import read_text, write_jsonl

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
    path = Path(path)
    if not path.is_file():
        raise VsrError(f"{path}: no such questions file; make one with 'vsr build'")
    questions = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise VsrError(f"{where}: not valid json ({error}); is the file cut short?") from None
        questions.append(from_row(row, where))
    if not questions:
        raise VsrError(f"{path}: holds no questions; build it again with 'vsr build'")
    return questions


def from_row(row: object, where: str) -> Question:
    """The question of a row in VSI-Bench's columns; `where` names the row in errors."""
    if not isinstance(row, dict):
        raise VsrError(f"{where}: expected an object, found {type(row).__name__}")
    missing = [name for name in FIELDS if name not in row and name != "options"]
    if missing:
        raise VsrError(f"{where}: field '{missing[0]}' is missing; a question has {', '.join(FIELDS)}")
    known = (*TYPES, FREE_DIRECTION)
    if row["question_type"] not in known:
        raise VsrError(f"{where}: question_type '{row['question_type']}' is none of {', '.join(known)}")
    options = row.get("options")
    if not isinstance(options, list | tuple | None):
        raise VsrError(f"{where}: options {options!r}: expected a list of texts, or null")
    words = {name: str(row[name]) for name in FIELDS if name != "options"}  # ids are numbers in the released files
    return Question(**words, options=tuple(map(str, options)) if options else None, pruned=row.get("pruned"))


def write_questions(path: str | Path, questions: Iterable[Question]) -> None:
    """One json line a question, in the order given; atomic."""
    rows = map(asdict, questions)
    write_jsonl(path, ({key: row[key] for key in row if key != "pruned" or row[key] is not None} for row in rows))
