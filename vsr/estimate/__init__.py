"""What a profile's GRPO run and its evaluation need, before they run: memory, disk, time, and the smallest effect that
the evaluation could detect.

Memory and arithmetic come from dry runs of the very code (`vsr.estimate.phases`), time from those and a device's rates.
"""

from dataclasses import dataclass, replace

import torch
from transformers import Qwen2VLConfig

from vsr import markdown
from vsr.errors import VsrError
from vsr.estimate import devices, needs, phases, workload
from vsr.estimate.devices import GIB, Device
from vsr.estimate.phases import Model
from vsr.estimate.workload import Workload
from vsr.models import DTYPES
from vsr.models.folders import QWEN2_VL, find, shape
from vsr.models.quantize import skeleton
from vsr.profiles import Profile
from vsr.progress import duration

CONTEXT = 0.6 * GIB  # what CUDA itself takes
FRAGMENTS = 1.05  # the allocator's loss


@dataclass(frozen=True)
class Estimate:
    """`memory` bytes by what holds them, `phases` bytes of the worst moment of each phase beyond that, `cache` those of
    keys and values; `step` seconds of a training step by phase, `vision` of all videos, `evaluation` of one; `disk`
    bytes; `effect` points of the overall score; `changes` that make it fit."""

    profile: Profile
    mode: str
    device: Device
    work: Workload
    parameters: int
    trained: int
    memory: dict[str, float]
    phases: dict[str, float]
    cache: float
    step: dict[str, float]
    vision: float
    evaluation: float
    disk: dict[str, float]
    effect: float
    changes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """Bytes that PyTorch holds at the worst moment."""
        return sum(self.memory.values()) + max(self.phases.values())

    @property
    def needed(self) -> float:
        """Bytes the device must have."""
        return _needed(self.memory, self.phases, self.device)

    @property
    def fits(self) -> bool:
        """Whether it has them."""
        return self.needed <= self.device.memory

    @property
    def seconds(self) -> float:
        """Of the whole training run."""
        return self.vision + self.profile.max_steps * sum(self.step.values())

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much, and how it is known."""
        work, rates = self.work, self.device.source
        dry, exact = "dry run of the code", "counted"
        worst = max(self.phases, key=self.phases.__getitem__)
        rows = [
            ("parameters", f"{self.parameters:,}, {self.trained:,} of them trained", exact),
            ("tokens of a video, a prompt", f"{work.video:,}, {work.prompt:,}", f"{work.grid} patches; {exact}"),
            ("tokens of a completion", f"{work.completion}, at most {work.longest}", "assumed; counted"),
            *((f"memory: {what}", gib(size), exact) for what, size in self.memory.items()),
            *((f"memory: {what}, worst moment", gib(size), dry) for what, size in self.phases.items()),
            ("memory: keys and values, in rollout", gib(self.cache), exact),
            ("memory needed", f"{gib(self.needed)} of {gib(self.device.memory)}, in {worst}", self._margin()),
            *((f"disk: {what}", gib(size), exact) for what, size in self.disk.items()),
            ("device", self.device.name, rates),
            *((f"a step: {what}", f"{seconds:.2f} s", dry + " at these rates") for what, seconds in self.step.items()),
            ("vision, once a video", duration(self.vision), f"{work.train_scenes:,} videos at these rates"),
            ("training", f"{self.profile.max_steps:,} steps, {duration(self.seconds)}", "sum"),
            ("an evaluation", f"{work.bench:,} questions, {duration(self.evaluation)}", f"{work.scenes} videos"),
            ("smallest effect", f"{self.effect:.1f} points", "two models, same questions, 80 % power; assumed spread"),
        ]
        return rows + [("to make it fit" if i == 0 else "", change, "") for i, change in enumerate(self.changes)]

    def _margin(self) -> str:
        if not self.device.asynchronous:
            return "sum"
        return f"sum, {FRAGMENTS - 1:.0%} lost to fragments and {gib(CONTEXT)} to CUDA (assumed)"

    def table(self) -> str:
        """The rows as Markdown."""
        return markdown.table((f"{self.profile.name}, {self.mode}", "", "known by"), self.rows())


def estimate(profile: Profile, device: Device | None = None, mode: str = "vanilla") -> Estimate:
    """The needs of `profile` on `device` (default: this machine if it can run it, else a usual GPU)."""
    config = _config(profile.base)
    device = device or _usual(profile, config)
    found = _estimate(profile, config, device, mode)
    if found.fits:
        return found
    return replace(found, changes=tuple(_changes(profile, config, device, mode)))


def require(profile: Profile, mode: str = "vanilla") -> None:
    """Raise VsrError, with what to change, where this machine's GPU is too small to train `profile`."""
    if not torch.cuda.is_available():
        return
    found = estimate(profile, mode=mode)
    if not found.fits:
        raise VsrError(
            f"{profile.name} needs about {gib(found.needed)} of GPU memory (estimated), {found.device.name} has "
            f"{gib(found.device.memory)}; {'; '.join(found.changes)}"
        )


