"""Independent runs side by side: two processes of one thread beat one of two on a CPU; a GPU takes one at a time."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from vsr import workers
from vsr.errors import VsrError
from vsr.progress import EXECUTED, QUIET

STACKS = ".stacks.txt"  # in a run folder: where the threads of a worker that hung stood
# imported once, by the server that workers are forked from: 11 s for the first pool of a process, half a second for
# every later one. It never touches a GPU, which no fork survives
PRELOADED = ["vsr", "torch", "transformers", "peft", "vsr.evaluate", "vsr.train.baselines"]


@dataclass(frozen=True)
class Job:
    """A call of an importable function that fills a run folder; what it returns is not sent back."""

    name: str
    function: Callable
    arguments: dict = field(default_factory=dict)


def processes(wanted: int) -> int:
    """How many processes to use: one a core, but a single one where a GPU does the work."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, min(wanted, os.cpu_count() or 1))


def run_all(
    jobs: Sequence[Job],
    while_waiting: Callable[[int], None] | None = None,
    every: float = 3.0,
    devices: Sequence[str] = (),
) -> None:
    """Run all jobs, those given first earliest; `while_waiting` gets the number done every few seconds. The first
    failure is a VsrError that names its job; a worker that hung (`vsr.workers.watch`), its run.

    With `devices`, one worker for each, which sees no other ("" is no GPU). Finished run folders make a rerun continue
    where this one stopped."""
    number = len(devices) or processes(len(jobs))
    if number == 1 and not devices:
        for done, job in enumerate(jobs, 1):
            _call(job)
            if while_waiting:
                while_waiting(done)
        return
    # no fork survives a GPU that was touched: there each worker starts from nothing
    context = multiprocessing.get_context("spawn" if any(devices) else "forkserver")
    context.set_forkserver_preload(PRELOADED)
    free = context.SimpleQueue()  # devices that no worker has taken yet
    for device in devices:
        free.put(device)
    with tempfile.TemporaryDirectory(prefix="vsr-") as name:
        stacks = Path(name)
        told = (dict(os.environ), stacks, free if devices else None)
        with ProcessPoolExecutor(number, context, _begin, told) as pool:
            futures = {pool.submit(_call, job): job for job in jobs}
            try:
                _follow(futures, number, stacks, while_waiting, every)
            except BaseException:
                others = list((pool._processes or {}).values())  # which the next line forgets
                pool.shutdown(wait=False, cancel_futures=True)
                for process in others:
                    process.terminate()  # a training keeps a checkpoint
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
                for file in sorted(stacks.iterdir()):
                    if (found := workers.hung(file)) is not None:
                        kept = shutil.copy(file, found.run / STACKS)
                        raise VsrError(str(replace(found, stacks=kept))) from None
                broken = [job.name for one, job in futures.items() if one in waiting or one.exception()]
                names = " or ".join(broken[:number])  # those at work, in the order of submission
                raise VsrError(f"{names}: its process was killed (out of memory?); run again to continue") from None
            except VsrError as error:
                raise VsrError(f"{futures[future].name}: {error}") from None
        if while_waiting:
            while_waiting(len(futures) - len(waiting))


def _begin(environment: dict[str, str], stacks: Path, free: SimpleQueue | None) -> None:
    """A worker of one thread; the server it is forked from has the environment of the first pool."""
    os.environ.clear()
    os.environ.update(environment | {QUIET: "1"})
    os.environ.pop(EXECUTED, None)  # a worker has no notebook to display in
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends its workers
    if free:
        os.environ["CUDA_VISIBLE_DEVICES"] = free.get()  # before torch asks the driver, which reads it once
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        keep_freed()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    workers.watch(stacks / str(os.getpid()))


def keep_freed() -> None:
    """Have glibc keep what is freed, up to 1 GiB: what it gives back the kernel clears anew in each step, which takes
    3 % of a training on a processor."""
    trim, mapped = -1, -3  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, this at most 32 MiB
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # other C libraries have none
        libc.mallopt(mapped, 32 << 20)
        libc.mallopt(trim, 1 << 30)


def _end_with_parent() -> None:
    """A parent that is killed cannot end those that work for it, which would go on writing."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(job: Job) -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it says of file systems and old names would fill the notebook
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
        try:
            job.function(**job.arguments)
        finally:
            workers.rest()
