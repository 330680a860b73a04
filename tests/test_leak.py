"""The leak guard: VSI-Bench's rooms stay out of training sets, or their warning stays with every number."""

import json

import pytest
from made_runs import write_manifest
from raw import write_table

from vsr.cli import main
from vsr.errors import VsrError
from vsr.files import read_json, write_json
from vsr.questions import leak
from vsr.questions.question import read_questions
from vsr.report import tables
from vsr.scannet import from_scans
from vsr.scannet.made_up import make_layout, write_scan

BENCH, RESCAN = "scene0030_02", "scene0030_00"  # a scene of VSI-Bench, and another scan of its room
CLEAN = ("scene0000_00", "scene0001_00", "scene0002_00")


@pytest.fixture
def copy(tmp_path):
    """A small copy of ScanNet with clean scans, a scene of VSI-Bench and a rescan of it."""
    for name in (*CLEAN, BENCH, RESCAN):
        write_scan(tmp_path / "scannet", make_layout(name, 1, objects=20), 3000)
    write_table(tmp_path / "scannet")
    return tmp_path / "scannet"


def listed(folder, *names: str):
    (folder / "train.txt").write_text("\n".join(names) + "\n")
    return folder / "train.txt"


def test_the_rooms_are_those_of_the_official_scenes(shared):
    official = {question.scene_name for question in read_questions(shared / "vsibench_scannet.jsonl")}
    assert {name[5:9] for name in official} == leak.ROOMS
    assert len(official) == len(leak.leaked(official)) == 88
    train, val = ((shared / f"scannetv2_{split}.txt").read_text().split() for split in ("train", "val"))
    assert leak.leaked(train) == []
    assert len(leak.leaked(val)) == 207


@pytest.mark.parametrize("planted", [BENCH, RESCAN])
def test_a_planted_scene_or_its_rescan_is_refused_by_name(copy, tmp_path, capsys, planted):
    words = ["build", "scannet", "--scenes", str(copy), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*words, "--list", str(listed(tmp_path, *CLEAN, planted))]) == 2
    message = capsys.readouterr().err
    assert planted in message
    assert "--paper-scenes" in message
    assert "scene0000_00" not in message
    assert not (tmp_path / "out").exists()


def test_without_a_list_they_are_left_out_and_counted(copy, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["build", "scannet", "--scenes", str(copy), "--out", str(out), "--workers", "1"]) == 0
    assert "left out, rooms of VSI-Bench: 2 scans" in capsys.readouterr().err
    assert {q.scene_name for q in read_questions(out / "questions.jsonl")} == set(CLEAN)
    manifest = read_json(out / "manifest.json")
    assert manifest["left_out"] == [RESCAN, BENCH]
    assert manifest["warning"] is None
    assert leak.check_folder(out, CLEAN) is None


def test_only_leaked_scans_leave_nothing_to_train_on(copy, tmp_path):
    for name in CLEAN:
        for file in (copy / "scans" / name).iterdir():
            file.unlink()
        (copy / "scans" / name).rmdir()
    with pytest.raises(VsrError, match="all its scans show rooms of VSI-Bench"):
        from_scans.plan(copy)


def test_a_bench_may_hold_them(copy):
    assert list(from_scans.plan(copy, split="bench").folders) == sorted([*CLEAN, BENCH, RESCAN])


def test_papers_scenes_come_with_a_warning_everywhere(copy, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["build", "scannet", "--scenes", str(copy), "--out", str(out), "--workers", "1", "--paper-scenes"]
    assert main(words) == 0
    warning = "trained on 2 scenes that show rooms of VSI-Bench (scene0030_00, scene0030_02)"
    assert warning in capsys.readouterr().err
    assert warning in (out / "README.md").read_text()
    assert warning in read_json(out / "manifest.json")["warning"]
    assert "1 scene that shows rooms of VSI-Bench (scene0030_02)" in leak.check_folder(out, [*CLEAN, BENCH])
    (out / "manifest.json").unlink()
    with pytest.raises(VsrError, match=f"1 scene that shows rooms of VSI-Bench \\({BENCH}\\)"):
        leak.check_folder(out, [*CLEAN, BENCH])


def test_training_refuses_a_folder_that_leaks(tmp_path):
    """Whatever made the questions: the guard looks at them again before the model is loaded."""
    pytest.importorskip("torch")
    from vsr import profiles
    from vsr.questions.dataset import load
    from vsr.train import train

    row = {"id": "1", "dataset": "scannet", "scene_name": BENCH, "question_type": "room_size_estimation"}
    row |= {"question": "What is the size of this room (in square meters)?", "options": None, "ground_truth": "20.0"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    profile = profiles.get("smoke", base="nowhere")
    with pytest.raises(VsrError, match=f"shows rooms of VSI-Bench \\({BENCH}\\)"):
        train("grpo", profile, load(tmp_path), tmp_path / "runs")
    with pytest.raises(VsrError, match=f"shows rooms of VSI-Bench \\({BENCH}\\)"):
        train("sft", profile, load(tmp_path), tmp_path / "runs", 0)
    assert not (tmp_path / "runs").exists()


def test_the_warning_stands_in_tables_of_every_format(tmp_path):
    caution = "trained on 2 scenes that show rooms of VSI-Bench (a, b): scores on VSI-Bench are inflated"
    run = tmp_path / "eval-base-vanilla-true"
    write_manifest(run, "answer", id="x")
    summary = {"overall": 40.0, "tasks": {}, "run": "x"}
    for name, told in (("clean", {}), ("leaked", {"warning": caution})):
        write_json(run / "summary.json", {**summary, "model": {"name": name, **told}})
        tables.write(tables.table_1(tmp_path), tmp_path / name)
        for suffix in ("md", "csv", "tex"):
            assert (caution in (tmp_path / name / f"table1.{suffix}").read_text()) == (name == "leaked"), suffix


def test_other_benchmarks_scenes_count_when_they_are_named():
    assert leak.leaked(["47333462", "scene0000_01"], bench=["47333462", "scene0000_00"]) == ["47333462", "scene0000_01"]
    assert leak.leaked(["47333462", "scene0000_01", "procedural-7"]) == []
