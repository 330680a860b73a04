"""Training on several devices: one process a device under `accelerate launch`, apart from whoever asks for it.

The job has a session of its own, so it outlives a notebook's kernel or a closed terminal; asking for it again while it
lives follows it. What it needs to be found lies beside the run folder, in `.launch/<run>`: `job.json` (what is trained,
and on how many devices), `pid`, `output.log` of all processes, `stacks-<rank>` of each (see `vsr.workers.watch`),
`result.json` once it has ended well; and a lock that the job holds as long as it lives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from vsr import workers
from vsr.errors import Stopped, VsrError
from vsr.files import atomic_write, read_json, write_json
from vsr.profiles import Profile
from vsr.progress import QUIET, Counted
from vsr.questions.dataset import load as load_questions
from vsr.train import run_name
from vsr.train import train as train_here

FOLDER = ".launch"
GPUS = "VSR_GPUS"  # set by `vsr run --gpus` for the kernels it starts
EVERY = 1.0  # seconds between two looks at a job
LAST_LINES = 15
# what describes another process's place among others (a launcher that inherits a rank believes itself to be one of its
# own workers), or its notebook; NCCL_, CUDA_ and HF_ are the user's and pass
OURS_ALONE = re.compile(
    r"(ACCELERATE_|TORCHELASTIC_|MASTER_|GROUP_|ROLE_|LOCAL_|JPY_|VSR_(?!HUNG_SECONDS|REPORT_TO|UNTIL))"
    r"|(RANK|WORLD_SIZE|MPLBACKEND)$"
)
DDP = {  # accelerate's config, written out so that no default of the user's decides
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",
    "mixed_precision": "no",
    "num_machines": 1,
    "machine_rank": 0,
    "main_process_port": 0,
    "gpu_ids": "all",
    "use_cpu": False,
    "debug": False,
}


@dataclass(frozen=True)
class Training:
    """The arguments of `vsr.train.train`: `data` and `probe` as folders."""

    method: str
    profile: Profile
    data: str
    out: str
    seed: int = 0
    mode: str = "vanilla"
    beta: float | None = None
    budget: int | None = None
    probe: str | None = None
    fresh: bool = False

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.out) / run_name(self.profile, self.method, self.seed, self.mode, self.beta, self.budget)

    @property
    def here(self) -> Path:
        """The job's; the run's may be moved aside."""
        return self.folder.parent / FOLDER / self.folder.name


def train(training: Training, processes: int, config: Path | None = None) -> Path:
    """The run folder of one training, its steps shown; see `train_all`."""
    shown = Counted(f"training {training.folder.name}", training.profile.max_steps)

    def steps(_: int) -> None:
        if beat := workers.last_beat(training.folder):
            shown.total = beat.total  # a budget's steps are known to the job alone
            shown(beat.step)

    return train_all([training], processes, config, steps)[0]


def train_all(
    trainings: list[Training], processes: int, config: Path | None = None, show: Callable[[int], None] | None = None
) -> list[Path]:
    """The run folders of trainings on `processes` devices, started now or, if they are running already, followed: side
    by side on equal shares of the devices, since a step has few groups to share; more trainings than devices queue.

    `config` is a file made by `accelerate config`; `show` is called every second with the trainings done. An interrupt
    stops the jobs after their step, with a checkpoint; a second one at once. After a failure no further one starts;
    then raises VsrError with its last lines, or Stopped."""
    check(processes, config)
    beside, each = shares(trainings[0].profile.questions_per_step, len(trainings), processes) if trainings else (1, 1)
    waiting, failed = list(trainings), None
    running: dict[int, Training] = {}  # by the share of the devices
    show = show or Counted("trainings", len(trainings))
    try:
        while waiting or running:
            for share in [share for share in range(beside) if share not in running][: len(waiting)]:
                running[share] = waiting.pop(0)
                _ask(running[share], each, config, share if beside > 1 else None)
            for share, one in [(share, one) for share, one in running.items() if not workers.held(one.here)]:
                del running[share]
                try:
                    _judge(one)
                except (VsrError, Stopped) as error:
                    failed = failed or error
                    waiting.clear()
            show(len(trainings) - len(waiting) - len(running))
            if running:
                time.sleep(EVERY)
    except KeyboardInterrupt:
        _interrupt([one.here for one in running.values()])
        raise
    if failed:
        raise failed
    return [one.folder for one in trainings]


def shares(questions: int, trainings: int, devices: int) -> tuple[int, int]:
    """How many trainings run side by side on so many devices, and how many each has: what divides its questions."""
    beside = max(1, min(trainings, devices))
    fitting = [n for n in range(1, devices // beside + 1) if questions % n == 0]
    return beside, devices if beside == 1 else fitting[-1]


def check(processes: int, config: Path | None = None) -> None:
    """Raise VsrError unless this machine has `processes` devices (GPUs, else cores)."""
    cuda = torch.cuda.is_available()
    there = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if not 1 <= processes <= there:
        raise VsrError(f"gpus={processes}: this machine has {there} {'GPUs' if cuda else 'cores and no GPU'}")
    if config is not None and not config.is_file():
        raise VsrError(f"{config}: no such file; make one with 'accelerate config --config_file {config.name}'")


def offer(processes: int) -> None:
    """Have the notebooks that this process executes train on so many devices."""
    check(processes)
    os.environ[GPUS] = str(processes)


def offered() -> int:
    """On how many devices a notebook is to train."""
    return int(os.environ.get(GPUS, "1"))


def environment(processes: int = 0, share: int | None = None) -> dict[str, str]:
    """What the job inherits; `share` is its part of the GPUs where jobs of `processes` devices run side by side."""
    kept = {name: value for name, value in os.environ.items() if not OURS_ALONE.match(name)}
    if not torch.cuda.is_available():
        kept["ACCELERATE_USE_CPU"] = "true"
    elif share is not None:
        every = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(every.split(",")[share * processes : (share + 1) * processes])
    return kept | {QUIET: "1", "PYTHONUNBUFFERED": "1"}


def _ask(training: Training, processes: int, config: Path | None, share: int | None) -> None:
    """Start a job, or see that the one that runs is the same."""
    job = json.loads(json.dumps({**asdict(training), "processes": processes}))
    if not workers.held(training.here):
        _start(training.here, job, config, share)
    elif read_json(training.here / "job.json") != job:
        raise VsrError(
            f"{training.folder}: another training is running in it; wait for it, or stop it: see 'vsr status'"
        )


def _start(here: Path, job: dict, config: Path | None, share: int | None) -> None:
    lock = workers.hold(here)
    (here / "result.json").unlink(missing_ok=True)
    shutil.rmtree(here / "processes", ignore_errors=True)
    for stacks in here.glob("stacks-*"):
        stacks.unlink()
    write_json(here / "job.json", job)
    if config is None:
        config = here / "accelerate.json"
        write_json(config, {**DDP, "num_processes": job["processes"]})
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    words += ["--num_processes", str(job["processes"]), "--tee", "3", "--log_dir", str(here / "processes")]
    words += ["-m", "vsr.train.launch", str(here / "job.json")]
    with (here / "output.log").open("wb") as output:
        process = subprocess.Popen(
            words,
            env=environment(job["processes"], share),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.file.fileno()],  # the lock is the job's as soon as we let go of it
        )
    lock.release()
    atomic_write(here / "pid", str(process.pid))


def _interrupt(jobs: list[Path]) -> None:
    """Every process ends after this step, see `vsr.train.fit`; the launcher itself would kill them soon."""
    print("stopping after this step, with a checkpoint; interrupt again to stop at once", file=sys.stderr, flush=True)
    launchers = [int((here / "pid").read_text()) for here in jobs]
    for process in (process for launcher in launchers for process in _processes(launcher)):
        process.send_signal(signal.SIGINT)
    try:
        while any(map(workers.held, jobs)):
            time.sleep(EVERY)
    except KeyboardInterrupt:
        for launcher, here in zip(launchers, jobs, strict=True):
            if workers.held(here):
                os.killpg(launcher, signal.SIGTERM)
        raise


def _processes(launcher: int) -> list[psutil.Process]:
    """Those that train."""
    try:
        children = psutil.Process(launcher).children(recursive=True)
        return [child for child in children if "vsr.train.launch" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def _judge(training: Training) -> None:
    """Raise what the job's end was, unless it was its proper end."""
    here = training.here
    if not (here / "result.json").is_file():
        found = next(filter(None, map(workers.hung, sorted(here.glob("stacks-*")))), None)
        told = (here / "output.log").read_text(errors="replace")
        why = str(found) if found else f"{training.folder.name}: {reason(told)}"
        raise VsrError(f"{why}\nall output: {here / 'output.log'}")
    if message := read_json(here / "result.json")["stopped"]:
        raise Stopped(message)


