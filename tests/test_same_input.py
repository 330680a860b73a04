"""What is rolled out, scored, trained on and evaluated is the same input, told by one hash; what is drawn is what is
scored, or the run says that it is not."""

import dataclasses

import pytest
import torch
from golden.make_families import sizes_of
from grpo_setup import ROWS, adapted, arguments, letters, see, small_folder, small_study

from vsr import prompts, runs
from vsr.engine import slots
from vsr.engine.inputs import FeatureCache, Prompt, as_number, digest
from vsr.errors import VsrError
from vsr.evaluate import evaluate
from vsr.families import FAMILIES
from vsr.files import fingerprint, read_jsonl
from vsr.models import load
from vsr.models.folders import random_folder
from vsr.questions.dataset import load as load_questions
from vsr.train import on_policy, train
from vsr.train.data import Rows, Schedule
from vsr.train.fit import APART
from vsr.train.grpo import make


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_read_the_same(tmp_path, monkeypatch, family):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    profile, folder = small_study(tmp_path)
    base = random_folder(tmp_path / family, sizes_of(FAMILIES[family]), tmp_path / "tokenizer")
    profile = dataclasses.replace(profile, base=str(base))
    data = load_questions(folder)
    asked = evaluate("base", data, "vanilla", "true", profile, tmp_path / "out", stage="train")
    read = {row["id"]: row["input"] for row in read_jsonl(asked.path / "samples.jsonl")}
    assert len(set(read.values())) == len(read) == 6
    order = Schedule(Rows("grpo", data), profile.max_steps, profile.questions_per_step, 0)
    numbers = [as_number(read[order[i]["id"]]) for i in range(len(order))]
    size = profile.questions_per_step
    wanted = [as_number(fingerprint(numbers[i : i + size])) for i in range(0, len(order), size)]
    for method in ("grpo", "sft", "dpo"):
        run = train(method, profile, data, tmp_path / "out")
        assert [line["inputs"] for line in read_jsonl(run.path / "log.jsonl")] == wanted, method
        assert run.manifest["inputs_read"] == fingerprint(wanted)
    assert asked.manifest["inputs_read"] == fingerprint(list(read.values()))


def test_whatever_a_model_reads_changes_the_hash(tmp_path):
    profile, folder = small_study(tmp_path)
    data, model = load_questions(folder), load(profile.base)
    seen = FeatureCache(model.model, tmp_path / "features", 4, 84 * 56)(data.video_path("room0"))
    other = FeatureCache(model.model, tmp_path / "features", 4, 84 * 56)(data.video_path("room1"))
    ids = prompts.render(model.tokenizer, prompts.messages(data.questions[0], "vanilla"), seen.grid)
    more = torch.cat((ids, ids[-1:]))
    asked = (seen.prompt(ids), seen.prompt(more), other.prompt(ids), Prompt(more[-9:]))
    marks = [digest(model.model, one) for one in asked]
    assert len(set(marks)) == 4
    assert digest(model.model, seen.prompt(ids.clone())) == marks[0]


@pytest.fixture
def trainer(tmp_path):
    """One that has not begun."""
    return make(adapted(small_folder(tmp_path)), ROWS, [letters], arguments(tmp_path / "run", max_steps=1), see)


def told(trainer) -> list[dict]:
    return list(read_jsonl(trainer.folder / "log.jsonl"))


def test_what_is_drawn_is_what_is_scored(trainer):
    trainer.train()
    assert 0 < told(trainer)[0][APART] < 0.05  # nothing is drawn among the vision tokens: a little is spread on others
    assert on_policy(trainer.folder, 0.2)["holds"]


def test_a_run_that_draws_from_another_input_is_not_on_policy(trainer, monkeypatch, capsys):
    honest = slots.embed
    monkeypatch.setattr(slots, "embed", lambda *given: 3 + honest(*given))
    trainer.train()
    found = on_policy(trainer.folder, 0.2)
    assert found["largest"] > found["bound"] == pytest.approx(0.1823, abs=1e-4)
    assert not found["holds"]
    assert "run: not on-policy: what was drawn and what was scored differ" in capsys.readouterr().err
    assert on_policy(trainer.folder, 1e9)["holds"]


def test_a_prompt_that_changes_between_drawing_and_scoring_is_refused(trainer, monkeypatch):
    sample = trainer._sample

    def other(model, given):
        found = sample(model, given)
        given[0] = Prompt(torch.cat((given[0].ids, given[0].ids[-1:])), given[0].features, given[0].grid)
        return found

    monkeypatch.setattr(trainer, "_sample", other)
    with pytest.raises(VsrError, match=r"run: question 'q\d' was sampled on input [0-9a-f]{16}, scored on"):
        trainer.train()
