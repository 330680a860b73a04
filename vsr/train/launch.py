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
    r"(ACCELERATE_|TORCHELASTIC_|MASTER_|GROUP_|ROLE_|LOCAL_|JPY_|VSR_(?!HUNG_SECONDS|REPORT_TO))|(RANK|WORLD_SIZE|MPLBACKEND)$"
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
    """The arguments of `vsr.train.train`: `data` and `probe` as folders, `max_hours` instead of a deadline."""

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
    max_hours: float | None = None

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.out) / run_name(self.profile, self.method, self.seed, self.mode, self.beta, self.budget)

    @property
    def here(self) -> Path:
        """The job's; the run's may be moved aside."""
        return self.folder.parent / FOLDER / self.folder.name


def train(
    training: Training, processes: int, config: Path | None = None, show: Callable[[int], None] | None = None
) -> Path:
    """The run folder of a training on `processes` devices, started now or, if it is running already, followed.

    `config` is a file made by `accelerate config`; `show` is called every second with the steps done. An interrupt
    stops the job after its step, with a checkpoint; a second one at once. Raises VsrError with the failure's last
    lines, or Stopped."""
    check(processes, config)
    here = training.here
    job = json.loads(json.dumps({**asdict(training), "processes": processes}))
    if not workers.held(here):
        _start(here, job, config)
    elif read_json(here / "job.json") != job:
        raise VsrError(
            f"{training.folder}: another training is running in it; wait for it, or stop it: see 'vsr status'"
        )
    try:
        _follow(here, show or Counted(f"training {training.folder.name}", training.profile.max_steps))
    except KeyboardInterrupt:
        _interrupt(here)
        raise
    _judge(here)
    return training.folder


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


def environment() -> dict[str, str]:
    """What the job inherits."""
    kept = {name: value for name, value in os.environ.items() if not OURS_ALONE.match(name)}
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return kept | cpu | {QUIET: "1", "PYTHONUNBUFFERED": "1"}


def _start(here: Path, job: dict, config: Path | None) -> None:
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
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.file.fileno()],  # the lock is the job's as soon as we let go of it
        )
    lock.release()
    atomic_write(here / "pid", str(process.pid))


def _follow(here: Path, show: Callable[[int], None]) -> None:
    while workers.held(here):
        beat = workers.last_beat(here.parents[1] / here.name)
        if beat and isinstance(show, Counted):
            show.total = beat.total  # a budget's steps are known to the job alone
        show(beat.step if beat else 0)
        time.sleep(EVERY)


def _interrupt(here: Path) -> None:
    """Every process ends after this step, see `vsr.train.fit`; the launcher itself would kill them soon."""
    print("stopping after this step, with a checkpoint; interrupt again to stop at once", file=sys.stderr, flush=True)
    launcher = int((here / "pid").read_text())
    for process in _processes(launcher):
        process.send_signal(signal.SIGINT)
    try:
        _follow(here, lambda _: None)
    except KeyboardInterrupt:
        os.killpg(launcher, signal.SIGTERM)
        raise


def _processes(launcher: int) -> list[psutil.Process]:
    """Those that train."""
    try:
        children = psutil.Process(launcher).children(recursive=True)
        return [child for child in children if "vsr.train.launch" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def _judge(here: Path) -> None:
    """Raise what the job's end was, unless it was its proper end."""
    if not (here / "result.json").is_file():
        found = next(filter(None, map(workers.hung, sorted(here.glob("stacks-*")))), None)
        why = str(found) if found else reason((here / "output.log").read_text(errors="replace"))
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
    hours, _ = job.pop("max_hours"), job.pop("processes")
    job |= {name: load_questions(job[name]) for name in ("data", "probe") if job[name]}
    job |= {"profile": Profile(**job["profile"])}
    deadline = None if hours is None else time.monotonic() + 3600 * hours
    stopped, rank = None, os.environ.get("RANK", "0")
    workers.watch(Path(path).with_name(f"stacks-{rank}"))
    try:
        train_here(**job, deadline=deadline)
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
