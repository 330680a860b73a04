"""Processes side by side: one writer a folder, every job done or named, a hung one ended, none outlives its parent."""

import faulthandler
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_runs import open_run

from vsr import workers
from vsr.errors import VsrError
from vsr.workers import Heart, pool
from vsr.workers.pool import Job, run_all

TESTS = Path(__file__).resolve().parent
HOLD = """
import sys, time
from test_runs import open_run
run = open_run(sys.argv[1])
print("in", flush=True)
time.sleep(60)
"""
PARENT = """
import signal, sys
from test_workers import wait
from vsr.workers import pool
from vsr.workers.pool import Job, run_all
pool.PRELOADED = []
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits that it is ignored
if __name__ == "__main__":
    run_all([Job(str(i), wait, {"started": f"{sys.argv[1]}/{i}"}) for i in range(2)])
"""


def python(*words: str, **how) -> subprocess.Popen:
    """A process that imports these tests, killed by whoever asked for it."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, text=True, **how)


@pytest.fixture
def other(tmp_path):
    """A process that works in the run folder below `tmp_path`."""
    process = python("-c", HOLD, str(tmp_path), stdout=subprocess.PIPE)
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, other, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    folder = tmp_path / "eval-base-vanilla-true"
    assert workers.held(folder)
    for changes in ({}, {"mode": "think"}):  # another run would take its place
        with pytest.raises(VsrError, match=f"process {other.pid} is working in it"):
            open_run(tmp_path, **changes)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not workers.held(folder)
    assert not open_run(tmp_path).finished


def test_a_process_may_open_its_own_run_again_and_lets_go_when_finished_or_forgotten(tmp_path):
    run, again = open_run(tmp_path), open_run(tmp_path)
    assert workers.held(run.path)
    again.finish()
    assert not workers.held(run.path)
    folder = open_run(tmp_path, mode="think").path
    assert not workers.held(folder)


def test_a_folder_may_be_moved_aside_while_its_lock_is_held(tmp_path):
    run = open_run(tmp_path)
    run.path.rename(tmp_path / "aside")
    assert workers.held(run.path)
    assert not workers.held(tmp_path / "aside")
    assert workers.hold(run.path) is run.lock


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VsrError, match=r"file/eval-base-vanilla-true: cannot be written .*choose another --out"):
        open_run(tmp_path / "file")


def write(path: str) -> None:
    """What a worker does here."""
    import torch

    Path(path).write_text(f"{torch.get_num_threads()} {os.getpid()} {os.environ.get('TOLD')}")


def act(failure: str = "", killed: bool = False) -> None:
    """End badly, or well."""
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    if failure:
        raise VsrError(failure)


def wait(started: str) -> None:
    Path(started).touch()
    time.sleep(600)


@pytest.fixture
def two(monkeypatch):
    """Two processes, whatever this machine has."""
    monkeypatch.setattr(pool, "processes", lambda wanted: 2)


def test_every_job_is_done_and_counted_in_processes_of_one_thread(tmp_path, monkeypatch, two):
    for told in ("first", "later"):  # the server that workers are forked from is older than what is set now
        monkeypatch.setenv("TOLD", told)
        counted, paths = [], [tmp_path / f"{told}{i}" for i in range(3)]
        run_all([Job(path.name, write, {"path": str(path)}) for path in paths], counted.append, every=0.1)
        threads, pids, seen = zip(*(path.read_text().split() for path in paths), strict=True)
        assert counted[-1] == 3
        assert set(threads) == {"1"}
        assert str(os.getpid()) not in pids
        assert set(seen) == {told}


def test_one_process_does_its_jobs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "processes", lambda wanted: 1)
    counted = []
    run_all([Job(str(i), write, {"path": str(tmp_path / str(i))}) for i in range(3)], counted.append)
    assert counted == [1, 2, 3]
    assert (tmp_path / "2").read_text().split()[1] == str(os.getpid())


def test_a_failing_job_is_named(two):
    with pytest.raises(VsrError, match="grpo-think-seed1: video missing"):
        run_all([Job("grpo-think-seed1", act, {"failure": "video missing"})])


def test_a_killed_worker_is_named_with_those_beside_it(tmp_path, two):
    """Which of them it was, nobody can tell; those that waited for their turn it was not."""
    waiting = [Job(f"{i}", wait, {"started": str(tmp_path / str(i))}) for i in range(3)]
    with pytest.raises(VsrError, match=r"^(done or ended|ended|ended or 0): its process was killed"):
        run_all([Job("done", act), Job("ended", act, {"killed": True}), *waiting], every=0.1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_leave_what_there_is_to_say_to_it(tmp_path, end):
    """Else they would go on writing, and hold the locks of their runs. Ctrl-C reaches all of them at once."""
    (tmp_path / "parent.py").write_text(PARENT)
    parent = python(str(tmp_path / "parent.py"), str(tmp_path), stderr=subprocess.PIPE, start_new_session=True)
    while not all((tmp_path / name).exists() for name in "01") and parent.poll() is None:
        time.sleep(0.1)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) > 2
    parent.kill() if end == signal.SIGKILL else os.killpg(parent.pid, end)
    told = parent.communicate(timeout=60)[1]
    assert told.count("Traceback") == (end == signal.SIGINT)
    _, there = psutil.wait_procs(children, timeout=60)
    # a container without an init does not wait for orphans: there they end as zombies
    assert [one for one in there if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def work(folder: str) -> None:
    """Five steps; the first time, the third never ends."""
    run = Path(folder)
    heart = Heart(run, 0, 5)
    heart.beat(1)
    heart.beat(2)
    if run.name == "stuck" and not (run / "tried").exists():
        (run / "tried").touch()
        time.sleep(600)
    for step in (3, 4, 5):
        heart.beat(step)
    time.sleep(2)  # done: nobody waits for a step
    (run / "done").touch()


def test_a_job_that_hangs_is_ended_and_named_and_a_rerun_continues(tmp_path, monkeypatch, two):
    monkeypatch.setenv(workers.LIMIT, "1")
    todo = [Job(name, work, {"folder": str(tmp_path / name)}) for name in ("stuck", "sound")]
    for job in todo:
        Path(job.arguments["folder"]).mkdir()
    with pytest.raises(VsrError) as error:
        run_all(todo, every=0.1)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'stuck'}: hung in step 3 of 5, no sign of life for 1 s;")
    assert said.endswith("the same command continues")
    stacks = Path(re.search(r"stood is in (.*?);", said)[1]).read_text()
    assert "most recent call first" in stacks
    assert "in work" in stacks
    run_all(todo, every=0.1)
    assert all((tmp_path / name / "done").exists() for name in ("stuck", "sound"))


@pytest.fixture
def armed(monkeypatch):
    """The seconds of every wait that began in this process, which is not ended."""
    waits = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: waits.append(seconds))
    monkeypatch.setattr(workers, "_stacks", None)
    yield waits
    if workers._stacks is not None:
        workers._stacks.close()


def test_only_a_worker_is_watched_until_its_last_step_or_its_stop(tmp_path, armed):
    Heart(tmp_path, 0, 5).beat(1)
    run_all([Job("one", Heart, {"folder": tmp_path, "first": 0, "total": 5})])
    assert armed == []  # the user's own process
    workers.watch(tmp_path / "stacks")
    heart = Heart(tmp_path, 0, 3)
    heart.beat(1)
    assert len(armed) == 2
    heart.beat(2, "--max-hours")
    heart.beat(3)
    assert len(armed) == 2
    assert (tmp_path / "stacks").read_text() == ""
    Heart(tmp_path / "other", 0, 3, written=False)
    assert len(armed) == 3
    assert workers.last_beat(tmp_path / "other") is None
    assert workers.hung(tmp_path / "stacks") is None  # it waits, it has not hung


def test_slow_steps_are_waited_for(monkeypatch):
    monkeypatch.delenv(workers.LIMIT, raising=False)
    assert workers.patience(0.0) == workers.patience(1.0) == 1800
    assert workers.patience(1e-3) == 20_000
    monkeypatch.setenv(workers.LIMIT, "5")
    assert workers.patience(1e-3) == 5
    monkeypatch.setenv(workers.LIMIT, "soon")
    with pytest.raises(VsrError, match="VSR_HUNG_SECONDS=soon: expected a number of seconds"):
        workers.patience(0.0)
