"""Training on several devices, here two processes on the CPU: it outlives who asked for it, stops when told, and says
why it failed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from baseline_setup import staged
from grpo_setup import small_study
from safetensors.torch import load_file

from vsr import profiles, workers
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl
from vsr.questions.dataset import load as load_questions
from vsr.study import Study
from vsr.train import grpo, launch
from vsr.train import train as train_here

TESTS = Path(__file__).resolve().parent
FAILED = """[default0]:all is well
[default1]:Traceback
[default1]:ValueError: a bad day
[default0]:[rank0]: connection closed by peer
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 782) {name}
  traceback : To enable traceback see: a page
"""


def test_the_reason_is_that_of_the_process_that_failed_first():
    said = launch.reason(FAILED.format(code=1, name=""))
    assert said.startswith("process 1 ended with exit code 1; run it again to continue")
    assert said.endswith("Traceback\nValueError: a bad day")
    assert "process 1 was killed by SIGKILL (out of memory?)" in launch.reason(FAILED.format(code=-9, name="(SIGKILL)"))
    assert "without a word" in launch.reason("Segmentation fault")


def test_a_job_inherits_no_place_among_others_and_no_notebook(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "ACCELERATE_USE_FSDP",
        "VSR_EXECUTED",
        "JPY_PARENT_PID",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("VSR_HUNG_SECONDS", "60")
    inherited = launch.environment()
    assert inherited["NCCL_DEBUG"] == "INFO"
    assert inherited["VSR_HUNG_SECONDS"] == "60"
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_FSDP"} & inherited.keys()
    assert not {"VSR_EXECUTED", "JPY_PARENT_PID"} & inherited.keys()


def test_what_cannot_work_is_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(VsrError, match=r"gpus=1000: this machine has \d+"):
        launch.check(1000)
    with pytest.raises(VsrError, match=r"none\.yaml: no such file; make one with 'accelerate config"):
        launch.check(1, tmp_path / "none.yaml")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args = grpo.config(profiles.get("smoke"), tmp_path)
    with pytest.raises(VsrError, match="FSDP in accelerate's config is not supported"):
        grpo.check(args)


def test_a_notebook_trains_on_the_devices_it_was_offered(tmp_path, monkeypatch):
    profile, data = small_study(tmp_path)
    study = Study(replace(profile, seeds=2), tmp_path)
    study.__dict__["train"] = load_questions(data)  # a cached property: no rooms are made
    asked = []
    monkeypatch.setattr(
        launch,
        "train_all",
        lambda trainings, gpus, **_: (
            asked.extend((one, gpus) for one in trainings) or [one.folder for one in trainings]
        ),
    )
    monkeypatch.setenv(launch.GPUS, "2")
    folders = study.grpo(["think"], betas=[0.5], live=False)
    assert [folder.name for folder in folders] == ["grpo-think-seed0-beta0.5", "grpo-think-seed1-beta0.5"]
    assert [(training.seed, training.data, devices) for training, devices in asked] == [
        (s, str(data), 2) for s in (0, 1)
    ]
    asked.clear()
    folders = study.baselines(live=False)
    assert [folder.name for folder in folders] == ["sft-seed0", "sft-seed1", "dpo-seed0", "dpo-seed1"]
    assert [(training.method, training.folder, devices) for training, devices in asked] == [
        (folder.name[:3], folder, 2) for folder in folders
    ]


ASK = """
import json, sys
from vsr.profiles import Profile
from vsr.train import launch
job = json.loads(sys.argv[1])
launch.train(launch.Training(**{**job, "profile": Profile(**job["profile"])}), 2)
"""


@pytest.fixture
def training(tmp_path):
    """Of 60 steps of two questions."""
    profile, data = small_study(tmp_path)
    profile = replace(profile, max_steps=60, learning_rate=1e-3)
    return launch.Training("grpo", profile, str(data), str(tmp_path))


def wait_for(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps(training) -> int:
    beat = workers.last_beat(training.folder)
    return beat.step if beat else 0


@pytest.mark.slow
def test_a_job_outlives_who_asked_for_it_and_is_followed_to_its_end(training, tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    job = json.dumps(asdict(training))
    asker = subprocess.Popen([sys.executable, "-c", ASK, job], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: steps(training) >= 1)
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    here = training.here
    assert workers.held(here)
    pid = (here / "pid").read_text()
    launch.train(training, 2)
    assert (here / "pid").read_text() == pid
    assert read_json(training.folder / "manifest.json")["finished"]
    one = train_here("grpo", training.profile, load_questions(training.data), tmp_path / "one")
    ours, theirs = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (training.folder, one.path))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_train_a_baseline_as_one_does(tmp_path, monkeypatch, method):
    """Six steps of two questions, one on each process, whose answers differ in length: per-token means of each process
    alone would weigh them otherwise."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    with staged(tmp_path) as stage:
        profile = stage.profile(questions_per_step=2, sft_learning_rate=1e-3, dpo_learning_rate=1e-3)
        two = launch.train(launch.Training(method, profile, str(stage.data.folder), str(tmp_path / "two")), 2)
        one = train_here(method, profile, stage.data, tmp_path / "one")
    assert two.name == one.path.name == f"{method}-seed0"
    ours, theirs = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (two, one.path))
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    moved = min(float(weight.abs().max()) for name, weight in theirs.items() if "lora_B" in name)
    print(f"the adapters moved by {moved:.1e} or more and end {apart:.1e} apart")
    assert moved > 1e-3
    assert apart < 1e-5
    found, wanted = (list(read_jsonl(path / "log.jsonl")) for path in (two, one.path))
    assert [line["step"] for line in found] == [line["step"] for line in wanted] == [1, 2, 3, 4, 5, 6]
    assert [line["tokens"] for line in found] == [line["tokens"] for line in wanted]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], abs=1e-5)
    assert [line["grad_norm"] for line in found] == pytest.approx([line["grad_norm"] for line in wanted], rel=1e-3)
    assert not list(two.glob("checkpoint-*"))


