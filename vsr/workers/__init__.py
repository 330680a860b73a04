"""Processes that work for others: one writer a folder (locks), signs of life for `vsr status`, and a watchdog that ends
a process which hangs. `vsr.workers.pool` runs jobs side by side."""

import errno
import faulthandler
import fcntl
import json
import math
import os
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from vsr.errors import Stopped, VsrError
from vsr.files import atomic_write
from vsr.progress import duration

PATIENCE = 10.0  # seconds: processes of a killed study end within a few, see `pool`
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # file systems without locks go unprotected
BEAT = ".alive.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")
SECONDS = 1800.0  # without a step: what transformers' `ddp_timeout` gives processes that wait for each other
STEPS = 20  # or so many steps' time, where that is longer
LIMIT = "VSR_HUNG_SECONDS"  # other seconds, whatever a step takes
UNTIL = "VSR_UNTIL"  # when this process and those that it starts are to stop, seconds of the monotonic clock

_held: "weakref.WeakValueDictionary[Path, Lock]" = weakref.WeakValueDictionary()
_stacks: TextIO | None = None  # of a process that is watched


def stop_after(hours: float) -> None:
    """Have this process and those that it starts stop in time, after a whole step or some scenes."""
    os.environ[UNTIL] = str(time.monotonic() + 3600 * hours)


def until() -> float:
    """When to stop, seconds of the monotonic clock."""
    return float(os.environ.get(UNTIL, "inf"))


def check_time() -> None:
    """Raise Stopped where the time is over."""
    if time.monotonic() > until():
        raise Stopped("stopped (--max-hours); run it again to continue")


class Lock:
    """An exclusive lock on the file `path`, which has its holder's process id, until `release` or the holder's end."""

    # the system drops it, however the holder ends: no file is ever stale
    # not filelock's: that one unlocks before it closes, which would take the lock from a detached job as well, to which
    # `vsr.train.launch` hands the open file
    def __init__(self, path: Path):
        self.file = path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                self.file.close()
                raise
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def release(self) -> None:
        """Let others in."""
        self.file.close()


def hold(folder: str | Path) -> Lock:
    """The lock of `folder`, which need not exist; the same one again within a process. VsrError where another process
    has it for more than PATIENCE seconds, or where it cannot be written."""
    path = _lock_path(folder)
    if (mine := _held.get(path)) is not None and not mine.file.closed:
        return mine
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _held[path] = lock = Lock(path)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise VsrError(
                    f"{folder}: process {path.read_text().strip()} is working in it; wait until it is done, stop it "
                    "(in a notebook: restart the kernel), or choose another --out"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise VsrError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None


def held(folder: str | Path) -> bool:
    """Whether a living process, this one included, holds the lock of `folder`."""
    try:
        with _lock_path(folder).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock_path(folder: str | Path) -> Path:
    """Beside the folder, not in it: a run folder may be moved aside while it is locked."""
    folder = Path(folder).resolve()
    return folder.parent / ".locks" / f"{folder.name}.lock"


@dataclass(frozen=True)
class Beat:
    """A sign of life: `step` of `total` was done at `at` (monotonic seconds of `boot`), at `rate` steps a second."""

    step: int
    total: int
    rate: float
    at: float
    boot: str
    stopped: str | None = None  # why it ended on purpose

    @property
    def age(self) -> float | None:
        """Seconds since; None after a restart or on another machine, whose clock tells nothing."""
        return time.monotonic() - self.at if self.boot == _boot() else None


class Heart:
    """Beats in `folder` from step `first` on, by one (`written`) of the processes that take the steps together."""

    # a process that is watched has to beat on until its last step

    def __init__(self, folder: Path, first: int, total: int, written: bool = True):
        self.folder, self.first, self.total, self.written = folder, first, total, written
        self.started = time.monotonic()
        self.beat(first)

    def beat(self, step: int, stopped: str | None = None) -> None:
        """Write that `step` is done, and why the work ends here if it does. Raises VsrError if that is impossible."""
        now = time.monotonic()
        rate = (step - self.first) / max(now - self.started, 1e-9)
        if self.written:
            beat = Beat(step, self.total, rate, now, _boot(), stopped)
            atomic_write(self.folder / BEAT, json.dumps(asdict(beat)))
        rest()
        if _stacks is None or step >= self.total or stopped:
            return
        facts = {"run": str(self.folder), "step": step, "total": self.total, "seconds": patience(rate)}
        _stacks.write(json.dumps(facts) + "\n")
        _stacks.flush()
        # faulthandler waits in a thread of C, which runs even when the interpreter is stuck
        faulthandler.dump_traceback_later(facts["seconds"], exit=True, file=_stacks)


def last_beat(folder: str | Path) -> Beat | None:
    """The last beat in a run folder; None without one, or where it cannot be read."""
    try:
        beat = Beat(**json.loads((Path(folder) / BEAT).read_text()))
        whole = math.isfinite(beat.rate + beat.at) and isinstance(beat.step + beat.total, int)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return beat if whole and isinstance(beat.boot, str) else None


def _boot() -> str:
    return BOOT.read_text().strip() if BOOT.is_file() else os.name


@dataclass(frozen=True)
class Hung:
    """How a process ended: after `step` of `total` steps in `run` none for `seconds`."""

    run: Path
    step: int
    total: int
    seconds: float
    stacks: Path

    def __str__(self) -> str:
        what = f"{self.run}: hung in step {self.step + 1} of {self.total}, no sign of life for {duration(self.seconds)}"
        then = f"its process was ended, where its threads stood is in {self.stacks}"
        return f"{what}; {then}; the same command continues"


def watch(path: Path) -> None:
    """Watch this process: after its first beat one that is late ends it, and `path` tells where its threads stood."""
    global _stacks
    rest()
    path.parent.mkdir(parents=True, exist_ok=True)
    _stacks = path.open("a+")


def rest() -> None:
    """Wait for nothing: the work is done, or ended on purpose."""
    if _stacks is not None:
        faulthandler.cancel_dump_traceback_later()
        _stacks.truncate(0)


def patience(rate: float) -> float:
    """Seconds without a step that end a process of `rate` steps a second (0: unknown). VsrError for a bad setting."""
    if given := os.environ.get(LIMIT):
        try:
            return float(given)
        except ValueError:
            raise VsrError(f"{LIMIT}={given}: expected a number of seconds") from None
    return max(SECONDS, STEPS / rate if rate else 0.0)


def hung(path: Path) -> Hung | None:
    """What the file `path` says of the process watched; None unless it hung."""
    if not path.is_file():
        return None
    first, _, stacks = path.read_text(errors="replace").partition("\n")
    if not stacks.startswith("Timeout"):
        return None
    facts = json.loads(first)
    return Hung(Path(facts.pop("run")), stacks=path, **facts)
