"""One evaluation in several processes, a device each, merged to the very files that one process writes.

Each takes every Nth scene that is left. What they have answered lies in `.shards` in the run folder until all is there:
`whole.jsonl` of those before, and a folder for each process with its samples.jsonl, output.log, `stacks` (see
`vsr.workers.watch`) and, at its end, result.json. A scene answered in full is never asked again, by any number
of processes."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from vsr import evaluate as one
from vsr import models, workers
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl, write_json, write_jsonl
from vsr.profiles import Profile
from vsr.progress import EXECUTED, QUIET, track
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.train import launch
from vsr.workers import Heart

FOLDER = ".shards"
WHOLE = "whole.jsonl"
SAMPLES = "samples.jsonl"
STACKS = "stacks"
EVERY = 0.5  # seconds between two looks at the processes


@dataclass(frozen=True)
class Shard:
    """What one process does: answer `scenes` of an evaluation into `folder`, as long as the process `parent` lives. The
    rest are the arguments of `vsr.evaluate.evaluate`."""

    folder: str
    scenes: list[str]
    parent: int
    model: str
    bench: QuestionSet
    mode: str
    video: str
    profile: Profile
    limit: int | None

    @property
    def path(self) -> Path:
        """Its folder."""
        return Path(self.folder)

    def to_json(self) -> dict:
        """For `job.json`."""
        bench = {"folder": str(self.bench.folder), "questions": [asdict(q) for q in self.bench.questions]}
        return {**vars(self), "bench": bench, "profile": asdict(self.profile)}

    @staticmethod
    def from_json(job: dict) -> "Shard":
        """As it was."""
        questions = [
            Question(**{**q, "options": q["options"] and tuple(q["options"])}) for q in job["bench"]["questions"]
        ]
        bench = QuestionSet(Path(job["bench"]["folder"]), tuple(questions))
        return Shard(**{**job, "bench": bench, "profile": Profile(**job["profile"])})


def evaluate(
    model: str,
    bench: QuestionSet,
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
    run, asked = one.opened(model, bench, mode, video, profile, out, limit)
    if run.finished:
        return one.scored(run, profile)
    answered = _gather(run.path, asked)
    todo = [scene for scene in asked.scenes if scene not in answered]
    number = max(1, min(processes, len(todo)))
    here = run.path / FOLDER
    what = {"model": model, "bench": bench, "mode": mode, "video": video, "profile": profile, "limit": limit}
    shards = [Shard(str(here / str(i)), todo[i::number], os.getpid(), **what) for i in range(number)]
    speed = _work(shards, run.path, len(asked.scenes))
    answered = _gather(run.path, asked)
    write_jsonl(run.path / SAMPLES, (row for scene in asked.scenes for row in answered[scene]))
    shutil.rmtree(here)
    one.close(run, processes=number, **speed)
    return one.scored(run, profile)


def _gather(folder: Path, asked: one.Asked) -> dict[str, list[dict]]:
    """The rows of every scene answered in full, whoever did it, now in one file; scenes cut short are forgotten."""
    here = folder / FOLDER
    shards = sorted(path for path in here.glob("*") if path.is_dir())
    held = [workers.hold(shard) for shard in shards]  # processes of a killed evaluation end within seconds
    whole: dict[str, list[dict]] = {}
    for file in (folder / SAMPLES, here / WHOLE, *(shard / SAMPLES for shard in shards)):
        rows: dict[str, list[dict]] = {}
        for row in read_jsonl(file) if file.is_file() else ():
            rows.setdefault(row["scene_name"], []).append(row)
        whole |= {scene: rows[scene] for scene in rows if len(rows[scene]) == len(asked.scenes.get(scene, ()))}
    write_jsonl(here / WHOLE, (row for scene in whole for row in whole[scene]))
    for shard, lock in zip(shards, held, strict=True):
        shutil.rmtree(shard)
        lock.release()
    return whole


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
    results = [read_json(shard.path / "result.json") for shard in shards]
    answered = sum(result["questions_answered"] for result in results)
    return {"device": results[0]["device"], **one.speed(answered, time.monotonic() - started)}


def _start(shard: Shard, place: int) -> subprocess.Popen:
    write_json(shard.path / "job.json", shard.to_json())
    environment = {name: value for name, value in os.environ.items() if name != EXECUTED} | {QUIET: "1"}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place]
    else:
        environment["OMP_NUM_THREADS"] = "1"
    words = [sys.executable, "-m", "vsr.shards", str(shard.path / "job.json")]
    with (shard.path / "output.log").open("wb") as output:
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def _follow(shards: list[Shard], processes: list[subprocess.Popen], folder: Path) -> Iterator[None]:
    """Once for every scene as it is answered, until all processes have ended; VsrError when one has failed."""
    seen = 0
    while True:
        codes = [process.poll() for process in processes]
        beats = [workers.last_beat(shard.path) for shard in shards]
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
    if (found := workers.hung(shard.path / STACKS)) is not None:
        return str(replace(found, run=folder))
    said = (shard.path / "output.log").read_text(errors="replace").splitlines()[-launch.LAST_LINES :]
    which = f"{folder.name}: process {shard.path.name} of {number} {launch.ended(code)}"
    return f"{which}; run it again to continue. Its last lines:\n" + "\n".join(said)


def _end_with(parent: int) -> None:
    """End within seconds of the `parent`: killed, that cannot end this process, which would go on writing."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(path: str) -> int:
    """What each process does; exit codes as those of `vsr`."""
    shard = Shard.from_json(read_json(path))
    threading.Thread(target=_end_with, args=(shard.parent,), daemon=True).start()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        lock = workers.hold(shard.path)
        workers.watch(shard.path / STACKS)
        asked = one.ask(shard.model, shard.bench, shard.mode, shard.video, shard.profile, shard.limit)
        loaded = models.load(**models.arguments(shard.model, asked.settings))
        mine = replace(asked, scenes={scene: asked.scenes[scene] for scene in shard.scenes})
        speed = one.answer(loaded, shard.bench, mine, shard.path / SAMPLES)
        write_json(shard.path / "result.json", {"device": loaded.device_name, **speed})
        lock.release()
    except VsrError as error:
        print(f"vsr evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
