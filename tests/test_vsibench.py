"""VSI-Bench from a folder, archives or the hub: counted, joined on id, unpacked safely; and the paper's VSI-100k."""

import json
import zipfile
from pathlib import Path

import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from vsr.cli import main
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.questions import dataset
from vsr.questions.question import NUMERICAL, read_questions

PER_SCENE = {"scannet": "scene0030_02", "scannetpp": "09c1414f1b", "arkitscenes": "47333462"}


def official_rows() -> list[dict]:
    """Rows with VSI-Bench's columns and its number of questions per type, on one scene a dataset."""
    rows: list[dict] = []
    for kind, number in dataset.COUNTS.items():
        for i in range(number):
            source = list(PER_SCENE)[i % 3]
            options, truth = (None, "2") if kind in NUMERICAL else (["A. bed", "B. sofa"], "A")
            row = {"id": len(rows), "dataset": source, "scene_name": PER_SCENE[source], "question_type": kind}
            rows.append({**row, "question": f"{kind} {i}?", "ground_truth": truth, "options": options})
    for i, row in enumerate(rows):
        row["pruned"] = i < dataset.TOTALS["pruned"]
    return rows


def write_jsonl(folder: Path, rows: list[dict], *, marked: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kept = rows if marked else [{key: value for key, value in row.items() if key != "pruned"} for row in rows]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return folder


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def full(tmp_path):
    """A whole copy with an archive a dataset; that of ScanNet++ lacks its video."""
    folder = write_jsonl(tmp_path / "vsi", official_rows())
    write_zip(folder / "scannet.zip", {"scannet/scene0030_02.mp4": b"one", "scannet/scene0011_00.mp4": b"not asked"})
    write_zip(folder / "scannetpp.zip", {"scannetpp/other.mp4": b"two", "__MACOSX/._09c1414f1b.mp4": b"junk"})
    write_zip(folder / "arkitscenes.zip", {"47333462.mp4": b"three"})
    return folder


def test_counts_are_the_official_ones():
    assert sum(dataset.COUNTS.values()) == dataset.TOTALS["full"] == 5130
    assert dataset.TOTALS["debiased"] + dataset.TOTALS["pruned"] == 5130


def test_a_folder_with_archives(full):
    found = dataset.load_vsibench(full)
    assert len(found.questions) == 5130
    assert found.video_path("scene0030_02").read_bytes() == b"one"
    assert found.video_path("47333462").read_bytes() == b"three"
    assert found.missing == ["09c1414f1b"]  # reported, and its questions stay
    assert any(question.scene_name == "09c1414f1b" for question in found.questions)
    assert sorted(path.name for path in full.rglob("*.mp4")) == ["47333462.mp4", "scene0030_02.mp4"]
    assert not list(full.rglob(".*"))


def test_videos_that_are_there_are_not_unpacked_again(full):
    (full / "scannet").mkdir()
    (full / "scannet" / "scene0030_02.mp4").write_bytes(b"mine")
    assert dataset.load_vsibench(full).video_path("scene0030_02").read_bytes() == b"mine"


def test_halves_by_mark_and_by_list_are_the_same(full, tmp_path):
    by_mark = {config: dataset.load_vsibench(full, config).questions for config in ("debiased", "pruned")}
    assert {config: len(found) for config, found in by_mark.items()} == {"debiased": 2362, "pruned": 2768}
    assert not {q.id for q in by_mark["debiased"]} & {q.id for q in by_mark["pruned"]}
    other = write_jsonl(tmp_path / "listed", official_rows(), marked=False)
    (other / "pruned_ids.txt").write_text("\n".join(str(row["id"]) for row in official_rows() if row["pruned"]))
    assert [q.id for q in dataset.load_vsibench(other, "debiased").questions] == [q.id for q in by_mark["debiased"]]


def test_parquet_gives_the_same_questions(full, tmp_path):
    rows = [{**row, "id": row["id"]} for row in official_rows()]
    (tmp_path / "table").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table" / "test-00000-of-00001.parquet")
    assert dataset.load_vsibench(tmp_path / "table").questions == dataset.load_vsibench(full).questions


def test_an_archive_or_the_questions_file_stand_for_their_folder(full):
    wanted = dataset.load_vsibench(full).questions
    assert dataset.load_vsibench(full / "scannet.zip").questions == wanted
    assert dataset.load_vsibench(full / "test.jsonl").questions == wanted


def test_the_real_part_that_is_at_hand(shared, tmp_path):
    """2,071 official questions on ScanNet: a part, taken only when it is said to be one."""
    (tmp_path / "test.jsonl").write_bytes((shared / "vsibench_scannet.jsonl").read_bytes())
    with pytest.raises(VsrError, match=r"223 questions of type object_counting, VSI-Bench has 565; .*--subset"):
        dataset.load_vsibench(tmp_path)
    found = dataset.load_vsibench(tmp_path, subset=True)
    assert list(found.questions) == read_questions(shared / "vsibench_scannet.jsonl")
    assert len(found.missing) == 88
    halves = [dataset.load_vsibench(tmp_path, config, subset=True).questions for config in ("debiased", "pruned")]
    assert sum(map(len, halves)) == 2071


def test_the_hub_is_asked_for_no_more_than_needed(full, tmp_path, monkeypatch):
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(name=name, **options)
        return str(full)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = dataset.load_vsibench("nyu-visionx/VSI-Bench", videos=tmp_path / "videos")
    assert (asked["name"], asked["repo_type"]) == ("nyu-visionx/VSI-Bench", "dataset")
    assert set(asked["allow_patterns"]) >= {"test.jsonl", "scannet.zip", "pruned_ids.txt"}
    assert "*" not in asked["allow_patterns"]
    assert found.video_path("scene0030_02") == tmp_path / "videos" / "scannet" / "scene0030_02.mp4"


def test_no_network_is_a_plain_message(monkeypatch):
    def fail(*_: object, **__: object) -> str:
        raise OSError("We cannot reach the hub\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(VsrError, match=r"cannot be downloaded \(We cannot reach the hub\); give a folder"):
        dataset.open_bench("nyu-visionx/VSI-Bench")


@pytest.mark.parametrize("name", ["../evil.mp4", "/etc/evil.mp4", "a/../../evil.mp4", "..\\evil.mp4", "C:\\evil.mp4"])
def test_archives_that_lead_out_of_their_folder_are_refused(tmp_path, name):
    write_zip(tmp_path / "scannet.zip", {"scannet/scene0000_00.mp4": b"fine", name: b"evil"})
    with pytest.raises(VsrError, match=r"scannet\.zip: entry .* leads out of the folder"):
        dataset.extract(tmp_path / "scannet.zip", tmp_path / "out", {"scene0000_00", "evil"})
    assert not (tmp_path / "out").exists()


PAPER_ROWS = {
    "object_counting": ("How many trash can(s)in the room?", "3"),
    "object_abs_distance": ("What is the distance between the shower and the kitchen counter (in meters)?", "6.1"),
    "object_rel_distance": ("Which of these objects (sink, pillow, bed, guitar)is the closest to the bicycle?", "sink"),
    "room_size_estimation": ("What is the size of this room (in square meters)?", "47.9"),
    "object_size_estimation": (
        "What is the length of the longest dimension (length,width, or height) of the coffee table, measured in "
        "centimeters?",
        "113",
    ),
    "object_rel_direction": (
        "If I am standing by the shelf and facing the shower is the bicycle to the left or the right of the shower?",
        "<answer>left</answer>",
    ),
}  # fmt: skip


def test_the_papers_own_data_loads_by_its_wording(tmp_path):
    for kind, (question, answer) in PAPER_ROWS.items():
        row = {"problem": question, "solution": answer, "video": f"scans/scene0000_00/{kind}.mp4"}
        (tmp_path / f"{kind}.json").write_text(json.dumps([row]))
    found = dataset.read_vsi100k(tmp_path)
    assert {q.question_type: (q.question, q.ground_truth) for q in found} == {
        kind: (question, answer.removeprefix("<answer>").removesuffix("</answer>"))
        for kind, (question, answer) in PAPER_ROWS.items()
    }
    assert {q.scene_name for q in found} == {"scene0000_00"}
    (tmp_path / "object_counting.json").write_text(json.dumps([{"words": "How many beds?"}]))
    with pytest.raises(VsrError, match=r"object_counting\.json, row 0: no question: none of the columns"):
        dataset.read_vsi100k(tmp_path)


def test_the_papers_own_data_goes_through_the_leak_guard(tmp_path, monkeypatch):
    rows = [{"question": "How many bed(s) in the room?", "answer": "2", "scene": name} for name in (CLEAN, LEAKED)]
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "object_counting.json").write_text(json.dumps(rows))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "hub"))
    assert main(["build", "vsi100k", "--out", str(tmp_path / "out")]) == 0
    assert [q.scene_name for q in read_questions(tmp_path / "out" / "questions.jsonl")] == [CLEAN]
    assert read_json(tmp_path / "out" / "manifest.json")["left_out"] == [LEAKED]
    assert main(["build", "vsi100k", "--out", str(tmp_path / "all"), "--paper-scenes"]) == 0
    assert LEAKED in read_json(tmp_path / "all" / "manifest.json")["warning"]


CLEAN, LEAKED = "scene0000_00", "scene0030_01"
