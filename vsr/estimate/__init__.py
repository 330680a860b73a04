"""What a profile's GRPO run and its evaluation need, before they run: memory, disk, time, and the smallest effect that
the evaluation could detect.

Memory and arithmetic come from dry runs of the very code (`vsr.estimate.dryrun`), time from those and a device's rates.
"""

import functools
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from vsr import markdown
from vsr.engine import slots
from vsr.engine.decoding import ANSWERED
from vsr.engine.inputs import wide
from vsr.engine.logps import pass_budget
from vsr.engine.text import head_size
from vsr.errors import VsrError
from vsr.estimate import devices, dryrun
from vsr.estimate.devices import GIB, Device
from vsr.estimate.dryrun import Model
from vsr.estimate.workload import Workload, workload
from vsr.evaluate import TOGETHER
from vsr.models.folders import configuration
from vsr.models.precision import DTYPES, named
from vsr.models.quantize import skeleton, weight_bytes
from vsr.profiles import Profile
from vsr.progress import duration
from vsr.train.group_trainer import DECODED, GPU_SHARE

CONTEXT = 0.6 * GIB  # what CUDA itself takes
FRAGMENTS = 1.05  # the allocator's loss
# copies of the adapter: the optimiser's moments; gradients of the loss's parts
ADAM, PARTS = 2, 3


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
    def budget(self) -> tuple[int, bool]:
        """Tokens of a pass, and whether its activations are made again in backward, as the trainer chooses them."""
        work, profile = self.work, self.work.profile
        if profile.dtype == "float32" or not self.device.asynchronous:
            return profile.token_budget, profile.dtype != "float32"
        free = GPU_SHARE * self.device.memory - self.memory["weights"] - self.memory["adapter"]
        least = work.prompt + profile.max_completion_length
        return pass_budget(self.model.config, self.model.dtype.itemsize, free, profile.token_budget, least)

    @cached_property
    def phases(self) -> dict[str, float]:
        """Bytes beyond those at the worst moment of each phase, where every completion is as long as it may be and a
        pass's activations are made again: the least that will do."""
        work, profile, longest = self.work, self.work.profile, self.work.profile.max_completion_length
        budgets = profile.token_budget, DECODED * profile.token_budget
        counts, decoded = (max(work.passes(longest, tokens), key=sum) for tokens in budgets)
        shape = [(work.prompt - 1, [longest] * count) for count in counts]
        costs = {
            "vision": dryrun.see(self.model, *work.grid),
            "rollout": dryrun.decode(self.model, len(decoded), work.prompt, sum(decoded), longest + 1),
            "scoring": dryrun.packed(self.model, shape),
            "update": dryrun.packed(self.model, shape, 2 if profile.beta else 1, profile.dtype != "float32"),
        }
        return {name: cost.peak for name, cost in costs.items()}

    @property
    def cache(self) -> float:
        """Bytes of keys and values of a rollout batch at its longest."""
        text, longest = self.model.config.text_config, self.work.profile.max_completion_length
        token = 2 * text.num_key_value_heads * head_size(self.model.config) * text.num_hidden_layers
        passes = self.work.passes(longest, DECODED * self.work.profile.token_budget)
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
        work, config = self.work, self.model.config
        width = config.text_config.hidden_size * wide(config)
        return {
            "base model": skeleton(config).num_parameters() * torch.bfloat16.itemsize,
            "checkpoints and adapter": (2 * (1 + ADAM) + 1) * self.memory["adapter"],
            "cached features": work.train_scenes * work.video * width * self.model.dtype.itemsize,
        }

    @cached_property
    def step(self) -> dict[str, float]:
        """Seconds of a training step by phase, where every completion has the expected length."""
        return {phase: sum(bounds.values()) for phase, bounds in self.bounds(self.work.completion).items()}

    def bounds(self, length: int) -> dict[str, dict[str, float]]:
        """Seconds of a training step by phase and by what bounds them, see `Device.times`. Completions have the
        expected length, and a batch of rollouts goes on for `length` tokens."""
        decoded = self.work.passes(self.work.profile.max_completion_length, DECODED * self.work.profile.token_budget)
        prefill = dryrun.prefill(self.model, self.work.prompt).times(self.device)
        # prompts are read first, charged one by one, then all rows of a pass take their tokens together
        reads = [(len(counts), prefill) for counts in decoded]
        rollout = _sum(reads + [part for counts in decoded for part in self._decoding(counts, length)])
        return {"rollout": rollout, **self._passes}

    @cached_property
    def _passes(self) -> dict[str, dict[str, float]]:
        work, profile, model, (budget, recompute) = self.work, self.work.profile, self.model, self.budget

        @functools.cache  # passes of a step are mostly alike: each kind is run dry once
        def packed(counts: tuple[int, ...], gradients: int) -> dict[str, float]:
            shape = [(work.prompt - 1, [work.completion] * count) for count in counts]
            return dryrun.packed(model, shape, gradients, recompute).times(self.device)

        # of the steps measure the gradient's parts
        apart = 1 / profile.split_every if profile.beta else 0.0
        ways = [(gradients, share) for gradients, share in ((1, 1 - apart), (2, apart)) if share]
        packs = work.passes(work.completion, budget)
        return {
            "scoring": _sum([(1, packed(counts, 0)) for counts in packs]),
            "update": _sum([(share, packed(counts, gradients)) for counts in packs for gradients, share in ways]),
        }

    def _decoding(self, counts: tuple[int, ...], length: int) -> list[tuple[float, dict[str, float]]]:
        """How often what is done while `length` tokens are decoded, so many rows of each group: on a GPU every shape's
        first steps as a plain loop, one more while it is captured, the rest as a CUDA graph."""
        parts, done, seen = [], 0, slots.SHORTEST
        while done < length:
            steps = min(seen, length) - done
            cost = dryrun.decode(self.model, len(counts), self.work.prompt, sum(counts), seen)
            plain = min(steps, slots.WARM + 1) if self.captured else steps
            parts.append((plain, cost.times(self.device)))
            if self.captured:
                parts.append((max(0, steps - slots.WARM), cost.times(self.device, captured=True)))
            done, seen = done + steps, 2 * seen
        return parts

    @property
    def captured(self) -> bool:
        """Whether decoding runs as a CUDA graph."""
        return self.device.asynchronous and self.work.profile.quantization == "none"

    @cached_property
    def vision(self) -> float:
        """Seconds that a video takes in the vision tower."""
        return dryrun.see(self.model, *self.work.grid).seconds(self.device)

    @property
    def seconds(self) -> float:
        """Of the whole training run; each video is seen once."""
        return self.training(self.work.completion)

    def training(self, length: int) -> float:
        """The same where every batch of rollouts goes on for `length` tokens: rows that end early are taken by waiting
        groups, so that it is the mean length where many wait, and the longest where all fit in one batch."""
        step = sum(sum(bounds.values()) for bounds in self.bounds(length).values())
        return self.work.train_scenes * self.vision + self.work.profile.max_steps * step

    @cached_property
    def evaluation(self) -> float:
        """Seconds: each video seen and read once, then its questions together."""
        work, model, device, scenes = self.work, self.model, self.device, self.work.profile.bench_rooms
        rows, suffix = max(1, round(sum(work.bench.values()) / scenes)), work.prompt - work.video
        read = dryrun.prefill(model, work.video, (suffix,) * rows).seconds(device)
        room = suffix + work.completion
        together = max(1, min(scenes, ANSWERED // (work.video + rows * room), TOGETHER))
        token = dryrun.decode(model, together, work.video, together * rows, room, greedy=True).seconds(device)
        return scenes * (self.vision + read + work.completion * token / together)

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
        now, (tokens, recompute), longest = self.bounds(work.completion), self.budget, profile.max_completion_length
        longer = sorted({min(2 * work.completion, longest), longest} - {work.completion})
        parameters, videos = skeleton(self.model.config).num_parameters(), work.train_scenes * self.vision
        rows = [
            ("parameters", f"{parameters:,}, {self.model.trained:,} of them trained", exact),
            ("tokens of a video, a prompt", f"{work.video:,}, {work.prompt:,}", f"{work.grid} patches; {exact}"),
            (
                "tokens of a pass",
                f"{tokens:,}, activations {'made again' if recompute else 'kept'}",
                "by the memory left",
            ),
            ("tokens of a completion", completion + str(profile.max_completion_length), f"{work.source}; counted"),
            *((f"memory: {what}", gib(size), exact) for what, size in self.memory.items()),
            *((f"memory: {what}, worst moment", gib(size), dry) for what, size in self.phases.items()),
            ("memory: keys and values, in rollout", gib(self.cache), exact),
            ("memory needed", f"{gib(self.needed)} of {gib(device.memory)}, in {worst}", margin),
            *((f"disk: {what}", gib(size), exact) for what, size in self.disk.items()),
            ("device", device.name, device.source),
            *((f"a step: {what}", f"{self.step[what]:.2f} s", _shares(bounds)) for what, bounds in now.items()),
            ("vision, once a video", duration(videos), f"{work.train_scenes:,} videos at these rates"),
            ("training", f"{profile.max_steps:,} steps, {duration(self.seconds)}", "sum"),
            *(("", f"if batches go on for {n} tokens: {duration(self.training(n))}", "sum") for n in longer),
            (
                "an evaluation",
                f"{sum(work.bench.values()):,} questions, {duration(self.evaluation)}",
                f"{profile.bench_rooms} videos",
            ),
            ("smallest effect", f"{work.effect:.1f} points", "two models, same questions, 80 % power; assumed spread"),
            *(("" if i else "to make it fit", change, "") for i, change in enumerate(self.changes)),
        ]
        return markdown.table((f"{profile.name}, {work.mode}", "", "known by"), rows)


def _sum(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Seconds by bound of so many times each part."""
    return {bound: sum(times * part[bound] for times, part in parts) for bound in parts[0][1]}


def _shares(bounds: dict[str, float]) -> str:
    total = sum(bounds.values())
    return "dry run: " + ", ".join(f"{what} {seconds / total:.0%}" for what, seconds in bounds.items())


def estimate(profile: Profile, device: Device | None = None, mode: str = "vanilla") -> Estimate:
    """The needs of `profile` on `device` (default: this machine if it can run it, else a usual GPU)."""
    config = configuration(profile.base)
    if device is None:
        width = config.text_config.hidden_size
        if torch.cuda.is_available() or width < 1000:
            device = devices.this(DTYPES[named(profile.dtype)], width)
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
