"""What the runs of a results folder are doing: finished, running, silent, stopped or dead."""

from dataclasses import dataclass
from pathlib import Path

from vsr import markdown
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.progress import duration
from vsr.runs import EARLIER, MANIFEST
from vsr.workers import Beat, held, last_beat

SILENT = 600.0  # seconds without a sign of life, or 20 steps' time where that is longer
ATTENTION = {"silent", "stopped", "dead"}


@dataclass(frozen=True)
class Status:
    """One run: 'finished', 'running', 'silent' (alive, but no step for long), 'stopped' (on purpose) or 'dead'."""

    name: str
    state: str
    beat: Beat | None

    def row(self) -> tuple[str, ...]:
        """Name, state, step, steps a minute, last sign of life."""
        if self.beat is None or self.state == "finished":
            return (self.name, self.state, "", "", "")
        beat, age = self.beat, self.beat.age
        state = f"stopped: {beat.stopped}" if self.state == "stopped" else self.state
        last = "before a restart, or elsewhere" if age is None else f"{duration(age)} ago"
        return (self.name, state, f"{beat.step}/{beat.total}", f"{60 * beat.rate:.1f}", last)


def statuses(results: str | Path) -> list[Status]:
    """Every run below `results`, by name; VsrError where there is no such folder."""
    results = Path(results)
    if not results.is_dir():
        raise VsrError(f"{results}: no such folder; name a results folder with --out")
    names = sorted(path.parent.relative_to(results) for path in results.rglob(MANIFEST))
    # nobody waits for those that stepped aside
    return [_status(results / name, str(name)) for name in names if EARLIER not in name.parts]


def table(found: list[Status]) -> str:
    """As Markdown."""
    return markdown.table(("run", "state", "step", "steps a minute", "last sign of life"), [one.row() for one in found])


def _status(folder: Path, name: str) -> Status:
    beat = last_beat(folder)
    if held(folder):
        # no beat, or one of another boot, says nothing
        late = beat and beat.age is not None and beat.age > max(SILENT, 20 / beat.rate if beat.rate else 0.0)
        return Status(name, "silent" if late else "running", beat)
    if read_json(folder / MANIFEST).get("finished"):
        return Status(name, "finished", beat)
    return Status(name, "stopped" if beat and beat.stopped else "dead", beat)
