"""The paper's own VSI-100k (OPPOer/VSI-100k: one json file a task), for those who have a copy of it.

Its column names are not documented: the question's and the answer's columns are found by name, the scan by its id in
any text of the row, and the task by the question's wording.
"""

import re
from collections import Counter
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import read_json_value
from vsr.questions import leak
from vsr.questions.build import write
from vsr.questions.hub import fetch
from vsr.questions.question import Question

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


def build(source: str | Path, out: str | Path, *, paper_scenes: bool = False, seed: int = 0) -> None:
    """The questions of a copy (folder or hub id) in the folder `out`, as `vsr build scannet` writes them.

    Rooms of VSI-Bench are left out and counted in the manifest; `paper_scenes` lets them in, with the warning. Videos
    are expected as `out/videos/<scan>.mp4`, as `vsr build scannet --videos` makes them.
    """
    questions = read(source)
    scenes = list(dict.fromkeys(question.scene_name for question in questions))
    left_out = [] if paper_scenes else leak.leaked(scenes)
    kept = [question for question in questions if question.scene_name not in set(left_out)]
    warning = leak.check((question.scene_name for question in kept), source, allowed=paper_scenes)
    write(out, kept, "vsi100k", seed, source=Path(source).name, split="train", warning=warning, left_out=left_out)


def read(source: str | Path) -> list[Question]:
    """All questions of a copy. A row without question, answer or scan is an error naming file, row and columns."""
    folder = Path(source) if Path(source).is_dir() else fetch(source, ["*.json"], "OPPOer/VSI-100k")
    questions: list[Question] = []
    number: Counter = Counter()
    for file in sorted(folder.glob("*.json")):
        rows = read_json_value(file)
        if isinstance(rows, list):
            questions += [_question(row, f"{file}, row {i}", number) for i, row in enumerate(rows)]
    if not questions:
        raise VsrError(f"{folder}: none of its json files is a list of questions; is this VSI-100k?")
    return questions


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
