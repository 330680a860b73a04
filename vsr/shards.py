"""One evaluation in several processes, a device each, merged to the very files that one process writes.

Each takes every Nth scene that is left. What they have answered lies in `.shards` in the run folder until all is there:
`whole.jsonl` of those before, and a folder for each process with its samples.jsonl, output.log, `stacks` (see
`vsr.hung`) and, at its end, result.json. A scene answered in full is never asked again, by any number of processes."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from vsr import evaluate as one
from vsr import heartbeat, hung, jobs, locks, models, runs
from vsr.errors import VsrError, unknown
from vsr.evaluate import Setting
from vsr.heartbeat import Heart
from vsr.paper import MODES
from vsr.profiles import Profile
from vsr.progress import EXECUTED, QUIET, track
from vsr.questions.bench import Bench
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.train import launch

FOLDER = ".shards"
WHOLE = "whole.jsonl"
SAMPLES = "samples.jsonl"
STACKS = "stacks"
EVERY = 0.5  # seconds between two looks at the processes


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks: `scenes` with their questions in order, the videos `shown` with them, and how."""

    model: str
    bench: Bench
    profile: Profile
    setting: Setting
    scenes: dict[str, list[Question]]
    shown: dict[str, str]


@dataclass(frozen=True)
class Shard:
    """What one process does: answer the `scenes` into `folder`, as long as the process `parent` lives."""

    asked: Asked
    scenes: list[str]
    folder: Path
    parent: int


def evaluate(
    model: str,
    bench: Bench,
    mode: str,
    video: str,
    profile: Profile,
    out: str | Path,
    processes: int,
    limit: int | None = None,
) -> Run:
    """`vsr.evaluate.evaluate` in `processes` processes, each with a GPU of its own or, without GPUs, with one thread.

    samples.jsonl and summary.json do not depend on their number. A killed evaluation continues, with any number. Raises
    VsrError where there are not so many devices, and with the last lines of a process that failed."""
    if processes == 1 and not any(Path(out).glob(f"eval-*/{FOLDER}")):
        return one.evaluate(model, bench, mode, video, profile, out, limit)
    launch.check(processes)
    run, asked = _open(model, bench, mode, video, profile, out, limit)
    if run.finished:
        return run
    answered = _gather(run.path, asked)
    todo = [scene for scene in asked.scenes if scene not in answered]
    number = max(1, min(processes, len(todo)))
    here = run.path / FOLDER
    shards = [Shard(asked, todo[i::number], here / str(i), os.getpid()) for i in range(number)]
    speed = _work(shards, run.path, len(asked.scenes))
    answered = _gather(run.path, asked)
    runs.atomic_write(run.path / SAMPLES, _lines(row for scene in asked.scenes for row in answered[scene]))
    shutil.rmtree(here)
    model_info = run.manifest["settings"]["model"]
    one._close(run, profile, {"model": model_info, **asdict(asked.setting)}, processes=number, **speed)
    return run


