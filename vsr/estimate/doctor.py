"""What this machine is and what each profile can do here; nothing is run."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

import psutil
import torch

from vsr import runs
from vsr.estimate.devices import GIB
from vsr.profiles import PROFILES, Profile

NEEDED = {"qlora-2b": 8.5, "paper-2b": 10.3, "paper-7b": 29}  # GiB, by 'vsr estimate'


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


def report() -> str:
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
