"""A process that works for others and hangs ends itself, after writing where its threads stand; who waits for it then
tells the user. faulthandler does that from a thread in C, even when the interpreter is stuck."""

import faulthandler
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vsr.errors import VsrError
from vsr.progress import duration

SECONDS = 1800.0  # without a step: what transformers' `ddp_timeout` gives processes that wait for each other
STEPS = 20  # or so many steps' time, where that is longer
LIMIT = "VSR_HUNG_SECONDS"  # other seconds, whatever a step takes

_file: TextIO | None = None  # of a process that is watched


@dataclass(frozen=True)
class Hung:
    """How a process ended: `step` steps of `total` were done in the folder `run`, then none for `seconds`; where its
    threads stood is in `stacks`."""

    run: Path
    step: int
    total: int
    seconds: float
    stacks: Path

    def __str__(self) -> str:
        return (
            f"{self.run}: hung in step {self.step + 1} of {self.total}, no sign of life for {duration(self.seconds)}; "
            f"its process was ended, where its threads stood is in {self.stacks}; the same command continues"
        )


def watch(path: Path) -> None:
    """Watch this process, from its first step on: before, it may be downloading. `path` will hold its threads."""
    global _file
    rest()
    path.parent.mkdir(parents=True, exist_ok=True)
    _file = path.open("a+")


def stepped(run: Path, step: int, total: int, rate: float) -> None:
    """Wait for the next step from now on, or no more after the last; `rate` in steps a second. Nothing in a process
    that is not watched."""
    if _file is None:
        return
    rest()
    if step < total:
        seconds = limit(rate)
        json.dump({"run": str(run), "step": step, "total": total, "seconds": seconds}, _file)
        _file.write("\n")
        _file.flush()
        faulthandler.dump_traceback_later(seconds, exit=True, file=_file)


def rest() -> None:
    """Wait for nothing: the work is done, or ended on purpose."""
    if _file is not None:
        faulthandler.cancel_dump_traceback_later()
        _file.truncate(0)


def limit(rate: float) -> float:
    """Seconds without a step that end a process of `rate` steps a second (0: unknown). VsrError for a bad setting."""
    if given := os.environ.get(LIMIT):
        try:
            return float(given)
        except ValueError:
            raise VsrError(f"{LIMIT}={given}: expected a number of seconds") from None
    return max(SECONDS, STEPS / rate if rate else 0.0)


def read(path: Path) -> Hung | None:
    """What `path` says of the process watched; None unless it hung."""
    if not path.is_file():
        return None
    first, _, rest_of_it = path.read_text(errors="replace").partition("\n")
    if not rest_of_it.startswith("Timeout"):
        return None
    facts = json.loads(first)
    return Hung(Path(facts.pop("run")), stacks=path, **facts)
