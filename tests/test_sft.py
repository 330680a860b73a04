"""SFT sees the video, learns the answer alone, asks what GRPO asks, and survives being killed."""

import pytest
import torch
from baseline_setup import adapter, blind, die_at, furthest, gradients, log, loss, naive_logps, staged, trainer

from vsr import models, prompts
from vsr import train as training
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.models import folders
from vsr.questions.dataset import QuestionSet
from vsr.train import baselines, token_passes, train
from vsr.train.data import AnswerCollator, Rows
from vsr.train.grpo import config, train_grpo


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="module")
def made(stage, tmp_path_factory):
    return trainer("sft", stage, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    return train("sft", stage.profile(), stage.data, tmp_path_factory.mktemp("whole"))


def test_the_loss_is_that_of_the_answers_alone_given_the_pixels(made):
    sft, rows = made
    naive = -torch.cat([naive_logps(sft, row, row["answer"]) for row in rows])
    assert len(naive) == sum(len(row["answer"]) + 1 for row in rows)  # a token a byte, and the end
    assert torch.allclose(loss(sft, rows), naive.mean(), atol=1e-5)
    assert furthest(gradients(sft, loss(sft, rows)), gradients(sft, naive.mean())) < 1e-4


def test_another_video_or_none_changes_the_loss(made):
    sft, rows = made
    for row in rows[:4]:
        true = loss(sft, [row])
        other = loss(
            sft, [{**row, "video": row["video"].replace("one", "x").replace("two", "one").replace("x", "two")}]
        )
        none = loss(sft, [{**row, "video": None, "prompt": blind(row)}])
        assert abs(other - true) > 1e-3
        assert abs(none - true) > 1e-3


def test_a_batch_of_many_is_many_batches_of_one(made):
    sft, rows = made
    tokens = torch.tensor([len(row["answer"]) + 1.0 for row in rows])
    alone = torch.stack([loss(sft, [row]) for row in rows])
    expected = (alone * tokens).sum() / tokens.sum()
    assert abs(loss(sft, rows) - expected) < 1e-5
    assert furthest(gradients(sft, loss(sft, rows)), gradients(sft, expected)) < 1e-5


def test_only_the_adapter_learns(made):
    sft, rows = made
    sft.model.zero_grad()
    loss(sft, rows).backward()
    learning = {name for name, p in sft.model.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in sft.model.named_parameters() if "lora_" in name}


def test_prompts_survive_the_table_they_travel_in(made, shared):
    sft, rows = made
    tokenizer = folders.load_tokenizer(shared / "qwen2-vl-processor")
    grid = torch.tensor([[2, 4, 6]])
    for row in sft.train_dataset:
        original = next(r for r in rows if r["id"] == row["id"])
        grids = None if row["video"] is None else grid
        ours, theirs = (prompts.render(tokenizer, r["prompt"], grids) for r in (row, original))
        assert torch.equal(ours, theirs)


def test_the_questions_are_grpos_in_grpos_order(stage, tmp_path):
    chosen = stage.profile(max_steps=8, num_generations=2, max_completion_length=1)
    base = models.load(str(stage.model))
    loaded = models.Loaded(models.add_lora(base.model, chosen), base.tokenizer, base.info)
    rows = Rows("sft", stage.data)
    asked = []

    def note(prompts, id, **_):
        asked.extend(id[::2])
        return [0.0, 1.0] * (len(id) // 2)

    def see(path):
        return torch.zeros(12, 32), torch.tensor([[2, 4, 6]])

    train_grpo(loaded, Rows("grpo", stage.data), [note], config(chosen, tmp_path / "grpo", seed=5), see)
    sft = baselines.make("sft", chosen, loaded, rows, see, baselines.config("sft", chosen, tmp_path / "sft", seed=5))
    sft.data_collator = lambda rows: {"id": [row["id"] for row in rows]}
    batches = [batch["id"] for batch in sft.get_train_dataloader()]
    assert len(batches) == 8
    assert [name for batch in batches for name in batch] == asked
    assert len(set(asked[:9])) == 9
    prompts_read = sum(len(prompt.ids) for prompt in AnswerCollator(loaded, see).prompts(list(sft.train_dataset)))
    one_token_each = 2 * len(asked)
    assert token_passes(tmp_path / "grpo") == 4 * (prompts_read + one_token_each)  # sample, reference, update twice


def test_a_run_leaves_an_adapter_a_log_and_nothing_else(stage, tmp_path):
    base = models.load(str(stage.model))
    weights = {name: p.clone() for name, p in base.model.state_dict().items()}
    seen = []
    run = train("sft", stage.profile(sft_learning_rate=1e-2), stage.data, tmp_path, 7, loaded=base, on_step=seen.append)
    assert run.path.name == "sft-seed7"
    assert run.finished
    marks = {".alive.json"}
    assert {p.name for p in run.path.iterdir()} == marks | {"adapter", "log.jsonl", "manifest.json"}
    assert [line["step"] for line in log(run)] == [1, 2, 3, 4, 5, 6]
    assert seen == log(run)
    assert log(run)[-1]["loss"] < log(run)[0]["loss"]
    assert run.manifest["token_passes"] == token_passes(run.path) == 2 * sum(line["tokens"] for line in log(run))
    after = base.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert "forward" not in vars(base.model)
    trained = models.load(str(stage.model), adapter=run.path)
    assert trained.info["name"] == "sft-seed7"
    again = train("sft", stage.profile(sft_learning_rate=1e-2), stage.data, tmp_path, 7, on_step=seen.append)
    assert again.manifest == run.manifest
    assert len(seen) == 6  # nothing was trained
    other = train("sft", stage.profile(sft_learning_rate=1e-2), stage.data, tmp_path, 8, loaded=base)
    assert any(not torch.equal(adapter(run)[name], p) for name, p in adapter(other).items())


@pytest.mark.parametrize("step", [1, 4, 6])
def test_killed_and_continued_it_ends_with_the_same_adapter(stage, whole, tmp_path, step):
    chosen = stage.profile()
    with pytest.raises(KeyboardInterrupt):
        train("sft", chosen, stage.data, tmp_path / "broken", on_step=die_at(step))
    broken = train("sft", chosen, stage.data, tmp_path / "broken")
    # same machine, same shapes: same bits
    assert all(torch.equal(adapter(broken)[name], p) for name, p in adapter(whole).items())
    keys = ("step", "loss", "tokens", "learning_rate")
    assert [[line[k] for k in keys] for line in log(broken)] == [[line[k] for k in keys] for line in log(whole)]


def test_killed_after_the_last_step_it_only_saves(stage, whole, tmp_path, monkeypatch):
    def full(*_):
        raise VsrError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_adapter", full)
        with pytest.raises(VsrError, match="disk full"):
            train("sft", stage.profile(), stage.data, tmp_path)
    done = train("sft", stage.profile(), stage.data, tmp_path, on_step=die_at(6))
    assert all(torch.equal(adapter(done)[name], p) for name, p in adapter(whole).items())
    assert len(log(done)) == 6


def test_equal_compute_takes_as_many_steps_as_the_budget_buys(stage, tmp_path):
    chosen = stage.profile()
    base = models.load(str(stage.model))
    equal = train("sft", chosen, stage.data, tmp_path, loaded=base)
    more = train("sft", chosen, stage.data, tmp_path, loaded=base, budget=3 * token_passes(equal.path))
    assert more.path.name == "sft-compute-seed0"
    assert more.manifest["steps"] == 18
    assert token_passes(more.path) == pytest.approx(3 * token_passes(equal.path), rel=0.1)


def test_a_missing_video_names_the_question(stage, tmp_path):
    nowhere = QuestionSet(tmp_path / "nowhere", stage.data.questions)
    with pytest.raises(VsrError, match=r"sample 'q\d': .*(one|two).mp4: video could not be read"):
        train("sft", stage.profile(), nowhere, tmp_path)
    assert not read_json(tmp_path / "sft-seed0" / "manifest.json").get("adapter")
