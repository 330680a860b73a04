"""Folders of questions, scenes and videos: written whole, resumed, read back, damaged."""

import json
import os
import pickle
import shutil
from dataclasses import asdict

import numpy as np
import pandas
import pytest
from huggingface_hub import DatasetCard

from vsr import cli, profiles
from vsr.errors import VsrError
from vsr.files import fingerprint, read_json
from vsr.miniature.procedural import STUDY, make_room
from vsr.miniature.render import render
from vsr.questions import build, dataset
from vsr.questions import question as module
from vsr.questions.held_out import BEYOND_BOXES
from vsr.questions.question import FIELDS, Question, Questions, joined, read_questions, write_questions
from vsr.scenes.metainfo import read_scenes
from vsr.scenes.scene import load_scenes, save_scenes, to_row
from vsr.video import decode


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build.build_rooms(tmp_path_factory.mktemp("rooms") / "bench", "bench", 4)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bench")


def test_a_folder_of_rooms_is_complete(made):
    loaded = dataset.load(made)
    assert loaded.missing == []
    names = {f"room-{1000000 + i}" for i in range(4)}
    assert {q.scene_name for q in loaded.questions} == set(loaded.scenes) == names
    kinds = {q.question_type for q in loaded.questions}
    assert kinds == {*build.PER_ROOM, *BEYOND_BOXES, "room_size_estimation"}
    manifest = read_json(made / "manifest.json")
    assert sum(manifest["tasks"].values()) == manifest["questions"] == len(loaded.questions)
    for scene in loaded.scenes:
        assert loaded.video_path(scene).stat().st_size > 1000


def test_the_hub_can_read_its_card(made):
    card, manifest = DatasetCard.load(made / "README.md"), read_json(made / "manifest.json")
    (table,) = card.data.configs[0]["data_files"]
    assert (table["split"], (made / table["path"]).is_file()) == ("test", True)
    assert (card.data.license, card.data.size_categories) == ("apache-2.0", "n<1K")
    assert f"{manifest['questions']} questions about 4 scenes (rendered rooms)" in card.text
    many = manifest | {"questions": 112_000, "source": "ScanNet v2", "warning": "shows its rooms", "split": "train"}
    card = DatasetCard(build.card({key: value for key, value in many.items() if key != "world"}))
    assert (card.data.license, card.data.size_categories) == ("other", "100K<n<1M")
    assert "**Warning:** shows its rooms." in card.text


def test_parquet_and_jsonl_are_the_same(made):
    frame = pandas.read_parquet(made / "questions.parquet")
    assert tuple(frame.columns) == FIELDS
    for row, question in zip(frame.to_dict("records"), read_questions(made / "questions.jsonl"), strict=True):
        options = None if row["options"] is None else tuple(row["options"])
        assert {**row, "options": options, "pruned": None} == asdict(question)


QUOTED = 'is "é\\" in \u2028 the room\t?'


@pytest.mark.parametrize("text", ["How many?", QUOTED])
def test_columns_tell_what_rows_tell(made, tmp_path, monkeypatch, text):
    monkeypatch.setattr(module, "PART", 7)
    rows = list(read_questions(made / "questions.jsonl"))[::-1]
    rows = [
        Question(**{**vars(row), "question": text, "pruned": [None, True, False][i % 3]}) for i, row in enumerate(rows)
    ]
    mixed = rows[::2] + rows[1::2]  # a scene's questions lie apart
    write_questions(tmp_path / "questions.jsonl", mixed)
    for large in (1, 1 << 30):  # on the disk, in memory
        monkeypatch.setattr(module, "LARGE", large)
        monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
        found = read_questions(tmp_path / "questions.jsonl")
        assert bool(found.file) == (large == 1) == (len(pickle.dumps(found)) < 500)
        assert found == Questions.of(mixed) == pickle.loads(pickle.dumps(found)) == mixed == list(found)
        assert found.fingerprint() == fingerprint([asdict(row) for row in mixed])
        assert found[3:9][::-2][1] == mixed[6]
        assert found[-1] == mixed[-1]
        scenes = found.by_scene()
        assert list(scenes) == [scene for (scene,) in found.distinct("scene_name")]
        assert list(scenes) == list(dict.fromkeys(row.scene_name for row in mixed))
        grouped = [row for scene in scenes for row in mixed if row.scene_name == scene]
        assert joined(scenes.values()) == grouped
        assert joined(scenes.values()).fingerprint() == fingerprint([asdict(row) for row in grouped])
        assert found.repeated() is found[:0].repeated() is None
        assert found[:0].by_scene() == {} == dict(found[:0].distinct("id", "scene_name"))
        assert Questions.of([*mixed, mixed[4], mixed[2]]).repeated() == mixed[4].id


