"""Independent runs side by side: two processes of one thread beat one of two on a CPU; a GPU takes one at a time."""

import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

from vsr.errors import VsrError
from vsr.progress import EXECUTED, QUIET
from vsr.workers import hung

STACKS = ".stacks.txt"  # in a run folder: where the threads of a worker that hung stood


@dataclass(frozen=True)
class Job:
    """A call of an importable function that fills a run folder; what it returns is not sent back."""

    name: str
    function: Callable
    arguments: dict = field(default_factory=dict)


def workers(wanted: int) -> int:
    """How many processes to use: one a core, but a single one where a GPU does the work."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, min(wanted, os.cpu_count() or 1))


def run_all(jobs: Sequence[Job], while_waiting: Callable[[int], None] | None = None, every: float = 3.0) -> None:
    """Run all jobs; `while_waiting` gets the number done every few seconds. The first failure names its job, a worker
    that hung (`vsr.workers.hung`) its run.

    Finished run folders make a rerun continue where this one stopped."""
    number = workers(len(jobs))
    if number == 1:
        for done, job in enumerate(jobs, 1):
            _call(job)
            if while_waiting:
                while_waiting(done)
        return
    with tempfile.TemporaryDirectory(prefix="vsr-") as name:
        stacks = Path(name)
        with ProcessPoolExecutor(number, get_context("spawn"), _begin, (os.getpid(), stacks)) as pool:
            futures = {pool.submit(_call, job): job for job in jobs}
            try:
                _follow(futures, number, stacks, while_waiting, every)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise


def _follow(
    futures: dict[Future, Job], number: int, stacks: Path, while_waiting: Callable[[int], None] | None, every: float
) -> None:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=every, return_when="FIRST_COMPLETED")
        for future in done:
            try:
                future.result()
            except BrokenProcessPool:
                _check_hung(stacks)
                broken = [job.name for one, job in futures.items() if one in waiting or one.exception()]
                names = " or ".join(broken[:number])  # those at work, in the order of submission
                raise VsrError(f"{names}: its process was killed (out of memory?); run again to continue") from None
            except VsrError as error:
                raise VsrError(f"{futures[future].name}: {error}") from None
        if while_waiting:
            while_waiting(len(futures) - len(waiting))


def _check_hung(stacks: Path) -> None:
    """Raise VsrError if a worker hung; where its threads stood stays in its run folder."""
    for file in sorted(stacks.iterdir()):
        if (found := hung.read(file)) is not None:
            kept = shutil.copy(file, found.run / STACKS)
            raise VsrError(str(replace(found, stacks=kept))) from None


def _begin(parent: int, stacks: Path) -> None:
    """A worker of one thread."""
    os.environ.pop(EXECUTED, None)  # a worker has no notebook to display in
    os.environ[QUIET] = "1"
    import torch

    torch.set_num_threads(1)
    end_with(parent)
    hung.watch(stacks / str(os.getpid()))


def end_with(parent: int) -> None:
    """Have this process end within seconds of its `parent`: killed, that cannot end those that work for it, which would
    go on writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(job: Job) -> float:
    from transformers.utils import logging

    started = time.monotonic()
    logging.set_verbosity_error()  # what it says of file systems and old names would fill the notebook
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
        try:
            job.function(**job.arguments)
        finally:
            hung.rest()
    return time.monotonic() - started
