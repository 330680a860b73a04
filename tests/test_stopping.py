"""A training that stops in time, or whose checkpoint was damaged, ends with the adapter of an unbroken one."""

import errno
import os
import shutil
import signal

import pytest
import torch
from grpo_setup import ROWS, adapted, adapter_of, arguments, letters, see, small_folder, small_study
from transformers import Trainer

from vsr import cli, runs, workers
from vsr.errors import Stopped, VsrError
from vsr.train.fit import last_checkpoint
from vsr.train.grpo import train_grpo


def train(folder, out, steps=4, **options):
    loaded = adapted(folder)
    train_grpo(loaded, ROWS, [letters], arguments(out, max_steps=steps, save_steps=2), see, **options)
    return adapter_of(loaded)


def same(ours: dict, theirs: dict) -> bool:
    """To the bit: that is promised for the same steps on the same machine, and for nothing else."""
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def checkpoints(out) -> list[str]:
    return sorted(path.name for path in out.glob("checkpoint-*"))


def test_a_deadline_stops_after_a_whole_step_and_the_rerun_goes_on(trained, tmp_path, monkeypatch):
    monkeypatch.setenv(workers.UNTIL, "0")
    folder, out = trained[0], tmp_path / "late"
    for step in (1, 2, 3):
        with pytest.raises(Stopped, match=rf"stopped after step {step} \(--max-hours\); run it again to continue"):
            train(folder, out)
        assert checkpoints(out)[-1] == f"checkpoint-{step}"
        assert workers.last_beat(out).stopped == "--max-hours"
    assert same(train(folder, out), trained[2])
    assert workers.last_beat(out).stopped is None


def test_a_terminated_process_keeps_a_checkpoint(tmp_path):
    def terminate(line):
        if line["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"step 1 \(terminated\)"):
        train(small_folder(tmp_path), tmp_path / "run", on_step=terminate)
    assert checkpoints(tmp_path / "run") == ["checkpoint-1"]
    assert signal.getsignal(signal.SIGTERM) is before


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model's folder, a finished training with two checkpoints, and its adapter."""
    parent = tmp_path_factory.mktemp("trained")
    folder = small_folder(parent)
    return folder, parent / "run", train(folder, parent / "run")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", cut),
        ("adapter_model.safetensors", os.unlink),
        ("optimizer.pt", cut),
        ("optimizer.pt", flip),
        ("scheduler.pt", cut),
        ("rng_state.pth", cut),
        ("trainer_state.json", cut),
    ],
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_used(trained, tmp_path, capsys, name, damage):
    out = tmp_path / "run"
    shutil.copytree(trained[1], out)
    damage(out / "checkpoint-4" / name)
    assert last_checkpoint(out) == out / "checkpoint-2"
    said = capsys.readouterr().err
    assert "checkpoint-4: damaged" in said
    assert "the one before is used" in said
    assert str(tmp_path) not in said


def test_a_training_goes_on_from_the_checkpoint_before(trained, tmp_path):
    folder, out, expected = trained
    shutil.copytree(out, tmp_path / "run")
    cut(tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors")
    assert same(train(folder, tmp_path / "run"), expected)


def test_a_disk_that_fills_up_names_the_checkpoint_and_leaves_no_half(trained, tmp_path, monkeypatch):
    folder, out, whole = trained[0], tmp_path / "run", Trainer._save_checkpoint

    def full(self, model, trial):
        if self.state.global_step == 4:
            (out / "checkpoint-4").mkdir()
            (out / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self, model, trial)

    monkeypatch.setattr(Trainer, "_save_checkpoint", full)
    with pytest.raises(VsrError, match=r"checkpoint-4: could not be written .*No space left .*free some space"):
        train(folder, out)
    assert checkpoints(out) == ["checkpoint-2"]
    monkeypatch.setattr(Trainer, "_save_checkpoint", whole)
    assert same(train(folder, out), trained[2])


def test_the_command_stops_with_75_and_ends_with_0(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv(workers.UNTIL, "inf")  # and as it was after this test
    profile, data = small_study(tmp_path)
    words = ["train", "grpo", "--profile", "smoke", "--data", str(data), "--out", str(tmp_path / "results")]
    words += ["--set", f"base={profile.base}", "--set", "frames=4", "--set", "max_completion_length=6"]
    words += ["--max-hours", "0"]  # at least one step is done, whatever the time
    assert cli.main(words) == 75
    assert "run it again to continue" in capsys.readouterr().err
    assert cli.main(["status", "--out", str(tmp_path / "results")]) == 3
    assert "stopped: --max-hours" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert cli.main(["status", "--out", str(tmp_path / "results")]) == 0
