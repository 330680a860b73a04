"""Damaged raw data: every case is an error that names file and field, and harms no other scan."""

import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from raw import write_sens, write_table

from vsr.cli import main
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.questions import dataset
from vsr.questions.question import read_questions
from vsr.scannet import from_scans
from vsr.scannet.files import read_labels
from vsr.scannet.made_up import make_layout, write_scan
from vsr.scannet.sens import export_video

NAME = "scene0000_00"
MESH, SEGMENTS = f"{NAME}_vh_clean_2.ply", f"{NAME}_vh_clean_2.0.010000.segs.json"
GROUPS, INFO = f"{NAME}.aggregation.json", f"{NAME}.txt"
HIRES = f"{NAME}_vh_clean.segs.json"
HEADER = b"end_header\n"


def cut(keep: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(keep * len(data))]


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def vertex(value: float) -> Callable[[bytes], bytes]:
    """Another x for vertex 7."""

    def change(data: bytes) -> bytes:
        at = data.index(HEADER) + len(HEADER) + 7 * 16
        return data[:at] + struct.pack("<f", value) + data[at + 4 :]

    return change


def count(change: int, element: bytes = b"vertex") -> Callable[[bytes], bytes]:
    """A header that counts otherwise."""
    found = re.compile(rb"(?<=element " + element + rb" )\d+")
    return lambda data: found.sub(lambda number: str(max(0, int(number[0]) + change)).encode(), data, count=1)