@pytest.mark.slow
def test_hung_then_interrupted_then_killed_it_says_why_and_continues(training, monkeypatch):
    """A step that takes longer than it may; the same command again, interrupted; and again, one process killed."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    training = replace(training, profile=replace(training.profile, max_steps=100_000))
    with monkeypatch.context() as patch:
        patch.setenv("VSR_HUNG_SECONDS", "0.001")
        with pytest.raises(VsrError, match=r"vanilla-seed0: hung in step 1 of 100000, (.|\n)*same command continues"):
            launch.train(training, 2)
    stacks = [path.read_text() for path in training.here.glob("stacks-*")]
    assert any("most recent call first" in text for text in stacks)

    def interrupt(step):
        if step >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.train_all([training], 2, show=lambda _: interrupt(steps(training)))
    beat = workers.last_beat(training.folder)
    assert beat.stopped == "interrupted"
    assert [path.name for path in training.folder.glob("checkpoint-*")] == [f"checkpoint-{beat.step}"]
    killed = []

    def kill(step):
        if step > beat.step and not killed:
            launcher = int((training.here / "pid").read_text())
            with pytest.raises(VsrError, match="another training is running in it"):
                launch.train(replace(training, fresh=True), 2)
            (victim,) = (p for p in launch._processes(launcher) if p.environ()["RANK"] == "1")
            victim.kill()
            killed.append(time.monotonic())

    with pytest.raises(VsrError, match="process 1 was killed by SIGKILL"):
        launch.train_all([training], 2, show=lambda _: kill(steps(training)))
    assert time.monotonic() - killed[0] < 60


def test_trainings_share_a_node_s_devices():
    """Side by side, each on a number of devices that divides its step's questions."""
    assert launch.shares(8, 1, 8) == (1, 8)
    assert launch.shares(8, 3, 8) == (3, 2)
    assert launch.shares(8, 2, 6) == (2, 2)  # three would not divide eight
    assert launch.shares(8, 15, 8) == (8, 1)
    assert launch.shares(8, 3, 1) == (1, 1)


def test_a_job_among_others_sees_its_share_of_the_gpus(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment()
    assert launch.environment(2, 2)["CUDA_VISIBLE_DEVICES"] == "4,5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    assert launch.environment(1, 3)["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.slow
def test_two_trainings_run_side_by_side_and_a_failure_starts_no_third(training, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    small = replace(training, profile=replace(training.profile, max_steps=2))
    wrong = replace(small, seed=1, profile=replace(small.profile, base="no-such-folder"))
    first, second, third = small, replace(wrong, method="sft"), replace(small, seed=2)
    with pytest.raises(VsrError, match=r"sft-seed1: process 0 ended with exit code 2"):
        launch.train_all([first, second, third], 2)
    assert read_json(first.folder / "manifest.json")["finished"]
    assert not third.folder.exists()


@pytest.mark.slow
def test_the_example_for_two_nodes_trains_what_one_process_does(training, tmp_path):
    """Its very command, as two nodes of one process run it, here on one machine."""
    example = (TESTS.parent / "examples" / "multinode.sbatch").read_text()
    command = example.partition("accelerate launch")[2].partition("'")[0].replace("\\\n", " ")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = replace(training.profile, max_steps=2)
    settings = {name: getattr(small, name) for name in ("base", "frames", "max_steps", "num_generations")}
    settings |= {"max_completion_length": 6, "learning_rate": 1e-3}
    more = " ".join(f"--set {key}={value}" for key, value in settings.items())
    for old, new in {
        "--multi_gpu": "--cpu", "$SLURM_NNODES": "2", "--num_processes 8": "--num_processes 2", "$HEAD": "127.0.0.1",
        "29500": f"{port}", "paper-2b": f"smoke --data {training.data} --out {tmp_path / 'nodes'} {more}",
        "$MODE": "vanilla", "$SEED": "0", "--max-hours 11.5": "",
    }.items():  # fmt: skip
        assert old in command
        command = command.replace(old, new)
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    environment = launch.environment() | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen([*launcher, *command.replace("$SLURM_NODEID", rank).split()], env=environment)
        for rank in ("0", "1")
    ]
    assert [node.wait(timeout=500) for node in nodes] == [0, 0]
    one = train_here("grpo", small, load_questions(training.data), tmp_path / "one")
    weights = (
        path / "grpo-vanilla-seed0" / "adapter" / "adapter_model.safetensors"
        for path in (tmp_path / "nodes", one.path.parent)
    )
    ours, theirs = map(load_file, weights)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5