def test_a_large_file_that_changed_is_read_again(made, tmp_path, monkeypatch):
    rows = list(read_questions(made / "questions.jsonl"))
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    assert read_questions(made / "questions.jsonl") == rows  # from the parquet table
    for kept in (rows, rows[:5]):
        write_questions(tmp_path / "questions.jsonl", kept)
        assert read_questions(tmp_path / "questions.jsonl") == kept
        assert len(list((tmp_path / "questions").rglob("*.arrow"))) == 2  # this file has one
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write(json.dumps({**vars(rows[0]), "ground_truth": "Z" if rows[0].options else "-1"}) + "\n")
    with pytest.raises(VsrError, match=r"questions\.jsonl, line 6: ground_truth"):
        read_questions(tmp_path / "questions.jsonl")


def test_training_rooms_are_other_rooms_under_the_papers_rules(tmp_path):
    loaded = dataset.load(build.build_rooms(tmp_path / "train", "train", 2, "vsi100k"))
    assert set(loaded.scenes) == {"room-000000", "room-000001"}
    assert all(q.options is None for q in loaded.questions)
    assert {q.question_type for q in loaded.questions} <= set(build.rule_sets.VSI100K.templates)


def times(folder) -> dict:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_folder_is_left_alone(folder):
    before = times(folder)
    build.build_rooms(folder, "bench", 4)
    assert times(folder) == before


def test_an_interrupted_folder_is_continued(folder, made):
    (folder / "manifest.json").unlink()
    victims = ["room-1000001", "room-1000002"]
    (folder / "videos" / f"{victims[0]}.mp4").unlink()
    broken = folder / "videos" / f"{victims[1]}.mp4"
    os.truncate(broken, 300)
    kept = times(folder / "videos")
    build.build_rooms(folder, "bench", 4)
    after = times(folder / "videos")
    assert {name for name in after if kept.get(name) != after[name]} == {
        f"{victim}.{kind}" for victim in victims for kind in ("mp4", "json")
    }
    for victim in victims:
        old, new = (decode(place / "videos" / f"{victim}.mp4", 8).astype(float) for place in (made, folder))
        assert np.abs(old - new).mean() < 0.5
    assert (folder / "questions.jsonl").read_text() == (made / "questions.jsonl").read_text()
    assert read_json(folder / "manifest.json") == read_json(made / "manifest.json")


