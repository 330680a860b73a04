"""How fast a device is and how much it holds: named GPUs by their data sheets, this machine by measurement; and what
each profile can do here (`vsr doctor`), for which nothing is run."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.benchmark import Timer

from vsr import runs
from vsr.errors import VsrError, unknown
from vsr.profiles import PROFILES, Profile

GIB = 2**30
ATTAINED, ATTAINED_BANDWIDTH = 0.5, 0.7  # of a data sheet's rates, in practice
ATTAINED_HERE = 0.75  # of one matrix product's rate, by the many shapes of a model's layers
# an operation inside transformers' and peft's modules costs as much Python as this many bare ones
PYTHON = 3
LAUNCH = 5e-6  # seconds to start a bare GPU operation
NODE = 2e-6  # seconds that the shortest operation takes inside a CUDA graph, which is launched as one: assumed

# memory GiB, TFLOP/s of bf16 matrix products summed in fp32, without sparsity (T4, P100, V100: fp16), GB/s: NVIDIA's
# data sheets and architecture papers (GeForce: an eighth of the sparse INT8 rate), AMD's for the MI300X
SHEETS: dict[str, tuple[float, float, float]] = {
    "T4": (16, 65, 320),
    "RTX 4080": (16, 97.5, 717),
    "RTX 4060 Ti": (16, 44.1, 288),
    "V100": (16, 112, 900),
    "P100": (16, 18.7, 732),
    "RTX 3060": (12, 25.5, 360),
    "RTX 4070": (12, 58.3, 504),
    "RTX 4080 Laptop": (12, 67.8, 432),
    "L4": (24, 121, 300),
    "A10": (24, 125, 600),
    "RTX 3090": (24, 71, 936),
    "RTX 4090": (24, 165, 1008),
    "RTX 5090": (32, 209.5, 1792),
    "A100 40GB": (40, 312, 1555),
    "L40S": (48, 362, 864),
    "A100": (80, 312, 2039),
    "H100": (80, 989, 3350),
    "H200": (141, 989, 4800),
    "B200": (180, 2250, 7700),
    "MI300X": (192, 1307, 5300),
}
SLOW = ("T4", "P100", "V100")  # without bf16: never what "a usual GPU" of their size means


@dataclass(frozen=True)
class Trace:
    """What a computation did."""

    peak: int  # bytes alive at the worst moment, beyond what existed before
    flops: np.ndarray  # (operations,)
    traffic: np.ndarray  # (operations,), bytes read and written


@dataclass(frozen=True)
class Device:
    """What a device holds and how fast it is."""

    name: str
    memory: float  # bytes
    flops: float  # a second, of matrix products in the model's dtype
    bandwidth: float  # bytes a second
    overhead: float  # seconds an operation
    asynchronous: bool  # the overhead hides behind the work
    source: str  # of the rates

    def times(self, trace: Trace, captured: bool = False) -> dict[str, float]:
        """Seconds by what bounds them: every operation takes as long as its arithmetic or its memory traffic, whichever
        is slower (the roofline); launches take what they cannot hide behind those. `captured`: all in one CUDA graph,
        where an operation takes `NODE` at least."""
        arithmetic, traffic = trace.flops / self.flops, trace.traffic / self.bandwidth
        work, bound = np.maximum(arithmetic, traffic), arithmetic > traffic
        found = {"arithmetic": float(work[bound].sum()), "traffic": float(work[~bound].sum())}
        starts = len(work) * self.overhead
        if captured and self.asynchronous:
            starts = float(np.maximum(NODE - work, 0).sum()) + LAUNCH
        elif self.asynchronous:
            starts = max(0.0, starts - float(work.sum()))
        return found | {"launches": starts}

    def seconds(self, trace: Trace) -> float:
        """Their sum."""
        return sum(self.times(trace).values())


@dataclass(frozen=True)
class Cost:
    """What a phase costs, from dry runs with two and with three layers."""

    two: Trace
    three: Trace
    layers: int  # that there are
    extra: float = 0.0  # bytes of memory that a dry run does not see
    reading: float = 0.0  # bytes of traffic likewise

    @property
    def peak(self) -> float:
        """Bytes at the worst moment beyond weights."""
        return self._extrapolated(self.two.peak, self.three.peak) + self.extra

    @property
    def flops(self) -> float:
        """Operations of matrix products."""
        return self._extrapolated(self.two.flops.sum(), self.three.flops.sum())

    @property
    def operations(self) -> float:
        """How many are launched."""
        return self._extrapolated(len(self.two.flops), len(self.three.flops))

    @property
    def traffic(self) -> float:
        """Bytes read and written."""
        return self._extrapolated(self.two.traffic.sum(), self.three.traffic.sum()) + self.reading

    def times(self, device: Device, captured: bool = False) -> dict[str, float]:
        """Seconds on a device by what bounds them, see `Device.times`."""
        two, three = (device.times(trace, captured) for trace in (self.two, self.three))
        found = {bound: self._extrapolated(two[bound], three[bound]) for bound in two}
        return found | {"traffic": found["traffic"] + self.reading / device.bandwidth}

    def seconds(self, device: Device, captured: bool = False) -> float:
        """On a device."""
        return sum(self.times(device, captured).values())

    def _extrapolated(self, two: float, three: float) -> float:
        return two + (self.layers - 2) * (three - two)


def named(name: str, gib: float | None = None) -> Device:
    """A GPU by its data sheet, with `gib` GiB of memory instead of its own where given."""
    if name not in SHEETS:
        raise unknown("GPU", name, SHEETS)
    memory, tera, giga = SHEETS[name]
    source = f"estimated: {ATTAINED:.0%} of {tera:g} TFLOP/s and {ATTAINED_BANDWIDTH:.0%} of {giga:g} GB/s "
    source += f"(data sheet), {PYTHON * LAUNCH * 1e6:g} us an operation"
    rates = {"flops": tera * 1e12 * ATTAINED, "bandwidth": giga * 1e9 * ATTAINED_BANDWIDTH}
    return Device(name, (gib or memory) * GIB, **rates, overhead=PYTHON * LAUNCH, asynchronous=True, source=source)


def of_size(gib: float) -> Device:
    """A usual GPU with `gib` GiB: the first of those with most memory that have no more."""
    if gib <= 0:
        raise VsrError(f"gpu_gib={gib:g}: name the GPU's memory, e.g. 24")
    fitting = [name for name, (memory, *_) in SHEETS.items() if memory <= gib and name not in SLOW] or ["RTX 4080"]
    name = max(fitting, key=lambda name: SHEETS[name][0])
    return replace(named(name, gib), name=f"{gib:g} GiB GPU, as fast as {name}")


def this(dtype: torch.dtype, width: int) -> Device:
    """This machine's GPU, else its CPU, measured in about a second with matrices of a model `width` wide."""
    cuda = torch.cuda.is_available()
    where = torch.device("cuda" if cuda else "cpu")
    left = torch.randn(4096 if cuda else 1024, width, dtype=dtype, device=where)
    right = torch.randn(width, 2 * width, dtype=dtype, device=where)
    long = torch.empty(2**28 if cuda else 2**24, dtype=torch.float32, device=where)
    few = torch.zeros(8, device=where)
    given = {"left": left, "right": right, "long": long, "few": few}

    def fastest(work: str) -> float:
        """Seconds of one call; the timer waits for a GPU's work, and takes one thread unless told."""
        timer = Timer(work, globals=given, num_threads=torch.get_num_threads())
        return min(timer.blocked_autorange(min_run_time=0.1).times)

    product, copy, small = map(fastest, ("left @ right", "long.add_(1)", "few.add(1)"))
    return Device(
        name=torch.cuda.get_device_name(where) if cuda else f"CPU, {torch.get_num_threads()} threads",
        memory=torch.cuda.get_device_properties(where).total_memory if cuda else float(psutil.virtual_memory().total),
        flops=ATTAINED_HERE * 2 * left.numel() * right.shape[1] / product,
        bandwidth=2 * long.numel() * long.itemsize / copy,
        overhead=PYTHON * small,
        asynchronous=cuda,
        source="measured here",
    )


