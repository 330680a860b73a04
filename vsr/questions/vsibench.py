"""VSI-Bench itself (nyu-visionx/VSI-Bench): from the hub, a folder or its archives, whole or as its two halves."""

import shutil
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

from vsr import runs
from vsr.errors import VsrError, unknown
from vsr.questions import bench
from vsr.questions.bench import Bench
from vsr.questions.hub import fetch
from vsr.questions.question import Question, from_row, read_questions

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


def open_bench(source: str | Path, config: str = "full", subset: bool = False) -> Bench:
    """The questions and videos behind a name: a folder made by `vsr build`, or VSI-Bench as `load` takes it."""
    if (Path(source) / "questions.jsonl").is_file():
        if config != "full":
            raise VsrError(f"{source}: no VSI-Bench, so it has no part '{config}'")
        return bench.load(source)
    return load(source, config, subset)


def load(source: str | Path, config: str = "full", subset: bool = False, videos: str | Path | None = None) -> Bench:
    """VSI-Bench from a hub id, a folder with its files, one of its archives, or its questions file.

    `config` is 'full', 'debiased' or 'pruned'. The official number of questions per type is checked unless `subset`.
    Videos that are not unpacked yet are taken out of the archives, into `videos` (default: the folder itself); those
    that are nowhere are listed by `Bench.missing`, stay in the questions and count as wrong answers.
    """
    if config not in TOTALS:
        raise unknown("config", config, TOTALS)
    folder, file = _folder(source)
    unpacked = folder if Path(source).exists() else runs.ROOT / "data" / "vsi-bench"  # not into the hub's cache
    target = Path(videos or unpacked)
    questions = _half(_read(file), folder, config, file)
    if not subset:
        _check_counts(questions, config, file)
    _unpack(folder, target, questions)
    return Bench(target, tuple(questions))


def _folder(source: str | Path) -> tuple[Path, Path]:
    """The folder of a copy and its questions file."""
    path = Path(source)
    if not path.exists():
        wanted = ["test.jsonl", "test-*.parquet", PRUNED_IDS, *(f"{dataset}.zip" for dataset in DATASETS)]
        path = fetch(source, wanted, "nyu-visionx/VSI-Bench")
    if path.suffix in (".jsonl", ".parquet"):
        return path.parent, path
    folder = path if path.is_dir() else path.parent
    found = [folder / "test.jsonl", *sorted(folder.glob("test-*.parquet")), *sorted(folder.glob("data/test-*.parquet"))]
    found = [file for file in found if file.is_file()]
    if not found:
        raise VsrError(f"{folder}: holds no test.jsonl and no test-*.parquet; is this VSI-Bench?")
    return folder, found[0]


def _read(file: Path) -> list[Question]:
    if file.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            rows = parquet.read_table(file).to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            raise VsrError(f"{file}: not a readable parquet table ({error}); {REMEDY}") from None
        questions = [from_row(row, f"{file}, row {number}") for number, row in enumerate(rows)]
    else:
        questions = read_questions(file)
    twice = [name for name, times in Counter(question.id for question in questions).items() if times > 1]
    if twice:
        raise VsrError(f"{file}: id {twice[0]} occurs more than once; {REMEDY}")
    return questions


def _half(questions: list[Question], folder: Path, config: str, file: Path) -> list[Question]:
    """The rows of a config: by pruned_ids.txt joined on id, else by the rows' own mark."""
    if config == "full":
        return questions
    listed = folder / PRUNED_IDS
    if listed.is_file():
        pruned = set(listed.read_text(encoding="utf-8", errors="replace").split())
        strange = pruned - {question.id for question in questions}
        if strange:
            raise VsrError(
                f"{listed}: id {min(strange)} is not in {file.name}; take both from one version of VSI-Bench"
            )
    elif all(question.pruned is not None for question in questions):
        pruned = {question.id for question in questions if question.pruned}
    else:
        raise VsrError(f"{file}: '{config}' needs {PRUNED_IDS} beside it, or a column 'pruned'; neither is there")
    return [question for question in questions if (question.id in pruned) == (config == "pruned")]


def _check_counts(questions: list[Question], config: str, file: Path) -> None:
    found = Counter(question.question_type for question in questions)
    for kind, number in COUNTS.items():
        if config == "full" and found[kind] != number:
            raise VsrError(f"{file}: {found[kind]} questions of type {kind}, VSI-Bench has {number}; {REMEDY}")
    if len(questions) != TOTALS[config]:
        raise VsrError(f"{file}: {len(questions)} questions, VSI-Bench ({config}) has {TOTALS[config]}; {REMEDY}")


def _unpack(folder: Path, target: Path, questions: list[Question]) -> None:
    """Take out of the archives the videos that are asked about and are not there yet."""
    wanted: dict[str, set[str]] = {}
    for question in questions:
        wanted.setdefault(question.dataset, set()).add(question.scene_name)
    for dataset, scenes in sorted(wanted.items()):
        archive = folder / f"{dataset}.zip"
        places = [target / "videos", target / dataset]
        missing = {name for name in scenes if not any((place / f"{name}.mp4").is_file() for place in places)}
        if missing and archive.is_file():
            extract(archive, target / dataset, missing)


def extract(archive: str | Path, target: str | Path, scenes: set[str]) -> list[str]:
    """Write `<scene>.mp4` of the wanted scenes from an archive to the folder `target`; the scenes found there.

    Nothing else is unpacked. An archive with a name that leads out of its folder, with a wrong checksum or with a
    password is refused, naming the entry.
    """
    archive, target, found = Path(archive), Path(target), []
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                _check_name(archive, entry.filename)
            for entry in opened.infolist():
                name = PurePosixPath(entry.filename)
                if name.suffix == ".mp4" and name.stem in scenes and not entry.is_dir():
                    _write_entry(opened, entry, target / name.name)
                    found.append(name.stem)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise VsrError(f"{archive}: not a whole zip archive ({error}); download it again") from None
    return found


def _check_name(archive: Path, name: str) -> None:
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise VsrError(f"{archive}: entry '{name}' leads out of the folder: refused; download VSI-Bench again")


def _write_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.zip.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        temporary.replace(path)
    except OSError as error:
        raise VsrError(f"{path}: could not be written ({error.strerror}); free some space") from None
    finally:
        temporary.unlink(missing_ok=True)
