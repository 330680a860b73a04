"""The benchmarks: their three ways agree, and operations are counted as torch counts them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vsr.bench import eval as bench_eval
from vsr.bench import grpo as bench_grpo
from vsr.bench.flops import Work, flops, limits, repeated, shared
from vsr.bench.naive_step import Naive
from vsr.bench.subject import subject
from vsr.engine.decoding import rollouts
from vsr.train.data import read_prompt


@pytest.fixture(scope="module")
def what():
    return subject()


def test_operations_are_those_torch_counts(what):
    """Written out as products, a causal attention is computed in full: meetings count twice."""
    adapted, group, length = what.adapted(), 2, 5
    read = read_prompt(what.row(300), what.tokenizer, what.see)
    naive = Naive(adapted.model, read, group, length)
    ids = torch.full((group, length), 9)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logps = naive.logps(ids)
        with FlopCounterMode(display=False) as backward:
            logps.sum().backward()
    adapted.model.unload()
    work = repeated(300, group, length)
    full = Work(work.tokens, 2 * work.meetings, work.predicted)
    rank = bench_grpo.RANK
    counted = forward.get_total_flops()
    assert flops(what.model.config, full, rank) == pytest.approx(counted, rel=0.02)
    both = flops(what.model.config, full, rank, backward=True)
    # the first layer's queries, keys and values need no gradient of their input: 5 % of this small model
    assert both == pytest.approx(counted + backward.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(("group", "length"), [(4, 8), (14, 64)])
def test_sharing_can_save_at_most_the_group(what, group, length):
    language, step = limits(what.model.config, 1200, group, length, 16)
    assert 1 < language < group
    assert 1 < step < group
    assert limits(what.model.config, 1200, 1, length, 16)[0] == pytest.approx(1, rel=0.01)
    assert shared(1200, 1, 8).tokens == repeated(1200, 1, 8).tokens


def test_prompts_have_the_length_asked_for(what):
    for length in (300, 1200):
        assert len(read_prompt(what.row(length, 3), what.tokenizer, what.see).ids) == length
    assert len({len(ids) for ids in what.questions(300, 18)}) > 5


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
def test_a_point_of_each_grid(capsys):
    result = bench_grpo.main(prompts=(300,), groups=(4,), completions=(8,), repeats=1)
    (row,) = result["rows"]
    assert {"prompt", "group", "completion", "ours_s", "naive_s", "trl_s", "lm_ratio", "lm_flop_limit"} <= row.keys()
    assert row["logp_difference"] < 1e-5
    assert row["saved_bytes_ours"] < 0.5 * row["saved_bytes_naive"]
    assert row["naive_s"] > row["ours_s"]
    assert row["trl_s"] > 2 * row["ours_s"]
    result = bench_eval.main(questions=6, prompts=(300,), answer=4, repeats=1)
    (row,) = result["rows"]
    assert row.keys() == {"questions", "prefix", "answer", "ours_s", "one_by_one_s", "batched_s", "identical"}
    assert row["identical"]
    assert row["one_by_one_s"] > 1.5 * row["ours_s"]
    assert "one by one" in capsys.readouterr().out
