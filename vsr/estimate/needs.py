"""What training and evaluation take, phase by phase: bytes, seconds, and what the evaluation can tell."""

import math
from collections.abc import Callable

from vsr.engine.inputs import Part
from vsr.estimate import phases
from vsr.estimate.devices import Device
from vsr.estimate.phases import Cost, Model
from vsr.estimate.workload import TASKS, Workload
from vsr.models.quantize import weight_bytes
from vsr.profiles import Profile
from vsr.scoring.intervals import detectable

ADAM, PARTS = 2, 3  # copies of the adapter: the optimiser's moments; gradients of the loss's parts
PER_QUESTION = 0.5  # standard deviation of two models' difference on a question, of 1
ALIKE = 0.05  # correlation of that difference between questions of a task in a scene


def memory(profile: Profile, work: Workload, model: Model) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes held all the time, and at each phase's worst moment, where every completion is as long as it may be."""
    adapter = 4.0 * model.trained  # peft trains adapters in float32 whatever the base is in
    shape_ = work.shape(max(work.passes(work.longest), key=_rows), work.longest)
    decoded = max(work.passes(work.longest, decoding=True), key=_rows)
    moments = {
        "vision": phases.see(model, *work.grid),
        "rollout": phases.decode(model, len(decoded), work.prompt, _rows(decoded), work.longest - 1),
        "scoring": phases.score(model, shape_),
        "update": phases.update(model, shape_, profile.dtype != "float32", 2 if profile.beta else 1),
    }
    held = {
        "weights": float(weight_bytes(model.config, model.dtype, profile.quantization)),
        "adapter": adapter,
        "gradients": (1 + PARTS) * adapter,
        "optimiser": ADAM * adapter,
    }
    return held, {name: cost.peak for name, cost in moments.items()}


def step(profile: Profile, work: Workload, model: Model, device: Device) -> dict[str, float]:
    """Seconds of a step's phases where every completion has the expected length; rollouts are batched by the
    longest."""
    seconds = {"rollout": 0.0, "scoring": 0.0, "update": 0.0}
    checkpointing = profile.dtype != "float32"
    again = 1 / profile.split_every if profile.beta else 0.0
    prefill = phases.prefill(model, work.prompt).seconds(device)
    decode = _once(
        lambda groups, rows: phases.decode(model, groups, work.prompt, rows, work.completion // 2).seconds(device)
    )
    for one in work.passes(work.longest, decoding=True):
        seconds["rollout"] += len(one) * prefill + work.completion * decode(len(one), _rows(one))
    score = _once(lambda *counts: _pass(phases.score, model, work, counts).seconds(device))
    update = _once(lambda *counts: _pass(phases.update, model, work, counts, checkpointing).seconds(device))
    twice = _once(lambda *counts: _pass(phases.update, model, work, counts, checkpointing, 2).seconds(device))
    for one in work.passes(work.completion):
        counts = tuple(len(members) for _, members in one)
        seconds["scoring"] += score(*counts)
        for share, way in ((1 - again, update), (again, twice)):
            seconds["update"] += share * way(*counts) if share else 0.0
    return seconds


def _rows(one: list[Part]) -> int:
    return sum(len(members) for _, members in one)


def _pass(phase: Callable, model: Model, work: Workload, counts: tuple[int, ...], *more) -> Cost:
    return phase(model, [(work.prompt - 1, [work.completion] * count) for count in counts], *more)


def _once(function: Callable[..., float]) -> Callable[..., float]:
    """Passes of a step are mostly alike: each kind is run dry once."""
    known: dict[tuple, float] = {}

    def call(*key: int) -> float:
        if key not in known:
            known[key] = function(*key)
        return known[key]

    return call


def evaluation(work: Workload, model: Model, vision: Cost, device: Device) -> float:
    """Seconds: each video seen and read once, then its questions together."""
    rows = max(1, round(work.bench / work.scenes))
    suffix, answer = work.prompt - work.video, work.completion
    read = phases.prefill(model, work.video, [suffix] * rows).seconds(device)
    token = phases.decode(model, 1, work.video, rows, suffix + answer // 2).seconds(device)
    return work.scenes * (vision.seconds(device) + read + max(0, answer - 1) * token)


def cache(work: Workload, model: Model) -> float:
    """Bytes of keys and values of a rollout batch at its longest."""
    text = model.config.text_config
    token = 2 * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads) * text.num_hidden_layers
    kept = max(
        sum(work.prompt + len(m) * work.longest for _, m in one) for one in work.passes(work.longest, decoding=True)
    )
    return float(kept * token * model.dtype.itemsize)


def effect(work: Workload) -> float:
    """Points of the mean of all tasks, questions spread evenly over tasks and scenes."""
    per_task = work.bench / TASKS
    clustered = 1 + max(0.0, per_task / work.scenes - 1) * ALIKE
    return 100 * detectable(PER_QUESTION * math.sqrt(clustered / per_task / TASKS))
