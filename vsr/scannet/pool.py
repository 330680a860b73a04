"""The same work on many scans in several processes, without holding all tasks or results in memory."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vsr.errors import VsrError

Task, Result = TypeVar("Task"), TypeVar("Result")
AHEAD = 4  # tasks handed to each worker in advance
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # one a worker: they are inherited when it starts


def each(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results of an importable function in the order in which they are done, in this process for one worker.
    Workers are spawned, not forked. One that dies is an error that says how to go on."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=multiprocessing.get_context("spawn"))
    queue, running = iter(tasks), set[Future]()
    try:
        while True:
            while len(running) < AHEAD * workers and (task := next(queue, None)) is not None:
                running.add(pool.submit(work, task))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise VsrError("a worker process died (out of memory?); run it again, with --workers 1 if need be") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
