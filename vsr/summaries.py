"""Finished runs as tables, figures and claims read them: the folder's manifest and summary, nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.runs import read_json, read_jsonl

AVERAGES = {"overall": "avg", "trained": "trained six"}
COLUMNS: dict[str, str] = AVERAGES | TASKS  # a summary's numbers and their column heads


@dataclass(frozen=True)
class Value:
    """A score in percent with its 95 % interval, where there is one."""

    score: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.score:.1f}"
        return f"{self.score:.1f} [{self.low:.1f}, {self.high:.1f}]"


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
    if not isinstance(summary.get("tasks"), dict):
        raise VsrError(f"{folder / 'summary.json'}: 'tasks' is missing; evaluate again with 'vsr evaluate'")
    if summary.get("run") != manifest.get("id"):
        raise VsrError(
            f"{folder / 'summary.json'}: it says run '{summary.get('run')}', the manifest says '{manifest.get('id')}'; "
            "evaluate again with 'vsr evaluate'"
        )
    return Run(name, manifest["id"], folder, summary)


def find_all(results: Path, names: Iterable[str]) -> dict[str, Run]:
    """The finished ones among the runs of these names."""
    found = {name: find(results, name) for name in names}
    return {name: run for name, run in found.items() if run is not None}
