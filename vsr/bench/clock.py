"""The benchmarks' clock."""

import time
from collections.abc import Callable

import torch


def now() -> float:
    """Seconds: on the CPU, where everything runs on one thread, the processor's, which other programs do not stretch;
    on a GPU the wall's, after all work handed to it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    started = now()
    work()
    return now() - started
