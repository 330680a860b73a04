"""The study's training run, from a folder of questions to an adapter that loads; a killed process; two together."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from baseline_setup import die_at
from grpo_setup import ROWS, adapted, adapter_of, arguments, letters, see, small_folder, small_study

from vsr import models, profiles, runs
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl
from vsr.models.adapters import adapter_hash
from vsr.questions.dataset import load as load_questions
from vsr.scoring import rewards
from vsr.train import train
from vsr.train.grpo import questions_a_process, train_grpo

TESTS = Path(__file__).resolve().parent


def digits(completions, **_):
    """A reward that even a random model earns now and then."""
    return [sum(ord(c) % 2 for c in completion[0]["content"]) for completion in completions]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A profile, a folder with three rooms and two questions each, and where features are kept."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    profile, folder = small_study(tmp_path)
    return profile, load_questions(folder), tmp_path / "results"


@pytest.mark.parametrize("mode", ["vanilla", "observe"])
def test_a_run_leaves_an_adapter_a_log_and_nothing_to_do(study, mode):
    profile, data, out = study
    run = train("grpo", profile, data, out, 1, mode=mode)
    assert run.path.name == f"grpo-{mode}-seed1"
    assert run.finished
    lines = list(read_jsonl(run.path / "log.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert ("rewards/format_reward/mean" in lines[0]) == (mode != "vanilla")
    assert {path.name for path in run.path.iterdir() if path.is_dir()} == {"adapter"}
    loaded = models.load(profile.base, adapter=run.path)
    trained = [p for name, p in loaded.model.named_parameters() if "lora_B" in name]
    assert all(p.isfinite().all() for p in trained)
    assert run.manifest["adapter"] == adapter_hash(run.path)
    log = (run.path / "log.jsonl").read_bytes()
    again = train("grpo", profile, data, out, 1, mode=mode)
    assert again.finished
    assert (run.path / "log.jsonl").read_bytes() == log


def test_each_video_is_seen_once(study):
    profile, data, out = study
    train("grpo", profile, data, out, 1)
    kept = sorted((runs.ROOT / "data" / "features").iterdir())
    assert 1 <= len(kept) <= 3
    train("grpo", profile, data, out, 2)
    assert set(kept) <= set((runs.ROOT / "data" / "features").iterdir())


def test_seeds_and_beta_have_runs_of_their_own_and_the_base_comes_back_bare(study, monkeypatch):
    monkeypatch.setattr(rewards, "trl_rewards", lambda *_, **__: [digits])
    profile, data, out = study
    loaded = models.load(profile.base)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    paths = [train("grpo", profile, data, out, 1, beta=beta, loaded=loaded).path for beta in (None, 0.0, 0.5)]
    assert train("grpo", profile, data, out, 1, beta=profile.beta, on_step=die_at(1)).path == paths[0]  # the same run
    assert [path.name for path in paths] == [
        "grpo-vanilla-seed1", "grpo-vanilla-seed1-beta0", "grpo-vanilla-seed1-beta0.5",
    ]  # fmt: skip
    assert [read_json(path / "manifest.json")["settings"]["beta"] for path in paths] == [1e-4, 0.0, 0.5]
    after = dict(loaded.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    adapters = [(path / "adapter" / "adapter_model.safetensors").read_bytes() for path in paths]
    assert adapters[1] != adapters[2]


def test_a_missing_video_names_the_question_and_the_run_can_go_on(study):
    profile, data, out = study
    held = (data.folder / "videos" / "room1.mp4").read_bytes()
    (data.folder / "videos" / "room1.mp4").unlink()
    with pytest.raises(VsrError, match=r"sample '[cd]1': .*room1\.mp4"):
        train("grpo", profile, data, out, 1)
    (data.folder / "videos" / "room1.mp4").write_bytes(held)
    assert train("grpo", profile, data, out, 1).finished


@pytest.mark.parametrize(
    ("change", "message"), [({"num_generations": 1}, "num_generations=1"), ({"beta": -1.0}, "beta")]
)
def test_bad_settings_stop_before_any_work(study, change, message):
    profile, data, out = study
    with pytest.raises(VsrError, match=message):
        train("grpo", dataclasses.replace(profile, **change), data, out)


KILL = """
import os, signal, sys
from pathlib import Path
from grpo_setup import ROWS, adapted, arguments, letters, see
from vsr.train.grpo import train_grpo
folder, out = map(Path, sys.argv[1:])
def kill(line):
    if line["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train_grpo(adapted(folder), ROWS, [letters], arguments(out, max_steps=6, save_steps=2), see, on_step=kill)
"""


def python(*words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_same_adapter(tmp_path):
    folder = small_folder(tmp_path)
    done = python("-c", KILL, str(folder), str(tmp_path / "killed"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    found, expected = adapted(folder), adapted(folder)
    for loaded, out in ((found, "killed"), (expected, "whole")):
        torch.set_num_threads(1)
        train_grpo(loaded, ROWS, [letters], arguments(tmp_path / out, max_steps=6, save_steps=2), see)
    ours, theirs = adapter_of(found), adapter_of(expected)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # same machine, same shapes: same bits


TOGETHER = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from grpo_setup import ROWS, adapted, adapter_of, arguments, letters, see
from vsr.train.grpo import train_grpo
folder, out = map(Path, sys.argv[1:])
args = arguments(out, max_steps=20, per_device_train_batch_size=4, learning_rate=3e-3, save_strategy="no", use_cpu=True)
loaded = adapted(folder, seed=args.process_index)  # different starts: the first process's must win
train_grpo(loaded, ROWS, [letters], args, see)
save_file(adapter_of(loaded), out / f"{args.process_index}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Twenty steps of two questions, one on each process: the adapter and log of one process with both."""
    from safetensors.torch import load_file

    folder = small_folder(tmp_path)
    (tmp_path / "go.py").write_text(TOGETHER)
    (tmp_path / "out").mkdir()
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "go.py")]
    done = python(*words, str(folder), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    one = adapted(folder)
    before = adapter_of(one)
    settings = {"max_steps": 20, "learning_rate": 3e-3, "save_strategy": "no"}
    args = arguments(tmp_path / "one", per_device_train_batch_size=8, **settings)
    train_grpo(one, ROWS, [letters], args, see)
    expected = adapter_of(one)
    first, second = (load_file(tmp_path / "out" / f"{i}.safetensors") for i in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)  # both apply the same reduced gradient
    apart = max(float((first[name] - expected[name]).abs().max()) for name in expected)
    moved = min(float((before[name] - expected[name]).abs().max()) for name in expected)
    print(f"the adapters moved by {moved:.1e} or more and end {apart:.1e} apart")
    assert moved > 1e-2
    assert apart < 1e-5
    found, wanted = (list(read_jsonl(tmp_path / which / "log.jsonl")) for which in ("out", "one"))
    assert [line["step"] for line in found] == list(range(1, 21))
    assert [line["inputs"] for line in found] == [line["inputs"] for line in wanted]  # the same prompts, in order
    for key in ("loss", "reward", "completions/mean_length", "completions/max_length", "grad_norm"):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in wanted], abs=1e-5), key


def test_groups_are_never_split_among_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    profile = profiles.get("tiny", questions_per_step=6)
    assert questions_a_process(profile) == 2
    with pytest.raises(VsrError, match="questions_per_step=8 cannot be shared out evenly among 3 processes"):
        questions_a_process(dataclasses.replace(profile, questions_per_step=8))
