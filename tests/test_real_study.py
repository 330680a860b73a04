"""The whole study on the real architecture: Qwen2-VL's tokenizer, template, processor and configuration on two random
layers, VSI-Bench's own questions, 480x640 videos, VSI-100k from raw scans; as a lab and as a student run it."""

import shutil

import pytest
from real_study import lab
from safetensors.torch import load_file

from vsr import cli, notebooks, profiles
from vsr.files import read_json

SMALL = {
    "frames": 4, "max_pixels": 16 * 28 * 28, "max_steps": 1, "grid_steps": 1, "num_generations": 4,
    "questions_per_step": 4, "grid_questions": 2, "max_completion_length": 3, "max_new_tokens": 2,
    "max_new_tokens_reasoning": 3, "bootstrap": 50, "bench_rooms": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def words(shared, tmp_path_factory) -> list[str]:
    settings = SMALL | lab(shared, tmp_path_factory.mktemp("lab"))
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "only"), [("paper-2b", ""), ("qlora-2b", "05,07")])  # where 4-bit weights are trained
def test_the_notebooks_on_the_real_architecture(words, capsys, name, only):
    out = notebooks.runs.ROOT / "results" / "real" / name  # beside smoke's, which another test counts
    shutil.rmtree(out, ignore_errors=True)
    books = notebooks.find(only or profiles.get(name).notebooks)
    asked = ["--only", only] if only else []
    assert cli.main(["run", "--profile", name, "--out", str(out), *asked, *words]) == 0
    assert sorted(path.name for path in (out / "notebooks").glob("*.ipynb")) == [book.name for book in books]
    printed = capsys.readouterr().out
    assert "trainings" in printed
    for method in ("grpo-vanilla", "sft", "dpo", *(() if only else ("grpo-think", "grpo-observe"))):
        run = read_json(out / f"{method}-seed0" / "manifest.json")
        assert run["finished"]


@pytest.mark.slow
def test_two_processes_train_what_one_does(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(notebooks.runs.ROOT))
    weights = []
    for gpus in ("1", "2"):
        out = tmp_path / gpus
        asked = ["train", "grpo", "--profile", "paper-2b", "--mode", "think", "--gpus", gpus, "--out", str(out), *words]
        assert cli.main([*asked, "--set", "dtype=float32", "--set", "max_steps=2"]) == 0
        weights.append(load_file(out / "grpo-think-seed0" / "adapter" / "adapter_model.safetensors"))
    assert max(float((weights[1][name] - one).abs().max()) for name, one in weights[0].items()) < 1e-5
