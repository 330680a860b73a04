"""What this machine is and what each profile can do here; nothing is run."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from vsr import runs
from vsr.profiles import PROFILES, Profile

GIB = 2**30
NEEDED = {"qlora-2b": 8.5, "paper-2b": 10.3, "paper-7b": 29}  # GiB, by 'vsr estimate'


def memory_bytes() -> int | None:
    """Physical memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def gpus() -> list[tuple[str, float]]:
    """Name and memory (GiB) of every CUDA device torch sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(device.name, device.total_memory / GIB) for device in found]


def verdict(profile: Profile, devices: list[tuple[str, float]]) -> str:
    """One line: what `profile` can do on these devices."""
    if profile.base == "tiny":
        return "ready: needs no GPU, no network"
    need = NEEDED[profile.name]
    largest = max((memory for _, memory in devices), default=0.0)
    if largest < need:
        have = f"the largest here has {largest:.0f}" if devices else "none here"
        return f"not here: needs a GPU of about {need:g} GiB (estimated), {have}"
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not Path(profile.base).is_dir():
        return f"needs the weights of {profile.base}: unset HF_HUB_OFFLINE or pass --set base=FOLDER"
    return "ready, once weights and data are at hand"


def report() -> str:
    """The whole report as text."""
    devices = gpus()
    memory = memory_bytes()
    lines = [
        f"python      {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"cores       {os.cpu_count()}",
        f"memory      {memory / GIB:.0f} GiB" if memory else "memory      unknown",
        f"free disk   {shutil.disk_usage(runs.ROOT).free / GIB:.0f} GiB",
        "GPUs        " + ("; ".join(f"{name}, {size:.0f} GiB" for name, size in devices) or "none"),
        f"torchvision {'present' if importlib.util.find_spec('torchvision') else 'absent (not needed)'}",
        "",
        *(f"{name:<14}{version}" for name, version in runs.versions().items() if name != "python"),
        "",
        *(f"{name:<14}{verdict(profile, devices)}" for name, profile in PROFILES.items()),
    ]
    return "\n".join(lines)
