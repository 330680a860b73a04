"""The paper's own VSI-100k (OPPOer/VSI-100k: one json file a task), for those who have a copy of it.

Its column names are not documented: the question's and the answer's columns are found by name, the scan by its id in
any text of the row, and the task by the question's wording.
"""

import re
from collections import Counter
from pathlib import Path

from vsr.errors import VsrError
from vsr.questions.bench import Bench
from vsr.questions.question import Question
from vsr.runs import read_json

QUESTION = ("question", "problem", "query", "instruction", "prompt")
ANSWER = ("ground_truth", "answer", "solution", "gt", "response", "label")
SCAN = re.compile(r"scene\d{4}_\d{2}")
WORDING = {
    "object_counting": "How many ",
    "object_size_estimation": "longest dimension",
    "room_size_estimation": "size of this room",
    "object_abs_distance": "distance between the ",
    "object_rel_distance": "closest to the ",
    "object_rel_direction": "to the left or the right",
}


def is_copy(source: str | Path) -> bool:
    """Whether a folder looks like a copy of VSI-100k."""
    folder = Path(source)
    return folder.is_dir() and (folder / "object_counting.json").is_file()


def load(source: str | Path) -> Bench:
    """The questions of a copy of VSI-100k; its videos are expected as `videos/<scan>.mp4`, as `vsr build scannet
    --videos` makes them. A row without question, answer or scan is an error naming file, row and columns."""
    folder = Path(source)
    questions: list[Question] = []
    number: Counter = Counter()
    for file in sorted(folder.glob("*.json")):
        rows = read_json(file)
        if not isinstance(rows, list):
            continue
        for i, row in enumerate(rows):
            question = _question(row, f"{file}, row {i}", number)
            questions.append(question)
    if not questions:
        raise VsrError(f"{folder}: none of its json files is a list of questions; is this VSI-100k?")
    return Bench(folder, tuple(questions))


def _question(row: object, where: str, number: Counter) -> Question:
    if not isinstance(row, dict):
        raise VsrError(f"{where}: expected an object, found {type(row).__name__}")
    text, answer = _column(row, QUESTION, "question", where), _column(row, ANSWER, "answer", where)
    scans = [match[0] for value in row.values() if isinstance(value, str) and (match := SCAN.search(value))]
    if not scans:
        raise VsrError(f"{where}: no scan id such as scene0000_00 in its columns ({', '.join(row)})")
    kind = next((kind for kind, words in WORDING.items() if words in text), None)
    if kind is None:
        raise VsrError(f"{where}: '{text[:80]}' is worded as none of the paper's six tasks")
    name = f"{scans[0]}-{kind}-{number[scans[0], kind]}"
    number[scans[0], kind] += 1
    answer = re.sub(r"</?answer>", "", answer).strip()
    return Question(name, "scannet", scans[0], kind, text, None, answer)


def _column(row: dict, names: tuple[str, ...], what: str, where: str) -> str:
    found = [str(row[name]) for name in names if row.get(name) not in (None, "")]
    if not found:
        raise VsrError(f"{where}: no {what}: none of the columns {', '.join(names)} among {', '.join(row)}")
    return found[0]
