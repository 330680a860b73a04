"""One writer a folder: a lock that the operating system drops when its holder ends, however it ends.

No file is ever stale, whatever a killed process or a restarted machine left behind."""

import errno
import fcntl
import os
import time
import weakref
from pathlib import Path

from vsr.errors import VsrError

PATIENCE = 10.0  # seconds: processes of a killed study notice that within a few, see vsr.workers.jobs
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # file systems without locks go unprotected

_held: "weakref.WeakValueDictionary[Path, Lock]" = weakref.WeakValueDictionary()


class Lock:
    """An exclusive lock on the file `path`, whose content is the holder's process id. Dropped by `release`, when nobody
    refers to it any more, or when the process ends."""

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
    """The lock of `folder`, which is made if missing; the same one again within a process. VsrError where another
    process has it, or where the folder cannot be written."""
    path = _path(folder)
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


def _path(folder: str | Path) -> Path:
    """Beside the folder, not in it: a run folder may be moved aside while it is locked."""
    folder = Path(folder).resolve()
    return folder.parent / ".locks" / f"{folder.name}.lock"


def held(folder: str | Path) -> bool:
    """Whether a living process, this one included, holds the lock of `folder`."""
    path = _path(folder)
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
