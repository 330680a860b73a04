"""Two runs in one folder: the second is refused; whatever a dead process left is taken over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_runs import open_run

from vsr.errors import VsrError
from vsr.workers import locks

TESTS = Path(__file__).resolve().parent
WORK = """
import sys, time
from test_runs import open_run
run = open_run(sys.argv[1])
print("in", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that works in the run folder below `tmp_path`."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, other, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    folder = tmp_path / "eval-base-vanilla-true"
    assert locks.held(folder)
    with pytest.raises(VsrError, match=f"process {other.pid} is working in it"):
        open_run(tmp_path)
    with pytest.raises(VsrError, match="is working in it"):
        open_run(tmp_path, mode="think")  # would have emptied it
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not locks.held(folder)
    assert not open_run(tmp_path).finished


def test_a_process_may_open_its_own_run_again_and_lets_go_when_finished(tmp_path):
    run, again = open_run(tmp_path), open_run(tmp_path)
    assert locks.held(run.path)
    again.finish()
    assert not locks.held(run.path)


def test_an_abandoned_run_is_let_go(tmp_path):
    folder = open_run(tmp_path).path
    assert not locks.held(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VsrError, match=r"file/eval-base-vanilla-true: cannot be written .*choose another --out"):
        open_run(tmp_path / "file")
