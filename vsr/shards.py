"""One evaluation in several processes, a device each, merged to the very files that one process writes.

Each takes every Nth scene that is left and answers it in a folder of its own, `.shards/<i>` in the run folder. A scene
answered in full is never asked again, by any number of processes."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from vsr import evaluate as one
from vsr import models, workers
from vsr.evaluate import SAMPLES
from vsr.files import read_jsonl, write_jsonl
from vsr.profiles import Profile
from vsr.progress import Counted
from vsr.questions.dataset import QuestionSet
from vsr.runs import Run
from vsr.train import launch
from vsr.workers import Heart
from vsr.workers.pool import Job, run_all

FOLDER = ".shards"
EVERY = 0.5  # seconds between two looks at the processes


def evaluate(
    model: str,
    bench: QuestionSet,
    mode: str,
    video: str,
    profile: Profile,
    out: str | Path,
    processes: int,
    limit: int | None = None,
    stage: str | None = None,
) -> Run:
    """`vsr.evaluate.evaluate` in `processes` processes, each with a GPU of its own or, without GPUs, with one thread.

    samples.jsonl and summary.json do not depend on their number. A killed evaluation continues, with any number.
    VsrError where there are not so many devices, or where a process fails."""
    what = {"model": model, "bench": bench, "mode": mode, "video": video, "profile": profile}
    what |= {"limit": limit, "stage": stage}
    if processes == 1 and not any(Path(out).glob(f"eval-*/{FOLDER}")):
        return one.evaluate(**what, out=out)
    launch.check(processes)
    asked = one.ask(**what)
    run = one.opened(model, bench, asked, profile, out, limit)
    if run.finished:
        return one.scored(run, profile)
    answered = _gather(run.path, asked)
    todo = [scene for scene in asked.scenes if scene not in answered]
    number, started = max(1, min(processes, len(todo))), time.monotonic()
    _answer(what, run.path, [todo[i::number] for i in range(number)], len(answered))
    answered = _gather(run.path, asked)
    # in the order of the questions, whoever answered them first
    write_jsonl(run.path / SAMPLES, (row for scene in asked.scenes for row in answered[scene]))
    shutil.rmtree(run.path / FOLDER)
    speed = one.speed(sum(len(asked.scenes[scene]) for scene in todo), time.monotonic() - started)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    one.close(run, processes=number, device=device, **speed)
    return one.scored(run, profile)


def _gather(folder: Path, asked: one.Asked) -> dict[str, list[dict]]:
    """The rows of every scene answered in full, whoever did it, now in one file; scenes cut short are forgotten."""
    shards = sorted((folder / FOLDER).glob("*"))
    held = [workers.hold(shard) for shard in shards]  # processes of a killed evaluation end within seconds
    whole: dict[str, list[dict]] = {}
    for file in (folder / SAMPLES, *(shard / SAMPLES for shard in shards)):
        rows: dict[str, list[dict]] = {}
        for row in read_jsonl(file) if file.is_file() else ():
            rows.setdefault(row["scene_name"], []).append(row)
        whole |= {scene: rows[scene] for scene in rows if len(rows[scene]) == len(asked.scenes.get(scene, ()))}
    # written before the shards go: killed in between, they are read once more
    write_jsonl(folder / SAMPLES, (row for scene in whole for row in whole[scene]))
    for shard, lock in zip(shards, held, strict=True):
        shutil.rmtree(shard)
        lock.release()
    return whole


def _answer(what: dict, folder: Path, parts: list[list[str]], before: int) -> None:
    """Have each part of the scenes answered by a process of its own, after `before` others."""
    folders = [folder / FOLDER / str(i) for i in range(len(parts))]
    jobs = [
        Job(f"{folder.name}, process {place.name} of {len(parts)}", _work, what | {"folder": place, "part": part})
        for place, part in zip(folders, parts, strict=True)
    ]
    devices = [""] * len(parts)
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = visible.split(",")[: len(parts)]
    total = before + sum(map(len, parts))
    heart, shown, known = Heart(folder, before, total), Counted(f"{folder.name} on {len(parts)}", total), before

    def look(_: int) -> None:
        nonlocal known
        done = before + sum(beat.step for beat in map(workers.last_beat, folders) if beat)
        if done > known:  # the run lives as long as its scenes go on being answered
            heart.beat(done)
            shown(done)
            known = done

    run_all(jobs, look, EVERY, devices)


def _work(folder: Path, part: list[str], bench: QuestionSet, **what: object) -> None:
    """What each process does: answer the scenes of its part into `folder`."""
    lock = workers.hold(folder)
    asked = one.ask(bench=bench, **what)
    loaded = models.load(**models.arguments(what["model"], asked.settings))
    one.answer(loaded, bench, replace(asked, scenes={scene: asked.scenes[scene] for scene in part}), folder / SAMPLES)
    lock.release()
