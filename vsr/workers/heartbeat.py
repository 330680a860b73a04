"""A sign of life in a run folder, written whole after every step and read by `vsr status`.

Times are of the system's monotonic clock, which all processes share and nobody sets; they are compared only within one
boot of one machine."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vsr.files import atomic_write
from vsr.workers import hung

NAME = ".alive.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Beat:
    """`step` of `total` was done at `at` (monotonic seconds of `boot`), at `rate` steps a second since this process
    began; `stopped` says why it ended on purpose, or None."""

    step: int
    total: int
    rate: float
    at: float
    boot: str
    stopped: str | None = None

    @property
    def age(self) -> float | None:
        """Seconds since; None after a restart or on another machine, whose clock tells nothing."""
        return time.monotonic() - self.at if self.boot == _boot() else None


class Heart:
    """Beats in `folder` from step `first` on; `written` by one of the processes that take the steps together. A process
    that is watched (`vsr.workers.hung`) has to beat on until its last step."""

    def __init__(self, folder: Path, first: int, total: int, written: bool = True):
        self.path, self.first, self.total, self.written = folder / NAME, first, total, written
        self.started = time.monotonic()
        self.beat(first)

    def beat(self, step: int, stopped: str | None = None) -> None:
        """Write that `step` is done, and why the work ends here if it does. Raises VsrError if that is impossible."""
        now = time.monotonic()
        rate = (step - self.first) / max(now - self.started, 1e-9)
        if self.written:
            atomic_write(self.path, json.dumps(asdict(Beat(step, self.total, rate, now, _boot(), stopped))))
        hung.stepped(self.path.parent, self.total if stopped else step, self.total, rate)


def read(folder: str | Path) -> Beat | None:
    """The last beat in a run folder; None without one, or where it cannot be read."""
    try:
        beat = Beat(**json.loads((Path(folder) / NAME).read_text()))
        whole = math.isfinite(beat.rate + beat.at) and isinstance(beat.step + beat.total, int)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return beat if whole and isinstance(beat.boot, str) else None


def _boot() -> str:
    return BOOT.read_text().strip() if BOOT.is_file() else os.name