def test_other_settings_step_aside_and_come_back(folder, made, capsys):
    before = times(folder)
    build.build_rooms(folder, "bench", 4, seed=1, held_out=(0, 1))
    told = capsys.readouterr().err
    assert told.startswith("bench: ")
    assert "route_planning: 1 -> 0; " in told
    assert "seed: 0 -> 1" in told
    assert "; the earlier one is kept in" in told
    old, new = read_json(made / "manifest.json"), read_json(folder / "manifest.json")
    assert new["tasks"] == {k: n // 2 if "order" in k else n for k, n in old["tasks"].items() if k != "route_planning"}
    assert (new["seed"], new["version"]) == (1, build.VERSION)
    build.build_rooms(folder, "bench", 4)
    assert times(folder) == before
    assert read_json(folder.parent / "earlier" / "bench" / new["fingerprint"] / "manifest.json") == new


def test_the_command_asks_what_the_study_asks(tmp_path):
    words = ["--split", "bench", "--rules", "vsibench", "--rooms", "2", "--profile", "overnight"]
    assert cli.main(["build", "procedural", *words, "--out", str(tmp_path / "bench")]) == 0
    before, how = times(tmp_path / "bench"), profiles.get("overnight")
    build.build_rooms(tmp_path / "bench", "bench", 2, held_out=(how.route_questions, how.order_questions))
    assert times(tmp_path / "bench") == before


def test_a_folder_that_cannot_step_aside_stays_and_is_named(folder):
    before = times(folder)
    (folder.parent / "earlier").write_text("no folder")
    with pytest.raises(VsrError, match=r"bench: could not be moved to .*; choose another --out"):
        build.build_rooms(folder, "bench", 4, seed=1)
    assert times(folder) == before


def test_missing_videos_are_listed_not_dropped(folder):
    (folder / "videos" / "room-1000002.mp4").unlink()
    loaded = dataset.load(folder)
    assert loaded.missing == ["room-1000002"]
    assert any(q.scene_name == "room-1000002" for q in loaded.questions)
    assert loaded.video_path("room-1000002") == folder / "videos" / "room-1000002.mp4"


def test_videos_in_the_benchmarks_own_layout_are_found(folder):
    (folder / "videos").rename(folder / "rooms")  # <dataset>/<scene>.mp4
    (folder / "questions.jsonl").rename(folder / "test.jsonl")
    loaded = dataset.load(folder)
    assert loaded.missing == []
    assert loaded.video_path("room-1000000") == folder / "rooms" / "room-1000000.mp4"


def test_the_video_shows_what_the_scene_says(made):
    loaded = dataset.load(made)
    scene = loaded.scenes["room-1000000"]
    shown = decode(loaded.video_path(scene.id), len(scene.camera)).astype(float)
    drawn = render(scene, STUDY.width, STUDY.height).rgb
    other = render(loaded.scenes["room-1000001"], STUDY.width, STUDY.height).rgb
    assert np.abs(shown - drawn).mean() < 6 < np.abs(shown - other).mean()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder; 'vsr build scannet'"),
        (lambda folder: (folder / "questions.jsonl").unlink(), "holds none of questions.jsonl, test.jsonl"),
        (lambda folder: (folder / "questions.jsonl").write_text(""), "holds no questions"),
        (lambda folder: (folder / "questions.jsonl").write_text('{"id": 1}\n'), "line 1: field 'dataset' is missing"),
        (lambda folder: (folder / "questions.jsonl").write_text("{]\n{}\n"), "line 1: not valid json"),
    ],
)
def test_a_damaged_folder_is_an_error_that_says_so(folder, damage, says):
    damage(folder)
    with pytest.raises(VsrError, match=says):
        dataset.load(folder)


def test_scenes_read_back_exactly(tmp_path, shared):
    scenes = [make_room(7), *read_scenes(shared / "scannet_meta_info_val.json")[:3]]
    save_scenes(tmp_path / "scenes.jsonl", scenes)
    for old, new in zip(scenes, load_scenes(tmp_path / "scenes.jsonl"), strict=True):
        assert to_row(old) == to_row(new)
        np.testing.assert_array_equal(old.objects[0].axes, new.objects[0].axes)
        assert old.objects[0].axes.dtype == new.objects[0].axes.dtype
    assert build.build(scenes) == build.build(load_scenes(tmp_path / "scenes.jsonl"))


def damaged(row: dict, path: list, value: object) -> dict:
    row = json.loads(json.dumps(row))
    target = row
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return row


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["objects", 0, "center"], [0, float("nan"), 0], "center = .*nan.* is not finite"),
        (["objects", 0, "center"], [0, 1], r"center has shape \(2,\)"),
        (["objects", 0, "axes"], [[1, 0, 0]], r"axes has shape \(1, 3\)"),
        (["objects", 0], {"label": "chair"}, "field 'center' is missing"),
        (["camera", "pitch"], [0], r"pitch has shape \(1,\)"),
        (["objects"], 7, "not iterable"),
        (["floor"], "wide", "could not convert"),
    ],
)
def test_a_damaged_scenes_file_names_file_scene_and_field(tmp_path, path, value, says):
    file = tmp_path / "scenes.jsonl"
    file.write_text(json.dumps(damaged(to_row(make_room(7)), path, value)) + "\n")
    with pytest.raises(VsrError, match=says) as error:
        load_scenes(file)
    assert f"{file}: scene room-000007" in str(error.value)


def test_no_questions_write_nothing(tmp_path):
    with pytest.raises(VsrError, match="the scenes allow no question under vsibench"):
        build.write(tmp_path / "out", [], "vsibench", 0)
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    questions = [Question("1", "d", "s", "room_size_estimation", "How big?", None, "12.0")]
    build.write(tmp_path, questions, "vsibench", 0)
    before = (tmp_path / "questions.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VsrError, match="No space left on device"):
        build.write(tmp_path, questions * 2, "vsibench", 0)
    assert (tmp_path / "questions.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))
