"""What the study costs on more scenes, questions and devices, and where each part stops gaining: on paper, from
measured rates (results/published/tiny/bench), dry runs of the very code on a data sheet's GPU (as `vsr.estimate`), and
simulated lengths.

A part stops scaling at the number of devices beyond which doubling them saves less than a quarter of the time."""

from dataclasses import replace

import numpy as np

from vsr import markdown
from vsr.estimate import Estimate, devices, estimate
from vsr.estimate.workload import Workload
from vsr.files import read_json
from vsr.profiles import PROFILES
from vsr.runs import ROOT

GPU, PROFILE = "A100", "paper-2b"
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST_GAIN = 0.25  # of the time, by doubling
# bytes a second between GPUs of a node, seconds of a reduction's start: assumed
BUS, LATENCY = 200e9, 30e-6
STEPS, SEED = 2000, 0  # simulated


def main() -> dict:
    """Rows `{"part", "devices", "hours", "known_by"}` and, by part, `stops_at` devices."""
    measured = read_json(ROOT / "results" / "published" / "tiny" / "bench" / "build.json")["rows"][0]
    profile, sheet = PROFILES[PROFILE], f"dry runs, {GPU}'s data sheet"
    rows, stops = [], {}

    def add(part: str, known: str, seconds) -> None:
        hours = {n: time / 3600 for n in DEVICES if (time := seconds(n)) is not None}
        rows.extend({"part": part, "devices": n, "hours": round(h, 4), "known_by": known} for n, h in hours.items())
        stops[part] = stops_at(hours)

    for scans, known in ((profile.train_rooms, "measured rates"), (10 * profile.train_rooms, "the same")):
        add(f"build, {scans} scans", known, lambda n, scans=scans: build(measured, scans, n))
    for mode in ("vanilla", "think"):
        found = estimate(profile, devices.named(GPU), mode)
        add(f"training, {mode}", f"{sheet}, simulated lengths", lambda n, one=found: training(one, n))
        add(f"evaluation, {mode}", f"{sheet}; whole scenes a device", lambda n, one=found: evaluation(one, n))
    hours = {(row["part"], row["devices"]): f"{row['hours']:.2f}" for row in rows}
    lines = [[part, *(hours.get((part, n), "") for n in DEVICES), stop] for part, stop in stops.items()]
    print(markdown.table([f"hours, {PROFILE}, by devices (build: cores)", *DEVICES, "stops at"], lines))
    return {"gpu": GPU, "profile": PROFILE, "rows": rows, "stops_at": stops}


def build(measured: dict, scans: int, workers: int) -> float:
    """Seconds: reading is shared out among cores, asking is one process's."""
    share = scans / measured["scans"]
    # measured for the paper's number of scans
    asking = measured["ask"]["wall_s"] * scans / 1513
    return share * measured["read"]["cpu_s"] / workers + asking


def training(found: Estimate, gpus: int) -> float | None:
    """Seconds of the whole run; None where there are fewer groups in a step than devices."""
    work, profile = found.work, found.work.profile
    if profile.questions_per_step % gpus:
        return None
    share = replace(profile, questions_per_step=profile.questions_per_step // gpus)
    step = replace(found, work=replace(work, profile=share)).step
    uneven = slowest(work, share.questions_per_step, profile.num_generations, gpus)
    # all ranks decode up to the longest answer
    slow = step["rollout"] + uneven * (step["scoring"] + step["update"])
    # two matrices of LoRA for each of a layer's seven linear ones, in float32
    return profile.max_steps * (slow + reduction(4.0 * found.model.trained, 2 * 7 * found.model.layers, gpus))


def slowest(work: Workload, questions: int, group: int, gpus: int) -> float:
    """How much longer the slowest of the devices computes than the mean one, for its prompts and completions; lengths
    are drawn from an exponential distribution, cut at the longest."""
    rng = np.random.default_rng(SEED)
    longest = work.profile.max_completion_length
    lengths = np.minimum(np.ceil(rng.exponential(work.completion, (STEPS, gpus, questions * group))), longest)
    tokens = questions * work.prompt + lengths.sum(-1)  # (steps, devices)
    return float((tokens.max(1) / tokens.mean(1)).mean())


def reduction(size: float, tensors: int, gpus: int) -> float:
    """Seconds of averaging `size` bytes of gradients in `tensors` pieces over a ring of devices."""
    return 0.0 if gpus == 1 else 2 * (gpus - 1) / gpus * size / BUS + tensors * LATENCY


def evaluation(found: Estimate, gpus: int) -> float | None:
    """Seconds of one evaluation as `vsr evaluate --gpus` shares it out: a scene's questions stay together; None where
    there are fewer scenes than devices."""
    scenes = found.work.profile.bench_rooms
    return None if gpus > scenes else found.evaluation / scenes * -(-scenes // gpus)


def stops_at(hours: dict[int, float]) -> int:
    """The devices beyond which doubling them saves less than LEAST_GAIN, or is impossible."""
    return next(n for n in hours if 2 * n not in hours or hours[2 * n] > (1 - LEAST_GAIN) * hours[n])
