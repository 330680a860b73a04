"""`vsr bench`: its ways agree, operations are those torch counts, and what needs no GPU or node is right."""

import numpy as np
import pytest
import torch
from small import small_folder

from vsr import cli, profiles
from vsr.bench import eval as bench_eval
from vsr.bench import gpu, scale
from vsr.bench import grpo as bench_grpo
from vsr.bench.others import Naive
from vsr.bench.subject import subject
from vsr.engine.decoding import rollouts
from vsr.estimate.workload import workload
from vsr.models.folders import find
from vsr.train.data import read_prompt


@pytest.fixture(scope="module")
def what():
    return subject()


def test_the_subject_has_the_shipped_sizes_and_prompts_the_length_asked_for(what):
    shipped = find("tiny")[1]
    assert what.model.config.text_config.num_hidden_layers == shipped.text_config.num_hidden_layers == 6
    assert what.model.dtype == torch.float32
    for length in (300, 1200):
        assert len(read_prompt(what.row(length, 3), what.tokenizer, what.see).ids) == length
    assert len({len(ids) for ids in what.questions(300, 18)}) > 5


@pytest.mark.parametrize(("group", "length"), [(4, 8), (14, 64)])
def test_sharing_can_save_at_most_the_group(what, group, length):
    for limit in bench_grpo.limits(what.model.config, 1200, group, length):
        assert 1 < limit < group
    assert bench_grpo.limits(what.model.config, 1200, 1, length)[0] == pytest.approx(1, rel=0.01)


def test_naive_rollouts_read_the_same_prompt(what):
    read = read_prompt(what.row(300), what.tokenizer, what.see)
    (group,) = rollouts(what.model, [read], 2, 4, -1, what.forbidden, temperature=0)
    naive = Naive(what.model, read, 2, 4)
    with torch.no_grad():
        logps = naive.logps(torch.stack(group))
        other = naive.logps(torch.stack(group) + 1)
    assert (logps > other).all()
    assert naive.rollout(what.forbidden, torch.Generator().manual_seed(0)).shape == (2, 4)


@pytest.mark.slow
def test_a_point_of_each_grid(capsys, monkeypatch):
    monkeypatch.setattr(bench_grpo, "wide", subject)  # 2B's widths take minutes
    result = bench_grpo.main(prompts=(300,), groups=(4,), completions=(8,), repeats=1)
    (row,) = result["rows"]
    assert {"prompt", "group", "completion", "ours_s", "naive_s", "trl_s", "lm_ratio", "lm_flop_limit"} <= row.keys()
    assert row["logp_difference"] < 1e-5
    assert row["saved_bytes_ours"] < 0.5 * row["saved_bytes_naive"]
    assert row["naive_s"] > row["ours_s"]
    assert row["trl_s"] > 2 * row["ours_s"]
    assert 0 < row["decode_operations_layer"] <= 60
    assert row["decode_bytes_least"] <= row["decode_bytes"] < 4 * row["decode_bytes_least"]
    result = bench_eval.main(questions=6, prompts=(300,), answer=4, repeats=1)
    (row,) = result["rows"]
    assert row.keys() == {"questions", "prefix", "answer", "ours_s", "one_by_one_s", "batched_s", "identical"}
    assert row["identical"]
    assert row["one_by_one_s"] > 1.5 * row["ours_s"]
    assert "one by one" in capsys.readouterr().out


def test_without_a_gpu_it_refuses_before_it_writes_anything(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "gpu", "--out", str(tmp_path)]) == 2
    assert "no CUDA device here; run the same command on a GPU machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_gpu_s_row_measured_on_a_small_model(tmp_path):
    settings = {"base": str(small_folder(tmp_path)), "max_completion_length": 3, "num_generations": 2}
    profile = profiles.get("tiny", **settings, questions_per_step=2)
    row = gpu.measure(profile, tmp_path / "run", steps=2)
    for part in ("memory", "step", "vision", *gpu.PHASES):
        assert row[f"{part}_estimated"] > 0
        assert row[f"{part}_measured"] > 0
    assert row["completion"] == 3
    left = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    assert left == {"log.jsonl", "completions.jsonl"}
    # estimates that are far off are marked
    row |= {"memory_estimated": 11 * 2.0**30, "memory_measured": 10 * 2.0**30}
    row |= {"step_estimated": 3.0, "step_measured": 2.0, "vision_estimated": 0.5}
    _, memory, step, vision, rollout = gpu.line(row).split("|")
    assert "same" in rollout
    assert "11.00" in memory
    assert "+10% " in memory
    assert "+50%!" in step
    assert "0.500" in vision


def test_a_build_is_its_serial_part_on_many_cores():
    measured = {"scans": 100, "read": {"cpu_s": 66.0}, "ask": {"wall_s": 12.0}}
    assert scale.build(measured, 1513, 10**9) == pytest.approx(12.0)
    assert scale.build(measured, 1513, 1) == pytest.approx(15.13 * 66 + 12)


def test_where_a_part_stops():
    assert scale.stops_at({1: 8.0, 2: 4.0, 4: 3.5, 8: 3.4}) == 2
    assert scale.stops_at({1: 8.0, 2: 4.0}) == 2  # no more can be used
    assert scale.stops_at({1: 1.0}) == 1


def test_one_device_waits_for_nobody_and_more_wait_longer():
    work = workload(profiles.get("paper-2b"), "think")
    waits = [scale.slowest(work, 8 // gpus, 14, gpus) for gpus in (1, 2, 4, 8)]
    assert waits[0] == 1
    assert list(np.sort(waits)) == waits
    assert waits[-1] < 2
    assert scale.reduction(1e8, 392, 1) == 0  # gradients cost nothing alone
    assert 0 < scale.reduction(1e8, 392, 2) < scale.reduction(1e8, 392, 8) < 0.1


def test_scale_says_what_breaks_first(monkeypatch, capsys):
    monkeypatch.setattr(scale, "apart", lambda part, folder, n: {"cpu_s": 3.0, "peak_mb": 100 + n * len(part.__name__)})
    rows = scale.growth(10, 30)
    assert [row["part"] for row in rows] == ["scoring_answers", "building", "opening"]
    assert rows[0]["breaks_at"] == round(16e3 / len("scoring_answers"))
    assert "scoring answers breaks first, before 10,000,000" in capsys.readouterr().out
