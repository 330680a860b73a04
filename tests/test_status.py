"""Signs of life, and what `vsr status` makes of them."""

import json
import time

import pytest
from test_runs import open_run

from vsr import cli, status, workers
from vsr.workers import Heart


def state(folder) -> str:
    (found,) = status.statuses(folder)
    return found.state


def test_a_run_is_running_then_dead_or_finished(tmp_path):
    run = open_run(tmp_path)
    Heart(run.path, 0, 10).beat(3)
    assert state(tmp_path) == "running"
    assert "| 3/10 |" in status.table(status.statuses(tmp_path))
    run.lock.release()  # as when its process ends
    assert state(tmp_path) == "dead"
    open_run(tmp_path).finish()
    assert state(tmp_path) == "finished"


def test_a_run_that_stopped_in_time_says_why(tmp_path):
    run = open_run(tmp_path)
    Heart(run.path, 0, 10).beat(3, "--max-hours")
    run.lock.release()
    assert "stopped: --max-hours" in status.table(status.statuses(tmp_path))


def test_a_hung_run_is_silent_and_a_slow_one_is_not(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    Heart(run.path, 0, 10).beat(0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + status.SILENT + 10)
    assert state(tmp_path) == "silent"
    slow = json.loads((run.path / workers.BEAT).read_text()) | {"rate": 1 / status.SILENT}
    (run.path / workers.BEAT).write_text(json.dumps(slow))
    assert state(tmp_path) == "running"


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    Heart(tmp_path, 0, 10).beat(1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= workers.last_beat(tmp_path).age < 60


def test_a_beat_of_another_boot_has_no_age_and_a_broken_one_is_none(tmp_path):
    Heart(tmp_path, 0, 10).beat(1)
    path = tmp_path / workers.BEAT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "elsewhere"}))
    assert workers.last_beat(tmp_path).age is None
    path.write_text("{")
    assert workers.last_beat(tmp_path) is None


@pytest.mark.parametrize(("finish", "code"), [(True, 0), (False, 3)])
def test_the_exit_code_says_whether_a_run_needs_attention(tmp_path, capsys, finish, code):
    run = open_run(tmp_path)
    if finish:
        run.finish()
    run.lock.release()
    assert not workers.held(run.path)
    assert cli.main(["status", "--out", str(tmp_path)]) == code
    assert run.path.name in capsys.readouterr().out
