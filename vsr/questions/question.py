"""The record that every part of the study shares: one question about one scene; what it is before it is chosen; and
many of them, a column a field, so that a million cost what their text does."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import index
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import compute, ipc, parquet

from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint, hash_files, placed_jsonl, read_json, write_jsonl
from vsr.runs import data_folder

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
TEXTS = tuple(name for name in FIELDS if name != "options")
SCHEMA = pyarrow.schema(
    {name: pyarrow.string() if name in TEXTS else pyarrow.list_(pyarrow.string()) for name in FIELDS}
    | {"pruned": pyarrow.bool_()}
)
PART = 1 << 16  # questions at a time, where all are gone through
LARGE = 1 << 22  # bytes of a file whose table is kept on the disk, so that the system can drop and share its pages


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


class Questions(Sequence[Question]):
    """Questions as rows of an Arrow `table` (SCHEMA), those at the places `order` (all: None) in that order; a Question
    is made when it is asked for. `file` is where the table is mapped from: a copy for another process names it."""

    def __init__(self, table: pyarrow.Table, order: Sequence[int] | None = None, file: Path | None = None):
        self.table, self.file = table, file
        self.order = range(len(table)) if order is None else order

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Questions":
        """The same questions in columns."""
        return cls(pyarrow.Table.from_batches(_batches(questions), SCHEMA))

    @classmethod
    def mapped(cls, file: Path, order: Sequence[int] | None = None) -> "Questions":
        """Those in a file of Arrow's stream format, which stays on the disk."""
        return cls(ipc.open_stream(pyarrow.memory_map(str(file))).read_all(), order, file)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return Questions(self.table, self.order[at], self.file)
        place = self.order[index(at)]
        return _question(self.table.slice(place, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Question]:
        return (_question(row) for part in self.parts() for row in part.to_pylist())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __reduce__(self) -> tuple:
        return (Questions.mapped, (self.file, self.order)) if self.file else (Questions, (self.table, self.order))

    def parts(self, *names: str) -> Iterator[pyarrow.Table]:
        """The rows, some columns (all) of PART at a time."""
        table = self.table.select(names or SCHEMA.names)
        for at in range(0, max(1, len(self)), PART):
            order = self.order[at : at + PART]
            whole = isinstance(order, range) and order.step == 1
            yield table.slice(order.start, len(order)) if whole else table.take(np.asarray(order))

    def distinct(self, *names: str) -> list[tuple[str, ...]]:
        """The different values of some fields, in the order in which they come first."""
        table = pyarrow.concat_tables(self.parts(*names))
        found = table.group_by(list(names), use_threads=False).aggregate([])
        return list(zip(*(found[name].to_pylist() for name in names), strict=True))

    def repeated(self) -> str | None:
        """The first id that occurs again."""
        ids = [np.fromiter(map(hash, part["id"].to_pylist()), np.int64) for part in self.parts("id")]
        if len(np.unique(np.concatenate(ids))) == len(self):
            return None  # different hashes are different ids; equal ones have to be looked at
        seen: set[str] = set()
        return next((question.id for question in self if question.id in seen or seen.add(question.id)), None)

    def by_scene(self) -> dict[str, "Questions"]:
        """Each scene's questions; scenes and questions in the order in which they come."""
        names = pyarrow.concat_tables(self.parts("scene_name"))["scene_name"]
        coded = names.dictionary_encode().combine_chunks()
        codes, scenes = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        grouped = (np.diff(codes) >= 0).all()  # as they are built: ranges, which cost nothing
        order = self.order if grouped else np.asarray(self.order)[np.argsort(codes, kind="stable")]
        ends = np.cumsum(np.bincount(codes)).tolist()
        parts = (order[at:end] for at, end in zip([0, *ends], ends, strict=False))
        return {scene: Questions(self.table, part, self.file) for scene, part in zip(scenes, parts, strict=True)}

    def fingerprint(self) -> str:
        """`vsr.files.fingerprint` of the questions as a list of dicts, which is never made."""
        digest, between = hashlib.sha256(b"["), b""
        for part in self.parts():
            digest.update(between)
            digest.update(_json(part))
            between = b", "
        digest.update(b"]")
        return digest.hexdigest()[:16]


def joined(parts: Iterable[Questions]) -> Questions:
    """Parts of one set, one after the other; at least one."""
    parts = list(parts)
    order = np.concatenate([part.order for part in parts])
    order = range(order[0], order[-1] + 1) if (np.diff(order) == 1).all() else order
    return Questions(parts[0].table, order, parts[0].file)


def _question(row: dict) -> Question:
    return Question(**row | {"options": row["options"] and tuple(row["options"])})


def _json(rows: pyarrow.Table) -> bytes | pyarrow.Buffer:
    """Rows as `json.dumps` writes a list of dicts with sorted keys, without its brackets."""
    rows, join = rows.combine_chunks(), compute.binary_join_element_wise
    texts = [*(rows[name] for name in TEXTS), compute.coalesce(compute.binary_join(rows["options"], " "), "")]
    # what json would escape is left to it
    if compute.any(compute.match_substring_regex(join(*texts, ""), r"[^ !#-\[\]-~]")).as_py():
        return json.dumps(rows.to_pylist(), sort_keys=True)[1:-1].encode()
    values = {name: join('"', rows[name], '"', "") for name in TEXTS}
    values["options"] = compute.coalesce(join('["', compute.binary_join(rows["options"], '", "'), '"]', ""), "null")
    values["pruned"] = compute.coalesce(rows["pruned"].cast(pyarrow.string()), "null")
    pairs = [part for name in sorted(values) for part in (f', "{name}": ', values[name])]
    lines = join("{" + pairs[0][2:], *pairs[1:], "}", "").combine_chunks()
    return compute.binary_join(pyarrow.ListArray.from_arrays([0, len(lines)], lines), ", ")[0].as_buffer()


def _batches(questions: Iterable[Question]) -> Iterator[pyarrow.RecordBatch]:
    rows = map(vars, questions)
    parts = iter(lambda: list(islice(rows, PART)), [])
    return (pyarrow.RecordBatch.from_pylist(part, SCHEMA) for part in parts)


def read_questions(path: str | Path) -> Questions:
    """The questions of a jsonl file; those of a LARGE one stay on the disk, in data/questions. A row that is no
    question is an error naming the file, line and field."""
    path = Path(path)
    rows = _batches(from_row(row, where) for where, row in placed_jsonl(path))
    facts = path.stat() if path.is_file() else None
    if facts is None or facts.st_size < LARGE:
        questions = Questions(pyarrow.Table.from_batches(rows, SCHEMA))
    else:
        place = data_folder() / "questions" / fingerprint(str(path.resolve()))
        file = place / f"{facts.st_size}-{facts.st_mtime_ns}.arrow"
        if not file.is_file():
            atomic_write(file, (part.serialize() for part in chain([SCHEMA], _built(path) or rows)))
            for other in set(place.glob("*.arrow")) - {file}:  # of the file as it was; whoever has it open keeps it
                other.unlink(missing_ok=True)
        questions = Questions.mapped(file)
    if not questions:
        raise VsrError(f"{path}: holds no questions; build it again with 'vsr build'")
    return questions


def _built(path: Path) -> Iterator[pyarrow.RecordBatch] | None:
    """The same rows from the parquet table beside them, ten times faster; None unless the manifest of `vsr build`
    vouches for both files."""
    manifest, table = path.with_name("manifest.json"), path.with_name("questions.parquet")
    hashes = read_json(manifest).get("hashes") or {} if manifest.is_file() else {}
    if not table.is_file() or any(hashes.get(file.name) != hash_files(file) for file in (path, table)):
        return None
    parts = parquet.ParquetFile(table, memory_map=True).iter_batches(PART)
    return (part.append_column("pruned", pyarrow.nulls(len(part), pyarrow.bool_())) for part in parts)


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
    rows = map(vars, questions)
    write_jsonl(path, ({key: row[key] for key in row if key != "pruned" or row[key] is not None} for row in rows))
