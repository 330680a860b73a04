"""Jobs side by side: all are done, the first failure names its job, a worker shows no progress of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vsr.errors import VsrError
from vsr.workers import jobs
from vsr.workers.jobs import Job, run_all


def write(path: str, text: str) -> None:
    """What a worker does here."""
    import torch

    with open(path, "w") as file:
        file.write(f"{text} {torch.get_num_threads()} {os.getpid()}")


def fail(why: str) -> None:
    raise VsrError(why)


@pytest.mark.parametrize("number", [1, 2])
def test_every_job_is_done_and_counted(tmp_path, monkeypatch, number):
    monkeypatch.setattr(jobs, "workers", lambda wanted: number)
    counted = []
    todo = [Job(f"job {i}", write, {"path": str(tmp_path / f"{i}"), "text": "done"}) for i in range(3)]
    run_all(todo, counted.append, every=0.1)
    assert [path.read_text().split()[0] for path in sorted(tmp_path.iterdir())] == ["done"] * 3
    assert counted[-1] == 3
    if number == 2:
        assert {path.read_text().split()[1] for path in tmp_path.iterdir()} == {"1"}
        assert str(os.getpid()) not in {path.read_text().split()[2] for path in tmp_path.iterdir()}


def test_a_failing_job_is_named(monkeypatch):
    monkeypatch.setattr(jobs, "workers", lambda wanted: 2)
    with pytest.raises(VsrError, match="grpo-think-seed1: video missing"):
        run_all([Job("grpo-think-seed1", fail, {"why": "video missing"})])


def end(how: int) -> None:
    os.kill(os.getpid(), how)


def test_a_killed_worker_is_named_with_those_beside_it(monkeypatch):
    """Which of them it was, nobody can tell; those that waited for their turn it was not."""
    monkeypatch.setattr(jobs, "workers", lambda wanted: 2)
    todo = [Job("done", fail_not), Job("ended", end, {"how": signal.SIGKILL}), *(Job(f"{i}", wait) for i in range(3))]
    with pytest.raises(VsrError, match=r"^(done or ended|ended|ended or 0): its process was killed"):
        run_all(todo, every=0.1)


def fail_not() -> None:
    pass


PARENT = """
from test_jobs import wait
from vsr.jobs import Job, run_all
if __name__ == "__main__":
    run_all([Job(str(i), wait) for i in range(2)])
"""


def wait() -> None:
    time.sleep(600)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    """Else they would go on writing, and hold the locks of their runs."""
    (tmp_path / "parent.py").write_text(PARENT)
    tests = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], env=environment)
    children: list[psutil.Process] = []
    while sum(child.cpu_times().user > 1 for child in children) < 2 and parent.poll() is None:  # torch is imported
        time.sleep(0.2)
        children = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