NEEDED = {"qlora-2b": 7.1, "paper-2b": 8.9, "paper-7b": 26}  # GiB, by 'vsr estimate'
NEEDED |= {"qwen2.5-3b": 14, "qwen2.5-7b": 26, "qwen3-2b": 11, "qwen3-4b": 18, "qwen3-8b": 27}


def verdict(profile: Profile, devices: list[tuple[str, float]]) -> str:
    """One line: what `profile` can do on these devices, each a name and its memory in GiB."""
    if profile.base == "tiny":
        return "ready: needs no GPU, no network"
    need, largest = NEEDED[profile.name], max((memory for _, memory in devices), default=0.0)
    if largest < need:
        have = f"the largest here has {largest:.0f}" if devices else "none here"
        return f"not here: needs a GPU of about {need:g} GiB (estimated), {have}"
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not Path(profile.base).is_dir():
        return f"needs the weights of {profile.base}: unset HF_HUB_OFFLINE or pass --set base=FOLDER"
    return "ready, once weights and data are at hand"


def doctor() -> str:
    """The whole report as text."""
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    devices = [(device.name, device.total_memory / GIB) for device in found]
    facts = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / GIB:.0f} GiB",
        "free disk": f"{shutil.disk_usage(runs.ROOT).free / GIB:.0f} GiB",
        "GPUs": "; ".join(f"{name}, {size:.0f} GiB" for name, size in devices) or "none",
        "torchvision": "present" if importlib.util.find_spec("torchvision") else "absent (not needed)",
    }
    versions = {name: version for name, version in runs.versions().items() if name != "python"}
    verdicts = {name: verdict(profile, devices) for name, profile in PROFILES.items()}
    parts = ((facts, 12), (versions, 14), (verdicts, 14))
    return "\n\n".join("\n".join(f"{name:<{width}}{value}" for name, value in part.items()) for part, width in parts)
