"""A worker whose step never ends is ended and reported; nobody else's process is."""

import faulthandler
import re
import time
from pathlib import Path

import pytest

from vsr.errors import VsrError
from vsr.workers import heartbeat, hung, jobs
from vsr.workers.heartbeat import Heart
from vsr.workers.jobs import Job, run_all


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
    time.sleep(5)  # done: nobody waits for a step
    (run / "done").touch()


@pytest.mark.slow
def test_a_job_that_hangs_is_ended_and_named_and_a_rerun_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "workers", lambda wanted: 2)
    monkeypatch.setenv(hung.LIMIT, "3")
    todo = [Job(name, work, {"folder": str(tmp_path / name)}) for name in ("stuck", "sound")]
    for job in todo:
        Path(job.arguments["folder"]).mkdir()
    with pytest.raises(VsrError) as error:
        run_all(todo, every=0.1)
    assert time.monotonic() - heartbeat.read(tmp_path / "stuck").at < 30
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'stuck'}: hung in step 3 of 5, no sign of life for 3 s;")
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
    monkeypatch.setattr(hung, "_file", None)
    yield waits
    if hung._file is not None:
        hung._file.close()


def test_the_users_own_process_is_not_watched(tmp_path, armed):
    Heart(tmp_path, 0, 5).beat(1)
    run_all([Job("one", Heart, {"folder": tmp_path, "first": 0, "total": 5})])
    assert armed == []


def test_a_worker_is_watched_until_its_last_step_or_its_stop(tmp_path, armed):
    hung.watch(tmp_path / "stacks")
    heart = Heart(tmp_path, 0, 3)
    heart.beat(1)
    assert len(armed) == 2
    heart.beat(2, "--max-hours")
    heart.beat(3)
    assert len(armed) == 2
    assert (tmp_path / "stacks").read_text() == ""
    Heart(tmp_path / "other", 0, 3, written=False)
    assert len(armed) == 3
    assert heartbeat.read(tmp_path / "other") is None
    assert hung.read(tmp_path / "stacks") is None  # it waits, it has not hung


def test_slow_steps_are_waited_for(monkeypatch):
    monkeypatch.delenv(hung.LIMIT, raising=False)
    assert hung.limit(0.0) == hung.limit(1.0) == 1800
    assert hung.limit(1e-3) == 20_000
    monkeypatch.setenv(hung.LIMIT, "5")
    assert hung.limit(1e-3) == 5
    monkeypatch.setenv(hung.LIMIT, "soon")
    with pytest.raises(VsrError, match="VSR_HUNG_SECONDS=soon: expected a number of seconds"):
        hung.limit(0.0)
