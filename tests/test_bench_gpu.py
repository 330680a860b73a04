"""`vsr bench gpu`: it refuses without a GPU, and its parts that need none are right."""

import pytest
from small import small_folder

from vsr import cli, profiles
from vsr.bench import gpu


def test_without_a_gpu_it_refuses_before_it_writes_anything(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "gpu", "--out", str(tmp_path)]) == 2
    assert "no CUDA device here; run the same command on a GPU machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_estimates_that_are_far_off_are_marked():
    row = {"profile": "qlora-2b", "completion": 8, "vision_estimated": 0.5, "vision_measured": 0.4}
    row |= {"memory_estimated": 11 * 2.0**30, "memory_measured": 10 * 2.0**30}
    row |= {"step_estimated": 3.0, "step_measured": 2.0}
    assert gpu.off(row, "memory") == pytest.approx(0.1)
    assert gpu.off(row, "step") == pytest.approx(0.5)
    _, memory, step, vision = gpu.line(row).split("|")
    assert "11.00" in memory
    assert "+10%" in memory
    assert "!" not in memory
    assert "+50%!" in step
    assert "0.500" in vision


@pytest.mark.slow
def test_a_row_measured_on_a_small_model(tmp_path):
    settings = {"base": str(small_folder(tmp_path)), "max_completion_length": 3, "num_generations": 2}
    profile = profiles.get("tiny", **settings, questions_per_step=2)
    row = gpu.measure(profile, tmp_path / "run", steps=2)
    for what in ("memory", "step", "vision", *gpu.PHASES):
        assert row[f"{what}_estimated"] > 0
        assert row[f"{what}_measured"] > 0
    assert row["completion"] == 3
    left = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    assert left == {"log.jsonl", "completions.jsonl"}
