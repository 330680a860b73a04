"""Run folders: atomic, resumable, never destroyed."""

import errno
import gzip
import os
from dataclasses import replace

import pytest

from vsr import profiles, runs
from vsr.errors import VsrError
from vsr.files import append_jsonl, atomic_write, hash_files, read_jsonl


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    atomic_write(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VsrError, match=r"table\.md: could not be written \(No space left on device\)"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_append_to_a_full_device_is_an_error():
    with pytest.raises((OSError, VsrError)):
        append_jsonl("/dev/full", {"a": "b" * 100_000})


def test_jsonl_forgives_only_an_unfinished_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": 1})
    path.write_text(path.read_text() + '{"step": 2')
    assert list(read_jsonl(path)) == [{"step": 1}]
    path.write_text('{"step": \n{"step": 2}\n')
    with pytest.raises(VsrError, match="line 1"):
        list(read_jsonl(path))


def test_a_packed_file_is_read_where_the_plain_one_is_missing(tmp_path):
    path = tmp_path / "samples.jsonl"
    append_jsonl(path, {"id": "a"})
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(b'{"id": "packed"}\n'))
    assert list(read_jsonl(path)) == [{"id": "a"}]
    path.unlink()
    assert list(read_jsonl(path)) == [{"id": "packed"}]
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(b"x" * 99)[:-9])
    with pytest.raises(VsrError, match=r"samples\.jsonl\.gz: cannot be unpacked"):
        list(read_jsonl(path))


PROFILE = profiles.get("smoke")
STAGE = runs.Stage("answer", 1, ("frames",), free=("token_budget",))


def open_run(out, stage=STAGE, profile=PROFILE, seed=0, fresh=False, **about):
    about = {"mode": "vanilla"} | about
    inputs = {"data": "d1"}
    run = "eval-base-vanilla-true"
    return runs.Run.open(out, run, stage, profile, about=about, inputs=inputs, seed=seed, fresh=fresh)


def fill(run, text):
    atomic_write(run.path / "samples.jsonl", text)
    run.finish(device="cpu")


def test_a_run_continues_until_it_is_finished(tmp_path):
    run = open_run(tmp_path)
    append_jsonl(run.path / "samples.jsonl", {"id": "1"})
    assert not run.finished
    assert len(list(read_jsonl(open_run(tmp_path).path / "samples.jsonl"))) == 1
    run.finish(device="cpu")
    again = open_run(tmp_path)
    assert again.finished
    assert again.manifest["device"] == "cpu"


OTHERS = {
    "a setting": ({"profile": replace(PROFILE, frames=8)}, "frames: 16 -> 8"),
    "what it is about": ({"mode": "think"}, "mode: vanilla -> think"),
    "the seed": ({"seed": 1}, "seed: 0 -> 1"),
    "the version": ({"stage": replace(STAGE, version=2)}, "version: 1 -> 2"),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "half done"])
@pytest.mark.parametrize(("change", "said"), OTHERS.values(), ids=OTHERS)
def test_another_identity_steps_aside_and_is_found_again(tmp_path, capsys, change, said, finished):
    first = open_run(tmp_path)
    fill(first, "paid for") if finished else atomic_write(first.path / "samples.jsonl", "paid for")
    second = open_run(tmp_path, **change)
    assert said in capsys.readouterr().err
    assert not second.finished
    assert not (second.path / "samples.jsonl").exists()
    fill(second, "the second")
    again = open_run(tmp_path)
    assert again.finished == finished
    assert (again.path / "samples.jsonl").read_text() == "paid for"
    assert (open_run(tmp_path, **change).path / "samples.jsonl").read_text() == "the second"


def test_what_changes_no_result_changes_nothing(tmp_path):
    fill(open_run(tmp_path), "paid for")
    assert open_run(tmp_path, profile=replace(PROFILE, token_budget=1, seeds=9, bootstrap=7)).finished
    assert not runs.earlier(tmp_path)


def test_fresh_removes_this_very_run_and_no_other(tmp_path):
    fill(open_run(tmp_path), "old")
    fill(open_run(tmp_path, mode="think"), "thought")
    assert not (open_run(tmp_path, fresh=True).path / "samples.jsonl").exists()
    assert (open_run(tmp_path, mode="think").path / "samples.jsonl").read_text() == "thought"


def test_a_folder_without_a_manifest_of_ours_is_kept(tmp_path):
    folder = tmp_path / "eval-base-vanilla-true"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"fingerprint": "of an older version"}')
    open_run(tmp_path)
    open_run(tmp_path, mode="think")
    assert [path.parent.name for path in tmp_path.glob("earlier/*/*")] == ["eval-base-vanilla-true"] * 2
    assert "older version" in (tmp_path / "earlier" / folder.name / "unnamed" / "manifest.json").read_text()


def test_a_stage_reads_only_what_it_declares():
    view = STAGE.view(PROFILE)
    assert view.frames == PROFILE.frames
    with pytest.raises(AttributeError, match="stage 'answer' reads the setting 'beta' without declaring it"):
        _ = view.beta
    assert view.read == {"frames"}


def test_runs_are_found_by_what_they_are_about(tmp_path):
    open_run(tmp_path / "unfinished")
    fill(open_run(tmp_path), "")
    assert [run.path.name for run in runs.find(tmp_path, "answer", mode="vanilla")] == ["eval-base-vanilla-true"]
    assert runs.find(tmp_path, "grpo") == runs.find(tmp_path, mode="think") == runs.find(tmp_path / "unfinished") == []


def test_manifests_name_no_machine(tmp_path):
    text = (open_run(tmp_path).path / "manifest.json").read_text()
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text


def test_hashes_follow_content_not_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json").write_text("1")
    before = hash_files(tmp_path / "a")
    os.utime(tmp_path / "a" / "x.json", (0, 0))
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "kernel.nbi").write_text("compiled")
    assert hash_files(tmp_path / "a") == before
    (tmp_path / "a" / "x.json").write_text("2")
    assert hash_files(tmp_path / "a") != before
