"""The whole study on the real architecture: Qwen2-VL's tokenizer, template, processor and configuration on two random
layers, VSI-Bench's own questions, 480x640 videos, VSI-100k from raw scans; as a lab and as a student run it."""

import pytest
from real_study import lab

from vsr import cli, notebooks, profiles
from vsr.files import read_json
from vsr.train import launch

SMALL = {
    "frames": 4, "max_steps": 1, "grid_steps": 1, "num_generations": 4, "questions_per_step": 4, "grid_questions": 2,
    "max_completion_length": 3, "max_new_tokens": 2, "max_new_tokens_reasoning": 3, "bootstrap": 50, "bench_rooms": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(shared, tmp_path_factory) -> dict:
    return SMALL | lab(shared, tmp_path_factory.mktemp("lab"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gpus"), [("paper-2b", 1), ("qlora-2b", 1)])
def test_the_notebooks_on_the_real_architecture(settings, tmp_path, monkeypatch, capsys, name, gpus):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(launch.GPUS, raising=False)
    out = notebooks.runs.ROOT / "results" / "smoke" / f"real-{name}"
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert cli.main(["run", "--profile", name, "--out", str(out), "--gpus", str(gpus), "--fresh", *words]) == 0
    books = notebooks.find(profiles.get(name).notebooks)
    assert sorted(path.name for path in (out / "notebooks").glob("*.ipynb")) == [book.name for book in books]
    printed = capsys.readouterr().out
    assert "trainings" in printed
    for method in ("grpo-vanilla", "grpo-think", "grpo-observe", "sft", "dpo"):
        run = read_json(out / f"{method}-seed0" / "manifest.json")
        assert run["finished"]
