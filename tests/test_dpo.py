"""DPO sees the video in every forward, against the base itself, on pairs of right and wrong answers."""

import pytest
import torch
from baseline_setup import adapter, blind, die_at, furthest, gradients, log, loss, naive_logps, staged, trainer
from torch.nn.functional import logsigmoid

from vsr import models
from vsr.train import token_passes, train
from vsr.train.data import rejected


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="module")
def made(stage, tmp_path_factory):
    return trainer("dpo", stage, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    return train("dpo", stage.profile(), stage.data, tmp_path_factory.mktemp("whole"))


def naive_loss(dpo, rows, beta: float = 0.1) -> torch.Tensor:
    """-log sigmoid(beta * (log-ratio of the right answer - log-ratio of the wrong one)), pair by pair, from pixels."""
    losses = []
    for row in rows:
        policy = [naive_logps(dpo, row, row[column]).sum() for column in ("answer", "rejected")]
        with torch.no_grad(), dpo.model.disable_adapter():
            base = [naive_logps(dpo, row, row[column]).sum() for column in ("answer", "rejected")]
        losses.append(-logsigmoid(beta * ((policy[0] - base[0]) - (policy[1] - base[1]))))
    return torch.stack(losses).mean()


def test_the_loss_is_dpos_given_the_pixels_with_the_bare_base_as_reference(made):
    dpo, rows = made
    assert list(dpo.model.peft_config) == ["default"]
    naive = naive_loss(dpo, rows)
    assert abs(naive - 0.6931) > 1e-2  # the adapter has left the base
    assert torch.allclose(loss(dpo, rows), naive, atol=1e-5)
    assert furthest(gradients(dpo, loss(dpo, rows)), gradients(dpo, naive)) < 1e-4


def test_another_video_or_none_changes_the_loss(made):
    dpo, rows = made
    for row in rows[:4]:
        true = loss(dpo, [row])
        other = loss(
            dpo, [{**row, "video": row["video"].replace("one", "x").replace("two", "one").replace("x", "two")}]
        )
        none = loss(dpo, [{**row, "video": None, "prompt": blind(row)}])
        assert abs(other - true) > 1e-3
        assert abs(none - true) > 1e-3


def test_a_batch_of_many_is_many_batches_of_one(made):
    dpo, rows = made
    alone = torch.stack([loss(dpo, [row]) for row in rows]).mean()
    assert abs(loss(dpo, rows) - alone) < 1e-5
    assert furthest(gradients(dpo, loss(dpo, rows)), gradients(dpo, alone)) < 1e-5


def test_only_the_adapter_learns(made):
    dpo, rows = made
    dpo.model.zero_grad()
    loss(dpo, rows).backward()
    learning = {name for name, p in dpo.model.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in dpo.model.named_parameters() if "lora_" in name}


def test_pairs_are_the_truth_and_its_wrong_twin(made, stage):
    _, rows = made
    for row, question in zip(rows[:4], stage.data.questions, strict=False):
        assert row["answer"] == question.ground_truth
        assert row["rejected"] == rejected(question, 0) != row["answer"]


def test_a_run_prefers_the_right_answers_and_leaves_the_base_as_it_was(stage, tmp_path):
    base = models.load(str(stage.model))
    weights = {name: p.clone() for name, p in base.model.state_dict().items()}
    run = train("dpo", stage.profile(dpo_learning_rate=1e-2), stage.data, tmp_path, 3, loaded=base)
    assert run.path.name == "dpo-seed3"
    marks = {".alive.json"}
    assert {p.name for p in run.path.iterdir()} == marks | {"adapter", "log.jsonl", "manifest.json"}
    lines = log(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert lines[-1]["rewards/margins"] > 0.01
    assert token_passes(run.path) == 3 * sum(line["tokens"] for line in lines)
    after = base.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert not [name for name in adapter(run) if ".ref." in name]
    assert models.load(str(stage.model), adapter=run.path).info["name"] == "dpo-seed3"


@pytest.mark.parametrize("step", [1, 5])
def test_killed_and_continued_it_ends_with_the_same_adapter(stage, whole, tmp_path, step):
    chosen = stage.profile()
    with pytest.raises(KeyboardInterrupt):
        train("dpo", chosen, stage.data, tmp_path / "broken", on_step=die_at(step))
    broken = train("dpo", chosen, stage.data, tmp_path / "broken")
    # same machine, same shapes: same bits
    assert all(torch.equal(adapter(broken)[name], p) for name, p in adapter(whole).items())
    assert [line["loss"] for line in log(broken)] == [line["loss"] for line in log(whole)]