def _open(
    model: str, bench: Bench, mode: str, video: str, profile: Profile, out: str | Path, limit: int | None
) -> tuple[Run, Asked]:
    """The run that `vsr.evaluate.evaluate` would open, to the letter of its fingerprint (a test holds that), and what
    it asks."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if video not in one.VIDEOS:
        raise unknown("video", video, one.VIDEOS)
    info = models.describe(**models.arguments(model, profile))
    setting = Setting(
        mode=mode,
        video=video,
        stage="train" if info["adapter_hash"] else "evaluate",
        frames=1 if video == "one" else profile.frames,
        max_pixels=profile.max_pixels,
        max_new_tokens=profile.max_new_tokens if mode == "vanilla" else profile.max_new_tokens_reasoning,
    )
    scenes = one._by_scene(bench.questions[:limit])
    shown = one.shown_videos(bench, list(scenes), video, profile.seed)
    run = Run.open(
        out,
        f"eval-{info['name']}-{mode}-{video}" + (f"-first{limit}" if limit else ""),
        settings={"model": info, **asdict(setting), "limit": limit, "bootstrap": profile.bootstrap},
        inputs={**one._data_hash(bench, scenes, shown), "code": runs.hash_files(*one.CODE, *one.SCORING_CODE)},
        seed=profile.seed,
    )
    return run, Asked(model, bench, profile, setting, scenes, shown)


def _gather(folder: Path, asked: Asked) -> dict[str, list[dict]]:
    """The rows of every scene answered in full, whoever did it, now in one file; scenes cut short are forgotten."""
    here = folder / FOLDER
    shards = sorted(path for path in here.glob("*") if path.is_dir())
    held = [locks.hold(shard) for shard in shards]  # processes of a killed evaluation end within seconds
    whole: dict[str, list[dict]] = {}
    for file in (folder / SAMPLES, here / WHOLE, *(shard / SAMPLES for shard in shards)):
        rows: dict[str, list[dict]] = {}
        for row in runs.read_jsonl(file) if file.is_file() else ():
            rows.setdefault(row["scene_name"], []).append(row)
        whole |= {scene: rows[scene] for scene in rows if len(rows[scene]) == len(asked.scenes.get(scene, ()))}
    runs.atomic_write(here / WHOLE, _lines(row for scene in whole for row in whole[scene]))
    for shard, lock in zip(shards, held, strict=True):
        shutil.rmtree(shard)
        lock.release()
    return whole


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _work(shards: list[Shard], folder: Path, total: int) -> dict:
    """Have all shards answered; on what, and how fast that was."""
    todo = sum(len(shard.scenes) for shard in shards)
    started, heart = time.monotonic(), Heart(folder, total - todo, total)
    processes: list[subprocess.Popen] = []
    try:
        for place, shard in enumerate(shards):
            processes.append(_start(shard, place))
        answered = _follow(shards, processes, folder)
        for done, _ in enumerate(track(answered, f"{folder.name} on {len(shards)}", todo), total - todo + 1):
            heart.beat(done)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    seconds = time.monotonic() - started
    results = [runs.read_json(shard.folder / "result.json") for shard in shards]
    asked = sum(result["questions_answered"] for result in results)
    return {
        "device": results[0]["device"],
        "questions_answered": asked,
        "questions_per_second": round(asked / seconds, 2) if asked else None,
    }


def _start(shard: Shard, place: int) -> subprocess.Popen:
    shard.folder.mkdir(parents=True)
    (shard.folder / "job").write_bytes(pickle.dumps(shard))
    environment = {name: value for name, value in os.environ.items() if name != EXECUTED} | {QUIET: "1"}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place]
    else:
        environment["OMP_NUM_THREADS"] = "1"
    words = [sys.executable, "-m", "vsr.shards", str(shard.folder / "job")]
    with (shard.folder / "output.log").open("wb") as output:
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def _follow(shards: list[Shard], processes: list[subprocess.Popen], folder: Path) -> Iterator[None]:
    """Once for every scene as it is answered, until all processes have ended; VsrError when one has failed."""
    seen = 0
    while True:
        codes = [process.poll() for process in processes]
        beats = [heartbeat.read(shard.folder) for shard in shards]
        done = sum(beat.step for beat in beats if beat)
        yield from (None for _ in range(seen, done))
        seen = done
        for shard, code in zip(shards, codes, strict=True):
            if code:
                raise VsrError(_why(folder, shard, code, len(shards)))
        if not any(code is None for code in codes):
            return
        time.sleep(EVERY)


def _why(folder: Path, shard: Shard, code: int, number: int) -> str:
    if (found := hung.read(shard.folder / STACKS)) is not None:
        return str(replace(found, run=folder))
    said = (shard.folder / "output.log").read_text(errors="replace").splitlines()[-launch.LAST_LINES :]
    which = f"{folder.name}: process {shard.folder.name} of {number} {launch.ended(code)}"
    return f"{which}; run it again to continue. Its last lines:\n" + "\n".join(said)


def main(path: str) -> int:
    """What each process does; exit codes as those of `vsr`."""
    shard: Shard = pickle.loads(Path(path).read_bytes())
    jobs.end_with(shard.parent)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    asked = shard.asked
    try:
        lock = locks.hold(shard.folder)
        hung.watch(shard.folder / STACKS)
        loaded = models.load(**models.arguments(asked.model, asked.profile))
        scenes = {scene: asked.scenes[scene] for scene in shard.scenes}
        speed = one._answer(loaded, asked.bench, scenes, asked.shown, asked.setting, shard.folder / SAMPLES)
        runs.write_json(shard.folder / "result.json", {"device": loaded.device_name, **speed})
        lock.release()
    except VsrError as error:
        print(f"vsr evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