def reason(output: str) -> str:
    """Why a job failed: the process that failed first, how it ended, and its last lines."""
    lines = output.splitlines()
    cause = re.search(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", output, flags=re.DOTALL)
    if cause is None:
        return "the training ended without a word of why (killed?); its last lines:\n" + "\n".join(lines[-LAST_LINES:])
    rank, code = map(int, cause.groups())
    mark = f"[default{rank}]:"
    said = [line.removeprefix(mark) for line in lines if line.startswith(mark)][-LAST_LINES:]
    how = f"ended with exit code {code}"
    if code < 0:  # a signal's number
        how = f"was killed by {signal.Signals(-code).name}" + " (out of memory?)" * (code == -signal.SIGKILL)
    return f"process {rank} {how}; run it again to continue. Its last lines:\n" + "\n".join(said)


def main(path: str) -> int:
    """What each process of a job does; exit codes as those of `vsr`."""
    job = read_json(path)
    del job["processes"]
    job |= {name: load_questions(job[name]) for name in ("data", "probe") if job[name]}
    job |= {"profile": Profile(**job["profile"])}
    stopped, rank = None, os.environ.get("RANK", "0")
    workers.watch(Path(path).with_name(f"stacks-{rank}"))
    try:
        train_here(**job)
    except VsrError as error:
        print(f"vsr train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Stopped as stop:
        stopped = str(stop)
    if rank == "0":
        write_json(Path(path).with_name("result.json"), {"stopped": stopped})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
