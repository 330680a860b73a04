"""Run folders: atomic, resumable, recomputed when anything they depend on changes."""

import errno
import os

import pytest

from vsr import runs
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


def open_run(out, **changes):
    settings = {"mode": "vanilla"} | changes
    return runs.Run.open(out, "eval-base-vanilla-true", settings=settings, inputs={"data": "d1"}, seed=0)


def test_a_run_continues_until_finished_and_starts_over_when_settings_change(tmp_path):
    run = open_run(tmp_path)
    append_jsonl(run.path / "samples.jsonl", {"id": "1"})
    assert not run.finished
    assert len(list(read_jsonl(open_run(tmp_path).path / "samples.jsonl"))) == 1
    run.finish(device="cpu")
    again = open_run(tmp_path)
    assert again.finished
    assert again.manifest["device"] == "cpu"
    other = open_run(tmp_path, mode="think")
    assert not other.finished
    assert not (other.path / "samples.jsonl").exists()


def test_a_committed_run_is_readable_but_recomputed_on_a_fresh_clone(tmp_path):
    run = open_run(tmp_path)
    run.finish()
    for mark in run.path.glob(".*"):
        mark.unlink()
    assert (run.path / "manifest.json").is_file()
    assert not open_run(tmp_path).finished


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
