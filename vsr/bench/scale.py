"""What the study costs on more scenes, questions and devices, and where each part stops gaining: on paper, from
measured rates (results/published/tiny/bench), dry runs of the very code on a data sheet's GPU (as `vsr.estimate`), and
simulated lengths. And what more questions break first on one machine: measured on made-up ones, a process a part.

A part stops scaling at the number of devices beyond which doubling them saves less than a quarter of the time."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from vsr import markdown, scoring
from vsr.bench.build import apart
from vsr.estimate import Estimate, devices, estimate
from vsr.estimate.workload import Workload
from vsr.files import read_json
from vsr.profiles import PROFILES
from vsr.questions.build import write
from vsr.questions.question import Question, joined, read_questions
from vsr.runs import ROOT

GPU, PROFILE = "A100", "paper-2b"
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST_GAIN = 0.25  # of the time, by doubling
# bytes a second between GPUs of a node, seconds of a reduction's start: assumed
BUS, LATENCY = 200e9, 30e-6
STEPS, SEED = 2000, 0  # simulated
QUESTIONS = 10_000_000  # on 100,000 scenes; or the answers of 1,000 runs to twice VSI-Bench
SMALL, LARGE = 50_000, 200_000  # measured: what two sizes differ by is what each question costs
MEMORY, PATIENCE = 16e3, 3600.0  # MB and seconds; a part that needs more breaks


def main() -> dict:
    """Rows `{"part", "devices", "hours", "known_by"}` and, by part, `stops_at` devices; `growth`, see there."""
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
    return {"gpu": GPU, "profile": PROFILE, "rows": rows, "stops_at": stops, "growth": growth()}


def growth(small: int = SMALL, large: int = LARGE) -> list[dict]:
    """What each part costs a million questions, processor seconds and MB, and how many break it; the first that breaks
    comes first. Prints a table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (building, opening, scoring_answers):
            less, more = (apart(part, Path(folder) / str(number), number) for number in (small, large))
            second, mb = (max(1e-9, more[what] - less[what]) / (large - small) for what in ("cpu_s", "peak_mb"))
            most = min(PATIENCE / second, MEMORY / mb)
            rows.append({"part": part.__name__, "seconds": 1e6 * second, "mb": 1e6 * mb, "breaks_at": round(most)})
    rows.sort(key=lambda row: row["breaks_at"])
    lines = [[row["part"], *(f"{row[what]:,.0f}" for what in ("seconds", "mb", "breaks_at"))] for row in rows]
    print(markdown.table(["a million questions", "s", "MB", f"breaks ({PATIENCE:.0f} s, {MEMORY:.0f} MB) at"], lines))
    first = rows[0]["part"].replace("_", " ")
    print(f"{first} breaks first, {'before' if rows[0]['breaks_at'] < QUESTIONS else 'after'} {QUESTIONS:,} questions")
    return rows


def made_up(number: int) -> Iterator[Question]:
    """Questions, a hundred a scene."""
    text = (
        "Measuring from the closest point of each object, which of these ({}, sofa, table) is the closest to the door?"
    )
    options = ("A. chair", "B. sofa", "C. table")
    for i in range(number):
        scene = f"room{i // 100:06d}"
        asked = text.format(i), options, "ABC"[i % 3]
        yield Question(f"{scene}-{i}", "rooms", scene, "object_rel_distance", *asked)


def building(folder: Path, number: int) -> int:
    """Writing the questions of a build."""
    write(folder, list(made_up(number)), "made up", SEED)
    return 0


def opening(folder: Path, number: int) -> int:
    """What an evaluation does with its questions before it asks the first."""
    questions = read_questions(folder / "questions.jsonl")
    questions.repeated()
    joined(questions.by_scene().values()).fingerprint()
    shutil.rmtree(questions.file.parent)
    return 0


def scoring_answers(folder: Path, number: int) -> int:
    """The summary of an evaluation, which holds every answer."""
    scoring.summarise([vars(question) | {"response": "B"} for question in made_up(number)])
    return 0


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
