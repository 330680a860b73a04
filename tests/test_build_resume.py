"""A build from raw scans that is killed goes on to the same bytes; workers change nothing; nothing is read twice."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from pyarrow import parquet
from raw import write_sens, write_table

from vsr import cli, paper
from vsr.files import read_json
from vsr.questions.question import FIELDS, read_questions
from vsr.scannet import from_scans, scans
from vsr.scannet.made_up import make_layout, write_scan

SCANS = 3


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A small copy of ScanNet with streams of two frames."""
    root = tmp_path_factory.mktemp("scannet")
    for number in range(SCANS):
        name = f"scene{number:04d}_00"
        folder = write_scan(root, make_layout(name, 1, objects=24), 2500, noise=0.002)
        write_sens(folder / f"{name}.sens", np.zeros((2, 32, 32, 3), np.uint8), moving=0)
    write_table(root)
    return root


def build(copy: Path, out: Path, **options: object) -> dict[str, str]:
    return from_scans.build_scans(out, from_scans.plan(copy), videos=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path in the folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(copy, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    assert build(copy, out) == {}
    return contents(out)


def test_what_a_build_writes(unbroken, copy, tmp_path):
    wanted = {"questions.jsonl", "questions.parquet", "scenes.jsonl", "manifest.json", "README.md"}
    names = [f"scene{number:04d}_00" for number in range(SCANS)]
    made = {f"{scans.KEPT}/{name}.json" for name in names} | {f"videos/{name}.mp4" for name in names}
    assert set(unbroken) == wanted | made
    build(copy, tmp_path, rules="vsi100k")
    assert contents(tmp_path) == unbroken
    questions, manifest = read_questions(tmp_path / "questions.jsonl"), read_json(tmp_path / "manifest.json")
    assert len({question.id for question in questions}) == len(questions) == manifest["questions"]
    for kind, left in manifest["rejected"].items():
        assert kind in paper.TASKS or kind == "object_rel_direction"
        assert all(number > 0 for number in left.values())
    table = parquet.read_table(tmp_path / "questions.parquet")
    assert table.column_names == list(FIELDS)
    assert str(table.schema.field("options").type) == "list<element: string>"
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["question"] == [question.question for question in questions]


def test_every_candidate_is_asked_or_accounted_for(copy, tmp_path):
    """Pairs of objects that occur once: as many as asked about plus left out; labels and targets likewise."""
    build(copy, tmp_path)
    manifest = read_json(tmp_path / "manifest.json")
    left = {kind: sum(reasons.values()) for kind, reasons in manifest["rejected"].items()}
    read = [scans.load(tmp_path / scans.KEPT, f"scene{number:04d}_00")[0] for number in range(SCANS)]
    scenes = [from_scans.as_scene(scan, "vsi100k", {}) for scan in read]
    once = [len([box for box in scene.once() if box.label not in ("wall", "floor")]) for scene in scenes]
    for kind, candidates in {
        "object_abs_distance": sum(n * (n - 1) // 2 for n in once),
        "object_rel_distance": sum(once),
        "object_rel_direction": sum(n * (n - 1) * (n - 2) for n in once),
        "object_counting": sum(len(scene.counts) for scene in scenes),
        "object_size_estimation": sum(len(scene.counts) for scene in scenes),
        "room_size_estimation": SCANS,
    }.items():
        assert manifest["tasks"].get(kind, 0) + left.get(kind, 0) == candidates, kind


def test_workers_and_what_another_version_kept_change_nothing(copy, unbroken, tmp_path):
    (tmp_path / "scans-v0").mkdir()
    (tmp_path / "scans-v0" / "scene0000_00.json").write_text("{}")
    build(copy, tmp_path, workers=2)
    assert (tmp_path / "scans-v0" / "scene0000_00.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "scans-v0")
    assert contents(tmp_path) == unbroken


def test_nothing_is_read_twice_but_what_changed(copy, tmp_path, monkeypatch):
    build(copy, tmp_path)
    read = []
    monkeypatch.setattr(scans, "read_scan", lambda files: read.append(files.id) or REAL(files))
    build(copy, tmp_path)
    assert read == []
    info = copy / "scans" / "scene0001_00" / "scene0001_00.txt"
    stamp = info.stat().st_mtime_ns
    os.utime(info, ns=(stamp, stamp + 10**9))
    build(copy, tmp_path)
    os.utime(info, ns=(stamp, stamp))
    (tmp_path / scans.KEPT / "scene0002_00.json").write_text("{")
    build(copy, tmp_path)
    assert read == ["scene0001_00", "scene0001_00", "scene0002_00"]


REAL = scans.read_scan


def test_the_papers_counts(copy, tmp_path, monkeypatch):
    parts = [part for part in paper.VSI_100K if part.task != "room_size_estimation"]
    small = tuple(paper.DatasetPart(part.task, "0.01k", part.rule, part.example) for part in parts)
    monkeypatch.setattr(paper, "VSI_100K", (*small, *(part for part in paper.VSI_100K if part not in parts)))
    build(copy, tmp_path, paper_counts=True)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["tasks"] == {part.task: 10 for part in parts} | {"room_size_estimation": SCANS}
    assert all(manifest["available"][kind] >= number for kind, number in manifest["tasks"].items())


def killed_at(step: int, copy: Path, out: Path) -> bool:
    """Build in a child process that is killed around its `step`-th write; whether it was."""
    child = os.fork()
    if child == 0:
        written, replace = 0, os.replace

        def count(source: str, target: str) -> None:
            nonlocal written
            written += 1
            if written * 2 == step:
                os.kill(os.getpid(), signal.SIGKILL)  # a temporary file stays behind
            replace(source, target)
            if written * 2 + 1 == step:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = count
        build(copy, out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_write_the_rerun_gives_the_same_bytes(copy, unbroken, tmp_path):
    """Before and after each of the writes: more than twenty kills, each in a folder of its own, then several in one."""
    assert len(unbroken) > 10
    for step in range(2, 2 * len(unbroken) + 2):
        out = tmp_path / str(step)
        assert killed_at(step, copy, out), step
        assert contents(out) != unbroken or step == 2 * len(unbroken) + 1
        build(copy, out)
        assert contents(out) == unbroken, step
    for step in range(2, 7):
        killed_at(step, copy, tmp_path / "again")
    build(copy, tmp_path / "again")
    assert contents(tmp_path / "again") == unbroken


def start(*words: str) -> int:
    """The command in a process group of its own: it and its workers are forked, so that no time goes into imports."""
    child, forking = os.fork(), multiprocessing.get_context("fork")
    if child == 0:
        os.setsid()
        scans.get_context = lambda method: forking
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        os._exit(cli.main([*words]))
    return child


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_time_the_rerun_gives_the_same_bytes(copy, unbroken, tmp_path):
    """The command itself with two workers, the whole group killed 20 times at random moments."""
    words = ["build", "scannet", "--scenes", str(copy), "--videos", "--workers", "2", "--out"]
    started = time.monotonic()
    assert os.waitpid(start(*words, str(tmp_path / "timed")), 0)[1] == 0
    whole, out = time.monotonic() - started, tmp_path / "out"
    rng, kills = random.Random(0), 0
    while kills < 20:
        child = start(*words, str(out))
        time.sleep(rng.uniform(0.2, 1.1) * whole)
        if os.waitpid(child, os.WNOHANG)[0]:  # done before the kill: take all away and go on
            shutil.rmtree(out)
            continue
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    assert os.waitpid(start(*words, str(out)), 0)[1] == 0
    assert contents(out) == contents(tmp_path / "timed") == unbroken
