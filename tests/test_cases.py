"""Inputs as people really have them, through the real command line: read, or refused by name; never a traceback."""

import json
import re
import shutil

import pytest
import torch
from cases import make
from cases.make import COUNT, DAMAGES, METHODS, NEAR, READ, bench, lines
from raw import write_table

from vsr import cli, models, profiles
from vsr.files import UMASK, read_json, read_jsonl
from vsr.scannet.made_up import make_layout, write_scan
from vsr.train import save_adapter


@pytest.fixture
def vsr(capsys, tmp_path):
    """Runs a command in this process: (exit code, all it said). Any exception but SystemExit is a traceback."""

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said
        return code, said

    return run


def must(right: str, found: tuple[int, str]) -> None:
    """Exit code 0 where it can be read, else one message of the right words."""
    code, said = found
    assert code == (0 if right == READ else 2), said
    assert re.search(right, said), said


SMOKE = ("--profile", "smoke", "--set", "max_new_tokens=1")


def table(cases: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@table(make.QUESTIONS)
def test_questions(vsr, tmp_path, case):
    row, right = case
    folder = bench(tmp_path / "b", json.dumps(COUNT | {"id": 0}).encode() + b"\n" + json.dumps(row).encode())
    must(right, vsr("evaluate", *SMOKE, "--bench", folder, "--video", "none", "--out", tmp_path / "o"))
    answered = list(tmp_path.glob("o/*/samples.jsonl"))
    assert [len(list(read_jsonl(file))) for file in answered] == ([2] if right == READ else [])


@table(make.SAMPLES)
def test_samples(vsr, tmp_path, case):
    row, right = case
    (tmp_path / "s.jsonl").write_bytes(lines(COUNT | {"id": 0, "response": "3"}, row))
    must(right, vsr("score", "--predictions", tmp_path / "s.jsonl", "--rules", "official"))


@table(make.FILES)
def test_files_of_rows(vsr, tmp_path, case):
    content, right = case
    rows = [row | {"response": "B"} for row in (COUNT, NEAR)]
    folder = bench(tmp_path / "b", content(*rows))
    must(right, vsr("score", "--predictions", folder / "questions.jsonl", "--rules", "official"))
    must(right, vsr("evaluate", *SMOKE, "--bench", folder, "--video", "none", "--out", tmp_path / "o"))


@table(make.VSI100K)
def test_the_papers_look_alikes(vsr, tmp_path, case):
    change, right = case
    row = {"question": "How many chair(s) are there?", "answer": "3", "scene": make.SCAN} | change
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes(make.BOM + json.dumps([row]).encode())
    (tmp_path / "in" / "._a.json").write_bytes(b"\0\5\26\7")
    must(right, vsr("build", "vsi100k", "--scenes", tmp_path / "in", "--out", tmp_path / "o"))


def test_nan_is_refused_before_a_training_starts(vsr, tmp_path):
    folder = bench(tmp_path / "b", lines(COUNT, COUNT | {"id": 2, "ground_truth": "nan"}), videos=("a",))
    for method in ("grpo", "sft", "dpo"):
        must(make.NUMBER, vsr("train", method, *SMOKE, "--data", folder, "--out", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("true", "false"), [(True, False), ("True", "False"), ("true", " false"), (1, 0), ("1", "0")])
def test_pruned(vsr, tmp_path, true, false):
    rows = [COUNT | {"id": i, "pruned": (false, true, false)[i]} for i in range(3)]
    folder = bench(tmp_path / "b", lines(*rows), "test.jsonl")
    for part, ids in {"debiased": ["0", "2"], "pruned": ["1"]}.items():
        out = tmp_path / part
        words = ["--config", part, "--subset", "--video", "none", "--out", out]
        must(READ, vsr("evaluate", *SMOKE, "--bench", folder, *words))
        assert [row["id"] for row in read_jsonl(next(out.glob("*/samples.jsonl")))] == ids


def test_selections_of_nothing(vsr, tmp_path):
    folder = bench(tmp_path / "b", lines(COUNT | {"pruned": True}), "test.jsonl")
    words = ["evaluate", *SMOKE, "--bench", folder, "--subset", "--video", "none", "--out", tmp_path / "o"]
    must("none of its questions is in the part 'debiased'", vsr(*words, "--config", "debiased"))
    for limit in (0, -1):
        must(f"limit={limit}: ask at least 1 question", vsr(*words, "--limit", limit))
    must("pruned 'yes': expected true, false or null",
         vsr(*words[:3], "--bench", bench(tmp_path / "c", lines(COUNT | {"pruned": "yes"}))))  # fmt: skip


@table(make.FILMS)
def test_a_damaged_film_harms_no_other(vsr, tmp_path, case):
    content, right = case
    folder = bench(tmp_path / "b", lines(COUNT, NEAR | {"scene_name": "b"}), videos=("a",))
    (folder / "videos" / "b.mp4").write_bytes(content())
    must(READ, vsr("evaluate", *SMOKE, "--bench", folder, "--out", tmp_path / "o"))
    missing = read_json(next(tmp_path.glob("o/*/summary.json")))["missing"]
    assert missing["questions"] == 1
    assert re.search(f"b.mp4: .*{right}", missing["videos"]["b"])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("method", METHODS)
def test_damaged_archives(vsr, tmp_path, method, damage):
    make.archive(tmp_path / "scannet.zip", METHODS[method], DAMAGES[damage])
    found = vsr("evaluate", *SMOKE, "--bench", tmp_path, "--subset", "--out", tmp_path / "o")
    must("scannet.zip: not a whole zip archive .*; download it again", found)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["scannet.zip", "test.jsonl"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A fresh adapter of the miniature."""
    model = models.load("tiny").model
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    save_adapter(models.add_lora(model, profiles.get("smoke")), folder)
    return folder


@table(make.ADAPTERS)
def test_foreign_adapters(vsr, tmp_path, adapter, case):
    change, right = case
    folder = make.adapter(adapter, tmp_path / "theirs", change)
    words = ["--bench", bench(tmp_path / "b", lines(COUNT)), "--video", "none", "--out", tmp_path / "o"]
    must(right, vsr("evaluate", *SMOKE, "--adapter", folder, *words))
    assert (tmp_path / "o").exists() == (right == READ)


def test_adapters_that_are_not_there(vsr, tmp_path, adapter):
    words = ["evaluate", *SMOKE, "--bench", bench(tmp_path / "b", lines(COUNT)), "--out", tmp_path / "o", "--adapter"]
    must("no adapter_config.json there", vsr(*words, tmp_path))
    folder = make.adapter(adapter, tmp_path / "theirs", lambda *_: None)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-99])
    must("adapter_model.safetensors: cannot be read", vsr(*words, folder))
    weights.rename(folder / "adapter_model.bin")
    must("adapter_model.bin: pickled weights can run code", vsr(*words, folder))
    (folder / "adapter_config.json").write_bytes(make.BOM + (folder / "adapter_config.json").read_bytes())
    shutil.copy(adapter / "adapter_model.safetensors", folder)
    must(READ, vsr(*words, folder, "--video", "none"))


def test_weights_have_the_permissions_of_a_plain_file(adapter):
    modes = {oct(file.stat().st_mode & 0o777) for file in adapter.iterdir()}
    assert modes == {oct(0o666 & ~UMASK)}


@table(make.BASES)
def test_foreign_bases(vsr, tmp_path, case):
    name, change, right = case
    folder = make.base(tmp_path / "base", name, change)
    words = ["--bench", bench(tmp_path / "b", lines(COUNT)), "--video", "none", "--out", tmp_path / "o"]
    must(right, vsr("evaluate", *SMOKE, "--model", folder, *words))


def test_a_base_that_is_kept_in_nf4(vsr, tmp_path):
    """Its manifests say so, and its adapter can be exported."""
    whole = models.load("tiny", quantization="nf4")
    whole.model.save_pretrained(tmp_path / "nf4")
    for file in models.folders.TINY_FOLDER.glob("*.json"):
        if not (tmp_path / "nf4" / file.name).exists():
            shutil.copy(file, tmp_path / "nf4")
    for file in models.folders.TINY_FOLDER.glob("chat_template*"):
        shutil.copy(file, tmp_path / "nf4")
    folder, out, base = bench(tmp_path / "b", lines(COUNT, NEAR), videos=("a",)), tmp_path / "o", tmp_path / "nf4"
    must(READ, vsr("evaluate", *SMOKE, "--model", base, "--bench", folder, "--out", out))
    words = ["--set", f"base={base}", "--set", "max_steps=1", "--data", folder, "--out", out]
    must(READ, vsr("train", "sft", *SMOKE, *words))
    for manifest in map(read_json, out.glob("*/manifest.json")):
        assert manifest["settings"]["quantization"] == manifest["about"]["model"]["quantization"] == "nf4"
    must(READ, vsr("export", "--adapter", out / "sft-seed0", "--out", tmp_path / "merged"))
    ids = torch.arange(8)[None]
    merged, ours = models.load(str(tmp_path / "merged")), models.load(str(base), adapter=out / "sft-seed0")
    with torch.no_grad():
        assert torch.allclose(merged.model(ids).logits, ours.model(ids).logits, atol=1e-3)
    must("kept as nf4, not int8", vsr("evaluate", *SMOKE, "--model", base, "--set", "quantization=int8",
                                      "--bench", folder, "--out", out))  # fmt: skip


def test_scans_of_other_people(vsr, tmp_path):
    """Lists and label tables as Windows writes them; folders where files are meant."""
    root, name = tmp_path / "s", "scene0001_00"
    write_scan(root, make_layout(name, 3, objects=8), 1500)
    labels = write_table(root)
    labels.write_bytes(make.BOM + labels.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "list.txt").write_bytes(make.BOM + f"{name}\r\n".encode())
    words = ["build", "scannet", "--scenes", root, "--workers", "1", "--out", tmp_path / "o", "--rules", "vsibench"]
    must(READ, vsr(*words, "--list", tmp_path / "list.txt"))
    for option in ("--list", "--labels"):
        must("cannot be read .Is a directory", vsr(*words, option, tmp_path))
    must("cannot be read .Is a directory", vsr("score", "--predictions", tmp_path))
    must("no such folder", vsr(*words[:3], tmp_path / "list.txt", "--out", tmp_path / "o"))