def gib(size: float) -> str:
    """'1.4 GiB', or MiB where that says more."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


def _needed(memory: dict[str, float], moments: dict[str, float], device: Device) -> float:
    peak = sum(memory.values()) + max(moments.values())
    return peak * FRAGMENTS + CONTEXT if device.asynchronous else peak


def _config(base: str) -> Qwen2VLConfig:
    known = QWEN2_VL.get(base.partition("@")[0])
    return shape(known) if known else find(base)[1]


def _usual(profile: Profile, config: Qwen2VLConfig) -> Device:
    width = config.text_config.hidden_size
    if torch.cuda.is_available() or width < 1000:
        return devices.this(DTYPES[profile.dtype], width)
    return devices.of_size(24) if profile.quantization != "none" else devices.named("A100")


def _estimate(profile: Profile, config: Qwen2VLConfig, device: Device, mode: str) -> Estimate:
    work, model = workload.of(profile, mode), Model(config, profile)
    memory, moments = needs.memory(profile, work, model)
    vision = phases.see(model, *work.grid)
    whole = skeleton(config).num_parameters()
    return Estimate(
        profile=profile,
        mode=mode,
        device=device,
        work=work,
        parameters=whole,
        trained=model.trained,
        memory=memory,
        phases=moments,
        cache=needs.cache(work, model),
        step=needs.step(profile, work, model, device),
        vision=work.train_scenes * vision.seconds(device),
        evaluation=needs.evaluation(work, model, vision, device),
        disk={
            "base model": whole * torch.bfloat16.itemsize,
            "checkpoints and adapter": (2 * (1 + needs.ADAM) + 1) * memory["adapter"],
            "cached features": work.train_scenes * work.video * config.text_config.hidden_size * model.dtype.itemsize,
        },
        effect=needs.effect(work),
    )


def _changes(profile: Profile, config: Qwen2VLConfig, device: Device, mode: str) -> list[str]:
    """Settings that together make it fit, the mildest first; a larger GPU where none do."""
    work = workload.of(profile, mode)
    least = work.prompt + work.longest
    budgets = [profile.token_budget >> i for i in range(1, 8) if profile.token_budget >> i >= least]
    made: dict[str, object] = {}
    for field, values in (
        ("token_budget", budgets),
        ("quantization", ["nf4"] if profile.quantization == "none" else []),
        ("max_completion_length", [profile.max_completion_length // 2]),
        ("frames", [profile.frames // 2]),
    ):
        for value in values:
            made[field] = value
            smaller = replace(profile, **made)
            needed = _needed(*needs.memory(smaller, workload.of(smaller, mode), Model(config, smaller)), device)
            if needed <= device.memory:
                return [f"--set {key}={value}" for key, value in made.items()]
    return [f"no setting is enough: it takes a GPU of {gib(needed)}, or a smaller base (--set base=...)"]
