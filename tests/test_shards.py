"""An evaluation shared out among processes ends with the bytes of one process, whatever was killed on the way."""

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_folder, write_video

from vsr import evaluate, models, profiles, shards
from vsr.errors import VsrError
from vsr.files import append_jsonl, read_json, read_jsonl
from vsr.questions import dataset
from vsr.questions.question import Question, write_questions
from vsr.study import Study
from vsr.train import launch
from vsr.workers.pool import STACKS

TESTS = Path(__file__).resolve().parent
SCENES = [f"room{i:02d}" for i in range(12)]
COMPARED = ("samples.jsonl", "summary.json")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A profile whose base, a random model, answers differently about different videos; twelve rooms with two questions
    each, one of them without a video; and the run of one process."""
    folder = tmp_path_factory.mktemp("stage")
    base = small_folder(folder)
    loaded = models.load(str(base))
    with torch.no_grad():
        for p in loaded.model.parameters():
            if p.ndim > 1:
                p.mul_(8)
    loaded.model.save_pretrained(base)
    ask = [("object_counting", "How many chair(s) are in this room?"), ("room_size_estimation", "How large is it?")]
    questions = [Question(f"{s}-{k}", "rooms", s, k, text, None, "3") for k, text in ask for s in SCENES]
    write_questions(folder / "bench" / "questions.jsonl", questions)
    for i, scene in enumerate(SCENES[1:]):
        write_video(folder / "bench" / "videos" / f"{scene}.mp4", i)
    profile = profiles.get("smoke", base=str(base), frames=4, max_new_tokens=12, bootstrap=50)
    data = dataset.load(folder / "bench")
    return profile, data, evaluate.evaluate("base", data, "vanilla", "true", profile, folder / "one")


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))


def on(processes: int, stage, out: Path, video: str = "true"):
    profile, data, _ = stage
    return shards.evaluate("base", data, "vanilla", video, profile, out, processes)


def same(run, other) -> bool:
    """Of tokens and scores, no floats of the model: rounding, which differs between batches, shows at a tie alone."""
    return all((run.path / name).read_bytes() == (other.path / name).read_bytes() for name in COMPARED)


def kill(*_):
    """In place of the progress: once a scene is answered, kill -9 a process that works."""

    def shown(_):
        for worker in multiprocessing.active_children()[:1]:
            worker.kill()  # nothing where it is dead already: this is called until that is noticed

    return shown


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(stage, tmp_path):
    profile, data, one = stage
    responses = {row["response"] for row in read_jsonl(one.path / "samples.jsonl")}
    assert len(responses) > 5  # else nothing would be compared
    run = on(2, stage, tmp_path)
    assert same(run, one)
    assert run.manifest["questions_answered"] == 24
    assert run.manifest["processes"] == 2
    assert not (run.path / shards.FOLDER).exists()
    again = evaluate.evaluate("base", data, "vanilla", "true", profile, tmp_path)  # the very run: nothing to do
    assert again.manifest == read_json(run.path / "manifest.json")
    assert on(2, stage, tmp_path).manifest == again.manifest


@pytest.mark.slow
def test_hung_then_killed_it_says_so_and_no_scene_is_answered_twice(stage, tmp_path, monkeypatch):
    """A process whose first scene takes longer than it may; then one that is killed; then to the end on two and on
    one."""
    monkeypatch.setattr(shards, "EVERY", 0.01)
    out, run = tmp_path / "2", "eval-base-vanilla-true"
    with monkeypatch.context() as patch:
        patch.setenv("VSR_HUNG_SECONDS", "0.001")
        with pytest.raises(VsrError, match=r"-vanilla-true/\S+: hung in step \d of 6, .*the same command continues"):
            on(2, stage, out)
    stacks = (out / run / shards.FOLDER).glob(f"*/{STACKS}")
    assert any("most recent call first" in path.read_text() for path in stacks)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "Counted", kill)
        with pytest.raises(VsrError, match=rf"{run}, process [01] of 2.*: its process was killed"):
            on(2, stage, out)
    kept = [row for file in (out / run).rglob("samples.jsonl") for row in read_jsonl(file)]
    answered = [scene for scene, _ in {(row["scene_name"], row["id"]) for row in kept}]
    whole = sum(answered.count(scene) == 2 for scene in SCENES)
    assert 0 < whole < 12
    shutil.copytree(out, tmp_path / "1")
    for then in (2, 1):
        found = on(then, stage, tmp_path / str(then))
        assert found.manifest["questions_answered"] == 24 - 2 * whole
        assert same(found, stage[2])


@pytest.mark.slow
def test_it_takes_over_what_one_process_began_also_on_shuffled_videos(stage, tmp_path, monkeypatch):
    profile, data, _ = stage
    append, written = append_jsonl, []
    what = ("base", data, "vanilla", "shuffled", profile)

    def dies(path, row):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(row)
        append(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "append_jsonl", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluate.evaluate(*what, tmp_path / "two")
    run = on(2, stage, tmp_path / "two", "shuffled")
    assert run.manifest["questions_answered"] == 20
    assert same(run, evaluate.evaluate(*what, tmp_path / "one"))


def test_more_devices_than_there_are_is_an_error(stage, tmp_path):
    with pytest.raises(VsrError, match=r"gpus=1000: this machine has \d+"):
        on(1000, stage, tmp_path)
    with pytest.raises(VsrError, match=r"gpus=0: this machine has \d+"):
        on(0, stage, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_study_shares_out_each_evaluation_among_the_gpus_it_is_offered(stage, tmp_path, monkeypatch):
    profile, data, one = stage
    study, asked = Study(profile, tmp_path), []
    study.__dict__["bench"] = data  # a cached property: no rooms are made
    monkeypatch.setattr(shards, "evaluate", lambda *what, **_: asked.append((what[2:4], what[6])) or one)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(launch.GPUS, "2")
    wanted = [("base", "think", "true"), ("base", "vanilla", "none")]
    assert study.evaluate_all(wanted) == 2 * [read_json(one.path / "summary.json")]
    assert asked == [(("think", "true"), 2), (("vanilla", "none"), 2)]


@pytest.mark.slow
def test_an_error_in_a_process_is_told(stage, tmp_path):
    profile, data, _ = stage
    settings = replace(profile, base=str(tmp_path / "model"))
    small_folder(tmp_path).rename(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(VsrError, match=r"eval-base-vanilla-true, process [01] of 2: .*its weights cannot be read"):
        shards.evaluate("base", data, "vanilla", "true", settings, tmp_path / "out", 2)
