"""Finished evaluations as tables, figures and claims read them, one seed or all seeds of a method.

In a name `*` stands for the number of the seed: `eval-sft-seed*-vanilla-true` is every seed of SFT.
"""

import re
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl
from vsr.paper import TASKS
from vsr.scoring import answered, intervals
from vsr.scoring.intervals import Answers, Value

AVERAGES = {"overall": "avg", "trained": "trained six"}
COLUMNS: dict[str, str] = AVERAGES | TASKS  # a summary's numbers and their column heads


@dataclass(frozen=True)
class Run:
    """One finished evaluation: its folder's name, its manifest's id and its summary."""

    name: str
    id: str
    path: Path
    summary: dict

    def value(self, column: str) -> Value | None:
        """The number of one of COLUMNS; None where no question asked for it."""
        if column in AVERAGES:
            found = self.summary.get(column)
            low, high = self.summary.get(f"{column}_low"), self.summary.get(f"{column}_high")
        else:
            task = self.summary["tasks"].get(column, {})
            found, low, high = task.get("score"), task.get("low"), task.get("high")
        return None if found is None else Value(float(found), low, high)

    def values(self) -> dict[str, Value | None]:
        """All COLUMNS."""
        return {column: self.value(column) for column in COLUMNS}

    @property
    def warning(self) -> str | None:
        """What has to be said with every number of this run: its model was trained on rooms of the benchmark."""
        return self.summary.get("model", {}).get("warning")

    def samples(self) -> list[dict]:
        """The answers that the summary was made from."""
        return list(read_jsonl(self.path / "samples.jsonl"))


def find(results: Path, name: str) -> Run | None:
    """The finished run of that name, None if there is none; a summary of another run's numbers is an error."""
    folder = Path(results) / name
    if not (folder / "summary.json").is_file() or not (folder / "manifest.json").is_file():
        return None
    manifest, summary = read_json(folder / "manifest.json"), read_json(folder / "summary.json")
    tasks = summary.get("tasks")
    if not isinstance(tasks, dict) or not all(map(_numbers, [_averages(summary), *tasks.values()])):
        raise VsrError(f"{folder / 'summary.json'}: 'tasks' or a number is missing; evaluate again with 'vsr evaluate'")
    if summary.get("run") != manifest.get("id") or not isinstance(summary.get("run"), str):
        raise VsrError(
            f"{folder / 'summary.json'}: it says run '{summary.get('run')}', the manifest says '{manifest.get('id')}'; "
            "evaluate again with 'vsr evaluate'"
        )
    return Run(name, manifest["id"], folder, summary)


def _averages(summary: dict) -> dict:
    return {key: summary.get(key) for name in AVERAGES for key in (name, f"{name}_low", f"{name}_high")}


def _numbers(values: object) -> bool:
    """Whether all values are numbers that a float can hold, or missing."""

    def is_number(value: object) -> bool:
        return value is None or (type(value) in (int, float) and not abs(value) > sys.float_info.max)

    return isinstance(values, dict) and all(map(is_number, values.values()))


@dataclass(frozen=True)
class Evaluation:
    """All seeds of a method under one prompt and one kind of video; `name` is the pattern that found them."""

    name: str
    runs: tuple[Run, ...]

    @property
    def id(self) -> str:
        """The runs' ids."""
        return ", ".join(run.id for run in self.runs)

    @property
    def warning(self) -> str | None:
        """What has to be said with every number of these runs: see `Run.warning`."""
        return next((run.warning for run in self.runs if run.warning), None)

    @cached_property
    def answers(self) -> Answers:
        """Every question's score by every seed."""
        return intervals.stack([_answers(run.path / "samples.jsonl") for run in self.runs])

    def value(self, column: str) -> Value | None:
        """The number of one of COLUMNS: of a single run from its summary, of several seeds their mean."""
        return self.runs[0].value(column) if len(self.runs) == 1 else self.answers.value(column)

    def values(self) -> dict[str, Value | None]:
        """All COLUMNS."""
        return {column: self.value(column) for column in COLUMNS}


def evaluation(results: str | Path, name: str) -> Evaluation | None:
    """The finished runs of a name, `*` being any seed; None if there are none."""
    runs = [run for one in matching(Path(results), name) if (run := find(Path(results), one)) is not None]
    return Evaluation(name, tuple(runs)) if runs else None


def matching(results: Path, name: str) -> list[str]:
    """The folders in `results` of that name, in the order of their seeds."""
    if "*" not in name:
        return [name]
    pattern = re.compile(re.escape(name).replace(re.escape("*"), r"(\d+)"))
    found = [(int(match[1]), path.name) for path in results.glob(name) if (match := pattern.fullmatch(path.name))]
    return [folder for _, folder in sorted(found)]


def _answers(path: Path) -> Answers:
    stat = path.stat() if path.is_file() else None
    return _read_answers(path, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=256)
def _read_answers(path: Path, stamp: tuple[int, int] | None) -> Answers:
    """A report reads the same answers for tables, figures and verdicts; `stamp` is the state of the file."""
    try:
        return answered(list(read_jsonl(path)))
    except VsrError as error:
        raise VsrError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
