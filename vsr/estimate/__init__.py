"""What a profile's GRPO run and its evaluation need, before they run: memory, disk, time, and the smallest effect that
the evaluation could detect.

Memory and arithmetic come from dry runs of the very code (`vsr.estimate.dryrun`), time from those and a device's rates.
"""

import functools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from vsr import markdown
from vsr.errors import VsrError
from vsr.estimate import devices, dryrun
from vsr.estimate.devices import GIB, Device
from vsr.estimate.dryrun import Model
from vsr.estimate.workload import Workload, workload
from vsr.models import DTYPES
from vsr.models.folders import QWEN2_VL, find, shape
from vsr.models.quantize import skeleton, weight_bytes
from vsr.profiles import Profile
from vsr.progress import duration
from vsr.scoring.intervals import detectable

CONTEXT = 0.6 * GIB  # what CUDA itself takes
FRAGMENTS = 1.05  # the allocator's loss
# copies of the adapter: the optimiser's moments; gradients of the loss's parts
ADAM, PARTS = 2, 3
TASKS = 8
PER_QUESTION = 0.5  # standard deviation of two models' difference on a question, of 1
ALIKE = 0.05  # correlation of that difference between questions of a task in a scene


@dataclass(frozen=True)
class Estimate:
    """The needs of `work` with `model` on `device`, each found when it is asked for."""

    work: Workload
    model: Model
    device: Device

    @cached_property
    def memory(self) -> dict[str, float]:
        """Bytes held all the time, by what holds them."""
        # peft trains in float32 whatever the base is in
        model, adapter = self.model, 4.0 * self.model.trained
        return {
            "weights": float(weight_bytes(model.config, model.dtype, model.profile.quantization)),
            "adapter": adapter,
            "gradients": (1 + PARTS) * adapter,
            "optimiser": ADAM * adapter,
        }

    @cached_property
    def phases(self) -> dict[str, float]:
        """Bytes beyond those at the worst moment of each phase, where every completion is as long as it may be."""
        work, profile, longest = self.work, self.work.profile, self.work.profile.max_completion_length
        counts, decoded = (max(work.passes(longest, decoding), key=sum) for decoding in (False, True))
        shape = [(work.prompt - 1, [longest] * count) for count in counts]
        costs = {
            "vision": dryrun.see(self.model, *work.grid),
            "rollout": dryrun.decode(self.model, len(decoded), work.prompt, sum(decoded), longest - 1),
            "scoring": dryrun.packed(self.model, shape),
            "update": dryrun.packed(self.model, shape, 2 if profile.beta else 1, profile.dtype != "float32"),
        }
        return {name: cost.peak for name, cost in costs.items()}

    @property
    def cache(self) -> float:
        """Bytes of keys and values of a rollout batch at its longest."""
        text, longest = self.model.config.text_config, self.work.profile.max_completion_length
        token = 2 * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads) * text.num_hidden_layers
        passes = self.work.passes(longest, decoding=True)
        kept = max(sum(self.work.prompt + count * longest for count in counts) for counts in passes)
        return float(kept * token * self.model.dtype.itemsize)

    @property
    def peak(self) -> float:
        """Bytes that PyTorch holds at the worst moment."""
        return sum(self.memory.values()) + max(self.phases.values())

    @property
    def needed(self) -> float:
        """Bytes the device must have."""
        return self.peak * FRAGMENTS + CONTEXT if self.device.asynchronous else self.peak

    @property
    def fits(self) -> bool:
        """Whether it has them."""
        return self.needed <= self.device.memory

    @property
    def disk(self) -> dict[str, float]:
        """Bytes of files."""
        work, width = self.work, self.model.config.text_config.hidden_size
        return {
            "base model": skeleton(self.model.config).num_parameters() * torch.bfloat16.itemsize,
            "checkpoints and adapter": (2 * (1 + ADAM) + 1) * self.memory["adapter"],
            "cached features": work.train_scenes * work.video * width * self.model.dtype.itemsize,
        }

    @cached_property
    def step(self) -> dict[str, float]:
        """Seconds of a training step by phase, where every completion has the expected length; rollouts are batched by
        the longest."""
        work, profile, model = self.work, self.work.profile, self.model

        # passes of a step are mostly alike: each kind is run dry once
        @functools.cache
        def decode(groups: int, rows: int) -> float:
            return dryrun.decode(model, groups, work.prompt, rows, work.completion // 2).seconds(self.device)

        @functools.cache
        def packed(counts: tuple[int, ...], gradients: int) -> float:
            shape = [(work.prompt - 1, [work.completion] * count) for count in counts]
            return dryrun.packed(model, shape, gradients, profile.dtype != "float32").seconds(self.device)

        prefill = dryrun.prefill(model, work.prompt).seconds(self.device)
        decoded, packs = work.passes(profile.max_completion_length, decoding=True), work.passes(work.completion)
        # of the steps measure the gradient's parts
        apart = 1 / profile.split_every if profile.beta else 0.0
        ways = [(gradients, share) for gradients, share in ((1, 1 - apart), (2, apart)) if share]
        return {
            # every prompt is read alone, then all rows of a pass take their tokens together
            "rollout": sum(len(c) * prefill + work.completion * decode(len(c), sum(c)) for c in decoded),
            "scoring": sum(packed(counts, 0) for counts in packs),
            "update": sum(share * packed(counts, gradients) for counts in packs for gradients, share in ways),
        }

    @cached_property
    def vision(self) -> float:
        """Seconds that a video takes in the vision tower."""
        return dryrun.see(self.model, *self.work.grid).seconds(self.device)

    @property
    def seconds(self) -> float:
        """Of the whole training run; each video is seen once."""
        return self.work.train_scenes * self.vision + self.work.profile.max_steps * sum(self.step.values())

    @cached_property
    def evaluation(self) -> float:
        """Seconds: each video seen and read once, then its questions together."""
        work, model, device, scenes = self.work, self.model, self.device, self.work.profile.bench_rooms
        rows, suffix = max(1, round(work.bench / scenes)), work.prompt - work.video
        read = dryrun.prefill(model, work.video, (suffix,) * rows).seconds(device)
        token = dryrun.decode(model, 1, work.video, rows, suffix + work.completion // 2).seconds(device)
        return scenes * (self.vision + read + max(0, work.completion - 1) * token)

    @property
    def effect(self) -> float:
        """Points of the overall score that are seen with 80 % power, questions spread evenly over tasks and scenes."""
        per_task = self.work.bench / TASKS
        # questions about one scene are alike: the design effect of a cluster sample
        clustered = 1 + max(0.0, per_task / self.work.profile.bench_rooms - 1) * ALIKE
        return 100 * detectable(PER_QUESTION * math.sqrt(clustered / per_task / TASKS))

    @cached_property
    def changes(self) -> list[str]:
        """Settings that together make it fit, the mildest first; a larger GPU where none do."""
        if self.fits:
            return []
        work, profile = self.work, self.work.profile
        least = work.prompt + profile.max_completion_length
        made: dict[str, object] = {}
        for field, values in (
            ("token_budget", [budget for i in range(1, 8) if (budget := profile.token_budget >> i) >= least]),
            ("quantization", ["nf4"] if profile.quantization == "none" else []),
            ("max_completion_length", [profile.max_completion_length // 2]),
            ("frames", [profile.frames // 2]),
        ):
            for value in values:
                made[field] = value
                smaller = replace(profile, **made)
                found = Estimate(workload(smaller, work.mode), Model(self.model.config, smaller), self.device)
                if found.fits:
                    return [f"--set {key}={value}" for key, value in made.items()]
        return [f"no setting is enough: it takes a GPU of {gib(found.needed)}, or a smaller base (--set base=...)"]

    def table(self) -> str:
        """What, how much, and how it is known, as Markdown."""
        work, profile, device = self.work, self.work.profile, self.device
        dry, exact, completion = "dry run of the code", "counted", f"{work.completion}, at most "
        worst, margin = max(self.phases, key=self.phases.__getitem__), "sum"
        if device.asynchronous:
            margin += f", {FRAGMENTS - 1:.0%} lost to fragments and {gib(CONTEXT)} to CUDA (assumed)"
        parameters, videos = skeleton(self.model.config).num_parameters(), work.train_scenes * self.vision
        rows = [
            ("parameters", f"{parameters:,}, {self.model.trained:,} of them trained", exact),
            ("tokens of a video, a prompt", f"{work.video:,}, {work.prompt:,}", f"{work.grid} patches; {exact}"),
            ("tokens of a completion", completion + str(profile.max_completion_length), "assumed; counted"),
            *((f"memory: {what}", gib(size), exact) for what, size in self.memory.items()),
            *((f"memory: {what}, worst moment", gib(size), dry) for what, size in self.phases.items()),
            ("memory: keys and values, in rollout", gib(self.cache), exact),
            ("memory needed", f"{gib(self.needed)} of {gib(device.memory)}, in {worst}", margin),
            *((f"disk: {what}", gib(size), exact) for what, size in self.disk.items()),
            ("device", device.name, device.source),
            *((f"a step: {what}", f"{seconds:.2f} s", dry + " at these rates") for what, seconds in self.step.items()),
            ("vision, once a video", duration(videos), f"{work.train_scenes:,} videos at these rates"),
            ("training", f"{profile.max_steps:,} steps, {duration(self.seconds)}", "sum"),
            (
                "an evaluation",
                f"{work.bench:,} questions, {duration(self.evaluation)}",
                f"{profile.bench_rooms} videos",
            ),
            ("smallest effect", f"{self.effect:.1f} points", "two models, same questions, 80 % power; assumed spread"),
            *(("" if i else "to make it fit", change, "") for i, change in enumerate(self.changes)),
        ]
        return markdown.table((f"{profile.name}, {work.mode}", "", "known by"), rows)


def estimate(profile: Profile, device: Device | None = None, mode: str = "vanilla") -> Estimate:
    """The needs of `profile` on `device` (default: this machine if it can run it, else a usual GPU)."""
    known = QWEN2_VL.get(profile.base.partition("@")[0])
    config = shape(known) if known else find(profile.base)[1]
    if device is None:
        width = config.text_config.hidden_size
        if torch.cuda.is_available() or width < 1000:
            device = devices.this(DTYPES[profile.dtype], width)
        else:
            device = devices.of_size(24) if profile.quantization != "none" else devices.named("A100")
    return Estimate(workload(profile, mode), Model(config, profile), device)


def require(profile: Profile, mode: str = "vanilla") -> None:
    """Raise VsrError, with what to change, where this machine's GPU is too small to train `profile`."""
    if torch.cuda.is_available() and not (found := estimate(profile, mode=mode)).fits:
        raise VsrError(
            f"{profile.name} needs about {gib(found.needed)} of GPU memory (estimated), {found.device.name} has "
            f"{gib(found.device.memory)}; {'; '.join(found.changes)}"
        )


def gib(size: float) -> str:
    """'1.4 GiB', or MiB where that says more."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
