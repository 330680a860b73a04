"""Questions with their videos, read from wherever they are: a folder that `vsr build` made, VSI-Bench itself
(nyu-visionx/VSI-Bench: hub, folder or archives, whole or as its two halves), and the paper's own VSI-100k."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vsr.errors import VsrError, unknown
from vsr.files import extract, read_json_value, read_text
from vsr.questions import leak
from vsr.questions.build import write
from vsr.questions.question import NUMERICAL, Question, Questions, from_row, read_questions
from vsr.runs import data_folder
from vsr.scenes.scene import Scene, load_scenes

NAMES = ("questions.jsonl", "test.jsonl")  # ours, and VSI-Bench's on the hub
DOORS = (
    "'vsr build scannet' and 'vsr build vsi100k' make training questions, 'vsr build procedural' rooms; a bench folder "
    "holds VSI-Bench's files as they are downloaded"
)


@dataclass(frozen=True)
class QuestionSet:
    """Questions with their videos: `videos/<scene>.mp4` as `vsr build` makes them, or `<dataset>/<scene>.mp4` as
    VSI-Bench's archives unpack."""

    folder: Path
    questions: Questions

    def video_path(self, scene_name: str) -> Path:
        """The scene's video, or where it should be: a missing one counts as wrong answers and must not vanish."""
        folders = ["videos", *self._datasets.get(scene_name, ())]
        places = [self.folder / name / f"{scene_name}.mp4" for name in folders]
        return next((path for path in places if path.is_file()), places[0])

    @cached_property
    def missing(self) -> list[str]:
        """The scenes that are asked about and have no video, in the questions' order."""
        return [name for name in self._datasets if not self.video_path(name).is_file()]

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """The rooms themselves by id; none where a set has questions and videos alone, as VSI-Bench has."""
        path = self.folder / "scenes.jsonl"
        return {scene.id: scene for scene in load_scenes(path)} if path.is_file() else {}

    @cached_property
    def _datasets(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for scene, dataset in self.questions.distinct("scene_name", "dataset"):
            found.setdefault(scene, []).append(dataset)
        return found


def load(folder: str | Path) -> QuestionSet:
    """The set in a folder: questions.jsonl, or VSI-Bench's test.jsonl. Missing videos are listed by `missing`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise VsrError(f"{folder}: no such folder; {DOORS}")
    names = [name for name in NAMES if (folder / name).is_file()]
    if not names:
        raise VsrError(f"{folder}: holds none of {', '.join(NAMES)}; {DOORS}")
    return QuestionSet(folder, read_questions(folder / names[0]))


# --- VSI-Bench ---
COUNTS = {
    "object_counting": 565,
    "object_abs_distance": 834,
    "object_size_estimation": 953,
    "room_size_estimation": 288,
    "object_rel_distance": 710,
    "object_rel_direction_easy": 217,
    "object_rel_direction_medium": 378,
    "object_rel_direction_hard": 373,
    "route_planning": 194,
    "obj_appearance_order": 618,
}
TOTALS = {"full": 5130, "debiased": 2362, "pruned": 2768}  # the debiased half leaves out what text alone gives away
DATASETS = ("arkitscenes", "scannet", "scannetpp")
PRUNED_IDS = "pruned_ids.txt"
REMEDY = "download it again, or say --subset if it is meant to be a part of VSI-Bench"


def open_bench(source: str | Path, config: str = "full", subset: bool = False) -> QuestionSet:
    """The questions and videos behind a name: a folder made by `vsr build`, or VSI-Bench (`load_vsibench`)."""
    if (Path(source) / "questions.jsonl").is_file():
        if config != "full":
            raise VsrError(f"{source}: no VSI-Bench, so it has no part '{config}'")
        return load(source)
    return load_vsibench(source, config, subset)


def load_vsibench(
    source: str | Path, config: str = "full", subset: bool = False, videos: str | Path | None = None
) -> QuestionSet:
    """VSI-Bench from a hub id, a folder with its files, one of its archives, or its questions file.

    `config` is 'full', 'debiased' or 'pruned'. The official number of questions per type is checked unless `subset`.
    Videos that are not unpacked yet are taken out of the archives, into `videos` (default: the folder itself); those
    that are nowhere are listed by `QuestionSet.missing`, stay in the questions and count as wrong answers.
    """
    if config not in TOTALS:
        raise unknown("config", config, TOTALS)
    folder, file = _copy(source)
    unpacked = folder if Path(source).exists() else data_folder() / "vsi-bench"  # not into the hub's cache
    target = Path(videos or unpacked)
    questions = _half(_read(file), folder, config, file)
    if not questions:
        raise VsrError(f"{file}: none of its questions is in the part '{config}' of VSI-Bench; {REMEDY}")
    found = Counter(question.question_type for question in questions)
    for kind, number in () if subset or config != "full" else COUNTS.items():
        if found[kind] != number:
            raise VsrError(f"{file}: {found[kind]} questions of type {kind}, VSI-Bench has {number}; {REMEDY}")
    if len(questions) != TOTALS[config] and not subset:
        raise VsrError(f"{file}: {len(questions)} questions, VSI-Bench ({config}) has {TOTALS[config]}; {REMEDY}")
    _unpack(folder, target, questions)
    return QuestionSet(target, questions)


def _copy(source: str | Path) -> tuple[Path, Path]:
    """The folder of a copy and its questions file."""
    path = Path(source)
    if not path.exists():
        wanted = ["test.jsonl", "test-*.parquet", PRUNED_IDS, *(f"{dataset}.zip" for dataset in DATASETS)]
        path = _fetch(source, wanted, "nyu-visionx/VSI-Bench")
    if path.suffix in (".jsonl", ".parquet"):
        return path.parent, path
    folder = path if path.is_dir() else path.parent
    names = ("test.jsonl", "test-*.parquet", "data/test-*.parquet")
    found = [file for name in names for file in sorted(folder.glob(name)) if file.is_file()]
    if not found:
        raise VsrError(f"{folder}: holds no test.jsonl and no test-*.parquet; is this VSI-Bench?")
    return folder, found[0]


def _read(file: Path) -> Questions:
    if file.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            rows = parquet.read_table(file).to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            raise VsrError(f"{file}: not a readable parquet table ({error}); {REMEDY}") from None
        questions = Questions.of(from_row(row, f"{file}, row {number}") for number, row in enumerate(rows))
    else:
        questions = read_questions(file)
    if (twice := questions.repeated()) is not None:
        raise VsrError(f"{file}: id {twice} occurs more than once; {REMEDY}")
    return questions


def _half(questions: Questions, folder: Path, config: str, file: Path) -> Questions:
    """The rows of a config: by pruned_ids.txt joined on id, else by the rows' own mark."""
    if config == "full":
        return questions
    listed = folder / PRUNED_IDS
    if listed.is_file():
        pruned = set(read_text(listed).split())
        strange = pruned - {question.id for question in questions}
        if strange:
            why = f"id {min(strange)} is not in {file.name}"
            raise VsrError(f"{listed}: {why}; take both from one version of VSI-Bench")
    elif all(question.pruned is not None for question in questions):
        pruned = {question.id for question in questions if question.pruned}
    else:
        raise VsrError(f"{file}: '{config}' needs {PRUNED_IDS} beside it, or a column 'pruned'; neither is there")
    return Questions.of(question for question in questions if (question.id in pruned) == (config == "pruned"))


def _unpack(folder: Path, target: Path, questions: Questions) -> None:
    """Take out of the archives the videos that are asked about and are not there yet."""
    wanted: dict[str, set[str]] = {}
    for dataset, scene in questions.distinct("dataset", "scene_name"):
        wanted.setdefault(dataset, set()).add(scene)
    for dataset, scenes in sorted(wanted.items()):
        archive = folder / f"{dataset}.zip"
        places = [target / "videos", target / dataset]
        missing = {name for name in scenes if not any((place / f"{name}.mp4").is_file() for place in places)}
        if missing and archive.is_file():
            extract(archive, target / dataset, missing)


# --- the paper's VSI-100k: one json file a task ---
# Its column names are not documented: the question's and the answer's columns are found by name, the scan by its id in
# any text of the row, and the task by the question's wording.
QUESTION = ("question", "problem", "query", "instruction", "prompt")
ANSWER = ("ground_truth", "answer", "solution", "gt", "response", "label")
WORDING = {
    "object_counting": "How many ",
    "object_size_estimation": "longest dimension",
    "room_size_estimation": "size of this room",
    "object_abs_distance": "distance between the ",
    "object_rel_distance": "closest to the ",
    "object_rel_direction": "to the left or the right",
}


def build_vsi100k(source: str | Path, out: str | Path, *, paper_scenes: bool = False, seed: int = 0) -> None:
    """The questions of a copy (folder or hub id) in the folder `out`, as `vsr build scannet` writes them.

    Rooms of VSI-Bench are left out and counted in the manifest; `paper_scenes` lets them in, with the warning. Videos
    are expected as `out/videos/<scan>.mp4`, as `vsr build scannet --videos` makes them.
    """
    questions = read_vsi100k(source)
    scenes = list(dict.fromkeys(question.scene_name for question in questions))
    left_out = [] if paper_scenes else leak.leaked(scenes)
    kept = [question for question in questions if question.scene_name not in set(left_out)]
    warning = leak.check((question.scene_name for question in kept), source, allowed=paper_scenes)
    write(out, kept, "vsi100k", seed, source=Path(source).name, split="train", warning=warning, left_out=left_out)


def read_vsi100k(source: str | Path) -> list[Question]:
    """All questions of a copy. A row without question, answer or scan is an error naming file, row and columns."""
    folder = Path(source) if Path(source).is_dir() else _fetch(source, ["*.json"], "OPPOer/VSI-100k")
    questions, number = [], Counter()
    for file in sorted(folder.glob("[!.]*.json")):  # macOS leaves ._a.json beside a.json
        rows = read_json_value(file)
        if isinstance(rows, list):
            questions += [_paper_row(row, f"{file}, row {i}", number) for i, row in enumerate(rows)]
    if not questions:
        raise VsrError(f"{folder}: none of its json files is a list of questions; is this VSI-100k?")
    return questions


def _paper_row(row: object, where: str, number: Counter) -> Question:
    if not isinstance(row, dict):
        raise VsrError(f"{where}: expected an object, found {type(row).__name__}")
    text, answer = _column(row, QUESTION, "question", where), _column(row, ANSWER, "answer", where)
    scans = [match[0] for value in row.values() if isinstance(value, str) and (match := leak.SCAN.search(value))]
    if not scans:
        raise VsrError(f"{where}: no scan id such as scene0000_00 in its columns ({', '.join(row)})")
    kind = next((kind for kind, words in WORDING.items() if words in text), None)
    if kind is None:
        raise VsrError(f"{where}: '{text[:80]}' is worded as none of the paper's six tasks")
    name = f"{scans[0]}-{kind}-{number[scans[0], kind]}"
    number[scans[0], kind] += 1
    answer = re.sub(r"</?answer>", "", answer).strip()
    if kind not in NUMERICAL and not re.search(rf"\b{re.escape(answer)}\b", text, re.IGNORECASE):
        raise VsrError(f"{where}: {answer!r} is none of the answers that '{text[:80]}' offers")
    row = {"id": name, "dataset": "scannet", "scene_name": scans[0], "question_type": kind, "question": text}
    return from_row(row | {"ground_truth": answer}, where)


def _column(row: dict, names: tuple[str, ...], what: str, where: str) -> str:
    found = [row[name] for name in names if row.get(name) not in (None, "")]
    if not found:
        raise VsrError(f"{where}: no {what}: none of the columns {', '.join(names)} among {', '.join(row)}")
    if not isinstance(found[0], str | int | float) or isinstance(found[0], bool):
        raise VsrError(f"{where}: {what} {found[0]!r}: expected text or a number")
    return str(found[0])


def _fetch(name: str | Path, wanted: Sequence[str], example: str) -> Path:
    """The folder of a data set's files that match `wanted`, downloaded unless they are in the hub's cache. What is no
    hub id, and what cannot be had, are errors that say what to give instead."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise VsrError(f"{name}: no such folder; give a folder, or a hub id like {example}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), repo_type="dataset", allow_patterns=list(wanted)))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VsrError(f"{name}: cannot be downloaded ({reason}); give a folder that holds it instead") from None
