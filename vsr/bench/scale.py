"""What the study costs on more scenes, questions and devices, and where each part stops gaining: on paper, from
measured rates (results/tiny/bench), dry runs of the very code on a data sheet's GPU (as `vsr.estimate`), and simulated
lengths.

A part stops scaling at the number of devices beyond which doubling them saves less than a quarter of the time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vsr import markdown
from vsr.estimate import devices, needs, phases, workload
from vsr.estimate.workload import Workload
from vsr.files import read_json
from vsr.models.folders import QWEN2_VL, shape
from vsr.profiles import PROFILES
from vsr.runs import ROOT

GPU, PROFILE = "A100", "paper-2b"
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST_GAIN = 0.25  # of the time, by doubling
BUS, LATENCY = 200e9, 30e-6  # bytes a second between GPUs of a node, seconds of a reduction's start: assumed
STEPS, SEED = 2000, 0  # simulated


def main() -> dict:
    """Rows `{"part", "devices", "hours", "known_by"}` and, by part, `stops_at` devices and why."""
    measured = read_json(ROOT / "results" / "published" / "tiny" / "bench" / "build.json")["rows"][0]
    profile = PROFILES[PROFILE]
    model = phases.Model(shape(QWEN2_VL[profile.base]), profile)
    parts: dict[str, tuple[Callable[[int], float | None], str]] = {
        f"build, {profile.train_rooms} scans": (lambda n: build(measured, profile.train_rooms, n), "measured rates"),
        f"build, {10 * profile.train_rooms} scans": (
            lambda n: build(measured, 10 * profile.train_rooms, n),
            "the same",
        ),
    }
    for mode in ("vanilla", "think"):
        work = workload.of(profile, mode)
        whole = needs.evaluation(work, model, phases.see(model, *work.grid), devices.named(GPU))
        parts[f"training, {mode}"] = (
            lambda n, work=work: training(work, model, n),
            f"dry runs, {GPU}'s data sheet, simulated lengths",
        )
        parts[f"evaluation, {mode}"] = (
            lambda n, work=work, whole=whole: evaluation(work, whole, n),
            f"dry runs, {GPU}'s data sheet; scenes shared out, which 'vsr evaluate' does not do yet",
        )
    rows, stops = [], {}
    for part, (seconds, known) in parts.items():
        found = {n: time / 3600 for n in DEVICES if (time := seconds(n)) is not None}
        rows += [
            {"part": part, "devices": n, "hours": round(hours, 4), "known_by": known} for n, hours in found.items()
        ]
        stops[part] = stops_at(found)
    result = {"gpu": GPU, "profile": PROFILE, "rows": rows, "stops_at": stops}
    print(table(result))
    return result


def build(measured: dict, scans: int, workers: int) -> float:
    """Seconds: reading is shared out among cores, asking is one process's."""
    share = scans / measured["scans"]
    asking = measured["ask"]["wall_s"] * scans / 1513  # measured for the paper's number of scans
    return share * measured["read"]["cpu_s"] / workers + asking


def training(work: Workload, model: phases.Model, gpus: int) -> float | None:
    """Seconds of the whole run; None where there are fewer groups in a step than devices."""
    profile = work.profile
    if profile.questions_per_step % gpus:
        return None
    share = replace(profile, questions_per_step=profile.questions_per_step // gpus)
    step = needs.step(share, replace(work, profile=share), model, devices.named(GPU))
    uneven = slowest(work, share.questions_per_step, profile.num_generations, gpus)
    slow = step["rollout"] + uneven * (step["scoring"] + step["update"])  # all ranks decode up to the longest answer
    return profile.max_steps * (slow + reduction(4.0 * model.trained, 2 * 7 * model.layers, gpus))


def slowest(work: Workload, questions: int, group: int, gpus: int) -> float:
    """How much longer the slowest of the devices computes than the mean one, for its prompts and completions; lengths
    are drawn from an exponential distribution, cut at the longest."""
    rng = np.random.default_rng(SEED)
    lengths = np.minimum(np.ceil(rng.exponential(work.completion, (STEPS, gpus, questions * group))), work.longest)
    tokens = questions * work.prompt + lengths.sum(-1)
    return float((tokens.max(1) / tokens.mean(1)).mean())


def reduction(size: float, tensors: int, gpus: int) -> float:
    """Seconds of averaging `size` bytes of gradients in `tensors` pieces over a ring of devices."""
    return 0.0 if gpus == 1 else 2 * (gpus - 1) / gpus * size / BUS + tensors * LATENCY


def evaluation(work: Workload, whole: float, gpus: int) -> float | None:
    """Seconds of one evaluation that takes `whole` on one device; a scene's questions stay together."""
    return None if gpus > work.scenes else whole / work.scenes * -(-work.scenes // gpus)


def stops_at(hours: dict[int, float]) -> int:
    """The devices beyond which doubling them saves less than LEAST_GAIN, or is impossible."""
    return next(n for n in hours if 2 * n not in hours or hours[2 * n] > (1 - LEAST_GAIN) * hours[n])


def table(result: dict) -> str:
    """Hours by part and number of devices (for the build: cores)."""
    hours = {(row["part"], row["devices"]): row["hours"] for row in result["rows"]}
    rows = [
        [part, *(f"{hours[part, n]:.2f}" if (part, n) in hours else "" for n in DEVICES), str(stop)]
        for part, stop in result["stops_at"].items()
    ]
    return markdown.table([f"hours, {result['profile']}", *map(str, DEVICES), "stops at"], rows)