def edit(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Another json value."""

    def damage(data: bytes) -> bytes:
        content = json.loads(data)
        new = change(content)
        return json.dumps(content if new is None else new).encode()

    return damage


def put(*path: str | int, value: object) -> Callable[[bytes], bytes]:
    """Another value at a place in a json file."""

    def change(content: dict) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return edit(change)


def line(text: str) -> Callable[[bytes], bytes]:
    """Another axisAlignment."""
    return lambda data: f"axisAlignment = {text}\n".encode()


def utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


SQUEEZED = " ".join(map(str, np.diag([1, 1, 0.5, 1]).ravel()))
DAMAGE = {
    "mesh missing": (MESH, None, f"{MESH} missing; download"),
    "mesh empty": (MESH, lambda _: b"", "not a whole ply mesh|not a readable ply mesh"),
    "mesh cut in the header": (MESH, cut(0.00002), "not a whole ply mesh|not a readable ply mesh"),
    "mesh cut in the vertices": (MESH, cut(0.2), "element 'vertex'.*early end-of-file"),
    "mesh cut in the faces": (MESH, cut(0.9), "element 'face'.*early end-of-file"),
    "mesh is a text": (MESH, lambda _: b"<html>404</html>" * 99, "expected 'ply'"),
    "mesh in utf-16": (MESH, lambda _: "ply\n".encode("utf-16"), "not a (whole|readable) ply mesh"),
    "mesh counts too many vertices": (MESH, count(10**9), "element 'vertex'.*early end-of-file"),
    "mesh counts more vertices than there are": (MESH, count(5), "element 'face'|segIndices"),
    "mesh counts fewer vertices than there are": (MESH, count(-5), "element 'face'.*unexpected list length"),
    "mesh counts no vertices": (MESH, lambda d: d[: d.index(b"element v")] + b"element vertex 0\nproperty float x\n"
                                b"property float y\nproperty float z\nend_header\n", "has no vertices"),
    "mesh counts too many faces": (MESH, count(99, b"face"), "element 'face'.*early end-of-file"),
    "mesh without z": (MESH, swap(b"property float z", b"property float h"), "no field of name z"),
    "mesh without vertices' element": (MESH, swap(b"element vertex", b"element points"), "no element 'vertex'"),
    "mesh with an unknown type": (MESH, swap(b"property float z", b"property quad z"), "not a whole ply mesh"),
    "mesh with NaN": (MESH, vertex(np.nan), r"vertex 7 is \(nan, .*1 in all are not finite"),
    "mesh with infinity": (MESH, vertex(-np.inf), r"vertex 7 is \(-inf"),
    "segments missing": (SEGMENTS, None, f"{SEGMENTS} missing"),
    "segments empty": (SEGMENTS, lambda _: b"", "not valid json"),
    "segments cut": (SEGMENTS, cut(0.5), "not valid json.*cut short"),
    "segments in utf-16": (SEGMENTS, utf16, "not valid utf-8"),
    "segments shorter than vertices": (SEGMENTS, edit(lambda c: c["segIndices"].pop() and None),
                                       r"segIndices has \d+ entries, the mesh \d+ vertices"),
    "segments of another scan": (SEGMENTS, put("sceneId", value="scene0707_00"),
                                 "sceneId = 'scene0707_00', expected scene0000_00"),
    "segments without the field": (SEGMENTS, edit(lambda c: c.pop("segIndices") and None), "'segIndices' is missing"),
    "segments with text": (SEGMENTS, put("segIndices", 3, value="x"), r"segIndices\[3\] = 'x'"),
    "segments with a fraction": (SEGMENTS, put("segIndices", 3, value=0.5), "= 0.5, expected"),
    "segments with a negative": (SEGMENTS, put("segIndices", 3, value=-1), r"segIndices\[3\] = -1"),
    "segments with a huge number": (SEGMENTS, put("segIndices", 3, value=10**30), "= 1000000"),
    "segments with a list": (SEGMENTS, put("segIndices", 3, value=[1]), r"segIndices\[3\] = \[1\]"),
    "segments are a list": (SEGMENTS, edit(lambda c: c["segIndices"]), "the file is a list.*expected an object"),
    "segments nested too deep": (SEGMENTS, lambda _: b"[" * 200_000, "nested too deep"),
    "groups missing": (GROUPS, None, f"{GROUPS} missing"),
    "groups cut": (GROUPS, cut(0.7), "not valid json.*cut short"),
    "groups in latin-1": (GROUPS, lambda d: d.replace(b'"label": "', '"label": "café'.encode("latin-1")),
                          "not valid utf-8"),
    "groups of another scan": (GROUPS, put("sceneId", value="scannet.scene0707_00"), "sceneId"),
    "groups of the other resolution": (GROUPS, put("segmentsFile", value=HIRES), "segmentsFile = .*lo-res and hi-res"),
    "groups without the field": (GROUPS, edit(lambda c: c.pop("segGroups") and None), "'segGroups' is missing"),
    "groups are an object": (GROUPS, put("segGroups", value={}), "'segGroups' is an object"),
    "group is a number": (GROUPS, put("segGroups", 2, value=5), r"segGroups\[2\] is a number"),
    "duplicate ids": (GROUPS, put("segGroups", 2, "objectId", value=0),
                      r"segGroups\[2\]: objectId 0 is also segGroups\[0\]'s"),
    "id is text": (GROUPS, put("segGroups", 2, "objectId", value="two"), r"objectId = 'two'"),
    "label is missing": (GROUPS, edit(lambda c: c["segGroups"][2].pop("label") and None), "label = None"),
    "label is blank": (GROUPS, put("segGroups", 2, "label", value=" "), r"\[2\]: label = ' '"),
    "text segments of a group": (GROUPS, put("segGroups", 2, "segments", value="1 2"), r"\[2\]: segments = '1 2'"),
    "a null segment of a group": (GROUPS, put("segGroups", 2, "segments", 0, value=None), r"\[2\]: segments = \[None"),
    "alignment of 15 numbers": (INFO, line("1 " * 15), "axisAlignment has 15 values, expected 16"),
    "alignment with text": (INFO, line("a " * 16), "axisAlignment = 'a a"),
    "alignment with NaN": (INFO, line("nan " * 16), "axisAlignment has 16 values, expected 16 finite"),
    "alignment that squeezes": (INFO, line(SQUEEZED), "axisAlignment is no rotation"),
    "info is a picture": (INFO, lambda _: b"\x89PNG\xff\xfe", "not valid utf-8"),
}  # fmt: skip


def damaged_copy(whole: Path, folder: Path, file: str, damage: Callable | None, name: str = NAME) -> Path:
    """A copy of the scan under another id with one damaged file."""
    shutil.copytree(whole, folder)
    target = folder / file
    if damage is None:
        target.unlink()
    else:
        target.write_bytes(damage(target.read_bytes()))
    for path in folder.iterdir():
        if name != NAME:
            data = path.read_bytes()
            path.with_name(path.name.replace(NAME, name)).write_bytes(data.replace(NAME.encode(), name.encode()))
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One undamaged scan."""
    return write_scan(tmp_path_factory.mktemp("whole"), make_layout(NAME, 3, objects=16), 2500)


def test_damaged_scans_are_summarised_and_harm_no_other(whole, tmp_path, capsys):
    """All damages in one copy of ScanNet, beside two whole scans: one build, one line each, and the same questions on
    the whole ones as if they were alone."""
    root, alone = tmp_path / "scannet", tmp_path / "alone"
    names = {f"scene{number:04d}_01": case for number, case in enumerate(DAMAGE)}
    for name, (file, damage, _) in zip(names, DAMAGE.values(), strict=True):
        damaged_copy(whole, root / "scans" / name, file, damage, name)
    for copy in (root, alone):
        for number in (900, 901):
            write_scan(copy, make_layout(f"scene0{number}_00", 1, objects=16), 2500)
    words = ["build", "scannet", "--scenes"]
    assert main([*words, str(alone), "--out", str(tmp_path / "a"), "--workers", "1"]) == 0
    capsys.readouterr()
    assert main([*words, str(root), "--out", str(tmp_path / "b"), "--split", "bench"]) == 0
    shown = capsys.readouterr().err
    assert f"{len(DAMAGE)} of {len(DAMAGE) + 2} scans had errors" in shown
    failed = read_json(tmp_path / "b" / "manifest.json")["failed"]
    assert list(failed) == list(names)
    for name, case in names.items():
        file, _, message = DAMAGE[case]
        wanted = message.replace(NAME, name)
        assert re.search(wanted, failed[name]), (case, failed[name])
        assert file.replace(NAME, name) in failed[name], case
        assert failed[name] in shown
        assert str(root) not in failed[name]
    for file in ("questions.jsonl", "scenes.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    words += [str(root), "--out", str(tmp_path / "b"), "--split", "bench", "--workers", "1"]
    assert main([*words, "--strict"]) == 2
    assert "could not be read" in capsys.readouterr().err


def test_nothing_but_damage_is_an_error(whole, tmp_path, capsys):
    damaged_copy(whole, tmp_path / "s" / NAME, MESH, cut(0.5))
    assert main(["build", "scannet", "--scenes", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 2
    assert "1 of 1 scans could not be read" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("questions*"))


def test_the_dry_run_lists_what_is_missing_and_writes_nothing(whole, tmp_path, capsys):
    damaged_copy(whole, tmp_path / "s" / NAME, SEGMENTS, None)
    damaged_copy(whole, tmp_path / "s" / "scene0001_00", INFO, None, "scene0001_00")
    (tmp_path / "list.txt").write_text(f"{NAME}\nscene0001_00\nscene0002_00\n")
    words = ["build", "scannet", "--scenes", str(tmp_path / "s"), "--list", str(tmp_path / "list.txt"), "--dry-run"]
    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "3 scans to read, 2 of them incomplete" in shown
    assert f"{NAME}: {SEGMENTS} missing" in shown
    assert "scene0002_00: the folder missing" in shown
    assert "without <id>.txt, will be left as scanned: 2 (scene0001_00, scene0002_00)" in shown
    assert "label table" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_odd_but_usable_annotations_are_noted(whole, tmp_path):
    """Empty groups, groups of one point, segments that are not there, segments of two groups, unknown labels."""

    def odd(content: dict) -> None:
        content.update(sceneId=f"/{NAME}_vh_clean_2", segmentsFile=f"x.{NAME}_vh_clean_2.0.01.segs.json")
        groups = content["segGroups"]
        groups[0].update(segments=[], label="box fort")
        groups[1]["segments"] = [10**9]
        groups[3]["segments"] = groups[2]["segments"]

    folder = damaged_copy(whole, tmp_path / "s" / NAME, GROUPS, edit(odd))
    table = write_table(tmp_path / "s")
    table.write_text(table.read_text().replace("floor\tfloor", "carpet\tfloor"))
    plan = from_scans.plan(tmp_path / "s")
    assert from_scans.build_scans(tmp_path / "out", plan, labels=table) == {}
    notes = read_json(tmp_path / "out" / "manifest.json")["notes"][folder.name]
    for wanted in (
        "object 0 'box fort': 0 points, no box", "1 segments not in the mesh", "shares segments with an earlier object",
        "label 'floor' is not in the label table", "object 2 '",
    ):  # fmt: skip
        assert any(wanted in note for note in notes), (wanted, notes)
    assert read_questions(tmp_path / "out" / "questions.jsonl")


TABLES = {
    "table missing": (None, "no such file; it comes with ScanNet"),
    "table empty": (lambda _: b"", "column 'raw_category' is missing"),
    "table of another version": (swap(b"nyu40class", b"nyu_class"), "column 'nyu40class' is missing"),
    "table with commas": (lambda data: data.replace(b"\t", b","), "column 'raw_category' is missing"),
    "table in utf-16": (utf16, "not valid utf-8"),
    "table with a short row": (lambda data: data + b"99\tufo\n", r"line \d+: 2 columns, no nyu40class"),
    "table without rows": (lambda data: data.split(b"\n")[0] + b"\n", "holds no labels"),
}


@pytest.mark.parametrize("case", TABLES)
def test_damaged_label_tables(tmp_path, case):
    damage, message = TABLES[case]
    path = write_table(tmp_path)
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VsrError, match=message) as error:
        read_labels(path)
    assert str(path) in str(error.value)


STREAMS = {
    "stream empty": (lambda _: b"", "version: 4 bytes expected, 0 left"),
    "stream cut mid-frame": (cut(0.6), r"frame \d of 4: \w+: \d+ bytes expected, \d+ left; is the file cut short"),
    "stream of version 3": (lambda d: struct.pack("<I", 3) + d[4:], "version 3, expected 4"),
    "stream with a name that never ends": (lambda d: d[:4] + b"\xff" * 8 + d[12:], "sensor's name: .* bytes expected"),
    "stream with unknown compression": (swap(struct.pack("<ii", 2, 1), struct.pack("<ii", 7, 1)), "colour 7 and"),
    "stream without a picture in it": (swap(b"\xff\xd8\xff", b"\x00\x00\x00"), "colour: not a readable picture"),
    "stream with a frame of no end": (lambda d: d[: 319 + 80] + b"\xff" * 8 + d[319 + 88 :], "frame 0 of 4: colour"),
    "stream that counts too many frames": (lambda d: d[:311] + struct.pack("<Q", 10**9) + d[319:], "cut short"),
    "stream without frames": (lambda d: d[:311] + struct.pack("<Q", 0), "there are no frames to write"),
    "stream is a picture": (lambda _: b"\x89PNG" * 999, "version 1196314761, expected 4"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_damaged_streams(tmp_path, case):
    damage, message = STREAMS[case]
    path = tmp_path / f"{NAME}.sens"
    rng = np.random.default_rng(0)
    write_sens(path, rng.integers(0, 255, (4, 32, 48, 3)).astype(np.uint8), moving=0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VsrError, match=message) as error:
        export_video(path, tmp_path / "out.mp4")
    assert NAME in str(error.value) or "out.mp4" in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_damaged_stream_leaves_the_questions(whole, tmp_path, capsys):
    for number in (0, 1):
        name = f"scene000{number}_00"
        folder = damaged_copy(whole, tmp_path / "s" / name, INFO, lambda data: data, name)
        write_sens(folder / f"{name}.sens", np.zeros((3, 32, 48, 3), np.uint8))
    path = folder / f"{name}.sens"
    path.write_bytes(path.read_bytes()[:700])
    words = ["build", "scannet", "--scenes", str(tmp_path / "s"), "--out", str(tmp_path / "out"), "--videos"]
    assert main([*words, "--workers", "1"]) == 0
    assert "1 of 2 scans had errors" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["scene0000_00.mp4"]
    assert "cut short" in read_json(tmp_path / "out" / "manifest.json")["failed"]["scene0001_00"]
    assert {q.scene_name for q in read_questions(tmp_path / "out" / "questions.jsonl")} == {NAME, "scene0001_00"}


def flipped(data: bytes) -> bytes:
    at = data.index(b"video-bytes")
    return data[:at] + b"V" + data[at + 1 :]


ARCHIVES = {
    "archive cut": (cut(0.6), "not a whole zip archive"),
    "archive empty": (lambda _: b"", "not a whole zip archive"),
    "archive is a page": (lambda _: b"<html>", "not a whole zip archive"),
    "archive with a wrong checksum": (flipped, "not a whole zip archive .*CRC"),
    "archive with ../": (lambda d: d.replace(b"scannet/x", b"../../../"), "leads out of the folder"),
    "archive with a password": (lambda d: d.replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"), "password"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_damaged_archives(tmp_path, case):
    damage, message = ARCHIVES[case]
    path = tmp_path / "scannet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"scannet/{NAME}.mp4", b"video-bytes" * 20)
        archive.writestr("scannet/x", b"more")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VsrError, match=message) as error:
        dataset.extract(path, tmp_path / "out", {NAME})
    assert str(path) in str(error.value)
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file() and entry != path]


LISTS = {
    "list missing": (None, "no such file"),
    "list empty": (b"\n\n", "lists no scans"),
    "list of paths": (b"scans/scene0000_00\n", "line 1: 'scans/scene0000_00' is no scan id"),
    "list with a scan twice": (b"scene0000_00\nscene0001_00\nscene0000_00\n", "line 3: scene0000_00 is also in line 1"),
    "list in utf-16": ("scene0000_00\n".encode("utf-16"), "not valid utf-8"),
}


@pytest.mark.parametrize("case", LISTS)
def test_damaged_lists(whole, tmp_path, case):
    content, message = LISTS[case]
    path = tmp_path / "train.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VsrError, match=message) as error:
        from_scans.plan(whole.parents[1], path)
    assert str(path) in str(error.value)


ROW = {"id": 1, "dataset": "scannet", "scene_name": NAME, "question_type": "object_counting", "question": "?"}
ROWS = {
    "row twice": ([ROW | {"ground_truth": "2"}] * 2, "id 1 occurs more than once"),
    "row without truth": ([ROW], "line 1: field 'ground_truth' is missing"),
    "row of an unknown type": ([ROW | {"ground_truth": "2", "question_type": "object_weight"}], "'object_weight'"),
    "too few rows": ([ROW | {"ground_truth": "2"}], "1 questions of type object_counting, VSI-Bench has 565"),
    "row is a list": ([[1, 2]], "line 1: expected an object, found list"),
}


@pytest.mark.parametrize("case", ROWS)
def test_damaged_questions(tmp_path, case):
    rows, message = ROWS[case]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(VsrError, match=message) as error:
        dataset.load_vsibench(tmp_path)
    assert "test.jsonl" in str(error.value)


def test_no_copy_of_scannet_is_named(tmp_path):
    with pytest.raises(VsrError, match="nowhere: no such folder"):
        from_scans.plan(tmp_path / "nowhere")
    with pytest.raises(VsrError, match="holds no scan folders such as scans/scene0000_00"):
        from_scans.plan(tmp_path)
    (tmp_path / "test-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(VsrError, match=r"test-0\.parquet: not a readable parquet table"):
        dataset.load_vsibench(tmp_path)
    (tmp_path / "test-0.parquet").unlink()
    with pytest.raises(VsrError, match=r"holds no test\.jsonl"):
        dataset.load_vsibench(tmp_path)
    with pytest.raises(VsrError, match="unknown config 'debaised': did you mean 'debiased'"):
        dataset.load_vsibench(tmp_path, "debaised")
