"""How fast a device is and how much it holds: named GPUs by their data sheets, this machine by measurement."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from vsr.errors import VsrError, unknown
from vsr.estimate.dryrun import Trace

GIB = 2**30
ATTAINED, ATTAINED_BANDWIDTH = 0.5, 0.7  # of a data sheet's rates, in practice
ATTAINED_HERE = 0.75  # of one matrix product's rate, by the many shapes of a model's layers
PYTHON = 3  # an operation inside transformers' and peft's modules costs as much Python as this many bare ones
LAUNCH = 5e-6  # seconds to start a bare GPU operation


@dataclass(frozen=True)
class Device:
    """Rates a second: `flops` of matrix products in the model's dtype, `bandwidth` bytes; `overhead` seconds an
    operation, hidden behind the work where the device is `asynchronous`. `memory` bytes; `source` of the rates."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    overhead: float
    asynchronous: bool
    source: str

    def seconds(self, trace: Trace) -> float:
        """Every operation at the device's arithmetic or memory rate, whichever is slower (the roofline)."""
        work = np.maximum(trace.flops / self.flops, trace.traffic / self.bandwidth).sum()
        starts = len(trace.flops) * self.overhead
        return float(max(work, starts) if self.asynchronous else work + starts)


# memory GiB, bf16 (T4: fp16) tensor TFLOP/s without sparsity, GB/s: NVIDIA's data sheets
SHEETS: dict[str, tuple[float, float, float]] = {
    "T4": (16, 65, 320),
    "RTX 4080": (16, 97.5, 717),
    "L4": (24, 121, 300),
    "RTX 3090": (24, 71, 936),
    "RTX 4090": (24, 165, 1008),
    "A100 40GB": (40, 312, 1555),
    "L40S": (48, 362, 864),
    "A100": (80, 312, 2039),
    "H100": (80, 989, 3350),
    "H200": (141, 989, 4800),
}


def named(name: str, gib: float | None = None) -> Device:
    """A GPU by its data sheet, with `gib` GiB of memory instead of its own where given."""
    if name not in SHEETS:
        raise unknown("GPU", name, SHEETS)
    memory, tera, giga = SHEETS[name]
    return Device(
        name=name,
        memory=(gib or memory) * GIB,
        flops=tera * 1e12 * ATTAINED,
        bandwidth=giga * 1e9 * ATTAINED_BANDWIDTH,
        overhead=PYTHON * LAUNCH,
        asynchronous=True,
        source=f"estimated: {ATTAINED:.0%} of {tera:g} TFLOP/s and {ATTAINED_BANDWIDTH:.0%} of {giga:g} GB/s "
        f"(data sheet), {PYTHON * LAUNCH * 1e6:g} us an operation",
    )


def of_size(gib: float) -> Device:
    """A usual GPU with `gib` GiB."""
    if gib <= 0:
        raise VsrError(f"gpu_gib={gib:g}: name the GPU's memory, e.g. 24")
    fitting = [name for name, (memory, *_) in SHEETS.items() if memory <= gib and name != "T4"] or ["RTX 4080"]
    largest = max(SHEETS[name][0] for name in fitting)
    name = next(name for name in fitting if SHEETS[name][0] == largest)
    return replace(named(name, gib), name=f"{gib:g} GiB GPU, as fast as {name}")


def this(dtype: torch.dtype, width: int) -> Device:
    """This machine's GPU, else its CPU, measured in about a second with matrices of a model `width` wide."""
    cuda = torch.cuda.is_available()
    where = torch.device("cuda" if cuda else "cpu")
    left = torch.randn(4096 if cuda else 1024, width, dtype=dtype, device=where)
    right = torch.randn(width, 2 * width, dtype=dtype, device=where)
    long = torch.empty(2**28 if cuda else 2**24, dtype=torch.float32, device=where)
    few = torch.zeros(8, device=where)
    product, copy, small = (_time(f, cuda) for f in (lambda: left @ right, lambda: long.add_(1), lambda: few.add(1)))
    memory = torch.cuda.get_device_properties(where).total_memory if cuda else _physical_memory()
    name = torch.cuda.get_device_name(where) if cuda else f"CPU, {torch.get_num_threads()} threads"
    return Device(
        name=name,
        memory=memory,
        flops=ATTAINED_HERE * 2 * left.numel() * right.shape[1] / product,
        bandwidth=2 * long.numel() * long.itemsize / copy,
        overhead=PYTHON * small,
        asynchronous=cuda,
        source="measured here",
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _time(work: Callable[[], object], cuda: bool, repeats: int = 10) -> float:
    """Seconds of one call, the fastest of several batches."""
    work()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best


def _physical_memory() -> float:
    from vsr.estimate.doctor import memory_bytes

    return float(memory_bytes() or 0)
