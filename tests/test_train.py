"""One way to train: what each method reads is declared, its results change with its VERSION only, and no number that is
not finite comes into an adapter."""

import json
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path

import pytest
import torch
from baseline_setup import die_at
from grpo_setup import small_study
from safetensors.torch import load_file

from vsr import cli, profiles, runs, scoring
from vsr import train as training
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl, write_json
from vsr.questions.dataset import load
from vsr.questions.question import Question
from vsr.train import STAGES, probe, train
from vsr.train.objective import group_advantages, grpo_loss
from vsr.train.one_group import one_group

GOLDEN = Path(__file__).resolve().parent / "golden" / "trajectories.json"
COMPARED = {
    "grpo": ("loss", "reward", "reward_std", "kl", "entropy", "completions/mean_length", "grad_norm"),
    "sft": ("loss", "tokens", "grad_norm"),
    "dpo": ("loss", "rewards/margins", "logps/chosen", "tokens", "grad_norm"),
}


def digits(completions, **_):
    """A reward that even a random model earns now and then."""
    return [sum(ord(c) % 2 for c in completion[0]["content"]) for completion in completions]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A profile of three steps and questions about three rooms."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(scoring.rewards, "trl_rewards", lambda *_, **__: [digits])
    profile, folder = small_study(tmp_path)
    return profile, load(folder), tmp_path / "results"


def log(run) -> list[dict]:
    return list(read_jsonl(run.path / "log.jsonl"))


@pytest.mark.parametrize("method", STAGES)
def test_every_setting_that_is_read_is_declared_and_the_other_way_round(study, method):
    """Reading an undeclared one fails in any test; here, what is declared has to be read, or it would make runs differ
    for nothing."""
    profile, data, out = study
    run = train(method, profile, data, out)
    assert run.settings.read == set(STAGES[method].settings) | set(STAGES[method].free)
    with pytest.raises(AttributeError, match=f"stage '{method}' reads the setting 'bootstrap' without declaring it"):
        run.settings.bootstrap  # noqa: B018
    changes = {"bootstrap": 7, "bench_rooms": 2, "seeds": 9, "token_budget": 999, "split_every": 3, "max_new_tokens": 5}
    others = {"grpo": {"dpo_beta": 0.3}, "sft": {"beta": 0.3}, "dpo": {"temperature": 0.9}}[method]
    again = train(method, replace(profile, **changes, **others), data, out, on_step=die_at(1))
    assert again.manifest == run.manifest  # nothing was trained


@pytest.mark.parametrize("method", STAGES)
def test_results_change_with_the_version_only(study, method):
    """Compared within 1e-3: another processor rounds sums of float32 in another order (1e-6 relative), which three
    steps amplify a little; a change of rule, order or arithmetic moves the first digits."""
    profile, data, out = study
    rates = dict.fromkeys(("learning_rate", "sft_learning_rate", "dpo_learning_rate"), 1e-2)
    profile = replace(profile, **rates)
    lines = [{key: row[key] for key in COMPARED[method]} for row in log(train(method, profile, data, out, 3))]
    golden = read_json(GOLDEN) if GOLDEN.is_file() else {}
    found = {"version": STAGES[method].version, "log": lines}
    if pytest.renew_golden and found != golden.get(method):
        write_json(GOLDEN, golden | {method: found})
        return
    known = golden[method]
    assert known["version"] == STAGES[method].version, (
        "renew tests/golden/trajectories.json with: pytest --renew-golden"
    )
    same = all(row == pytest.approx(old, rel=1e-3, abs=1e-5) for row, old in zip(lines, known["log"], strict=True))
    assert same, (
        f"results changed: bump VERSION of the stage '{method}' in vsr/train/__init__.py, and renew with "
        f"'pytest tests/test_train.py --renew-golden'\nfound {json.dumps(lines)}\nknown {json.dumps(known['log'])}"
    )


@pytest.mark.parametrize("method", STAGES)
def test_numbers_that_are_not_finite_stop_a_training_with_its_last_good_checkpoint(study, method, monkeypatch, capsys):
    profile, data, out = study
    monkeypatch.setitem(profiles.PROFILES, "smoke", profile)
    rate = "learning_rate" if method == "grpo" else f"{method}_learning_rate"
    words = ["train", method, "--profile", "smoke", "--data", str(data.folder), "--out", str(out)]
    assert cli.main([*words, "--set", f"{rate}=1e30", "--set", "max_steps=4"]) == 2
    said = capsys.readouterr().err
    assert f"{method}-" in said
    assert "of 4: its" in said
    assert "is not finite, at a learning rate of 1e+30 in float32; set a lower one" in said
    (folder,) = out.glob(f"{method}-*seed0")
    assert not read_json(folder / "manifest.json")["finished"]
    assert not (folder / "adapter").exists()
    for weights in folder.glob("checkpoint-*/adapter_model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(weights).values())
    assert all(abs(value) < float("inf") for row in read_jsonl(folder / "log.jsonl") for value in row.values())


def test_one_bad_gradient_keeps_the_step_before(study, monkeypatch):
    """And the same command goes on from there, once the cause is gone."""
    profile, data, out = study
    step = torch.optim.AdamW.step

    def spoil(line):
        if line["step"] == 2:
            monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *_: spoiled(self))

    def spoiled(optimizer):
        optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

    with pytest.raises(VsrError, match=r"step 2 of 3: its adapter is not finite"):
        train("grpo", profile, data, out, on_step=spoil)
    assert [path.name for path in out.glob("*/checkpoint-*")] == ["checkpoint-1"]
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert [row["step"] for row in log(train("grpo", profile, data, out))] == [1, 2, 3]


def test_a_probe_changes_nothing_and_is_whole_wherever_a_training_was_broken(study, monkeypatch):
    profile, data, out = study
    profile, asked = replace(profile, max_steps=4, probe_every=3, probe_questions=6), probe.sampled
    whole = train("grpo", profile, data, out.parent / "whole", probe=data)
    assert whole.manifest["adapter"] == train("grpo", profile, data, out.parent / "plain").manifest["adapter"]
    lines = list(read_jsonl(whole.path / "probe.jsonl"))
    assert [line["step"] for line in lines] == [0, 3, 4]
    assert all(0 <= part["mean@14"] <= part["best@14"] <= 100 for line in lines for part in line["tasks"].values())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for number, how in enumerate(({"on_step": die_at(1)}, {"on_step": die_at(4)}, {})):
        with monkeypatch.context() as patch:
            if not how:  # in the probe after step 3, whose checkpoint is kept
                answers = iter([asked, interrupted])
                patch.setattr(probe, "sampled", lambda *words, answers=answers, **more: next(answers)(*words, **more))
            with pytest.raises(KeyboardInterrupt):
                train("grpo", profile, data, out / f"{number}", probe=data, **how)
        run = train("grpo", profile, data, out / f"{number}", probe=data)
        assert list(read_jsonl(run.path / "probe.jsonl")) == lines


def test_answers_agree_where_their_thoughts_differ():
    asked = Question("1", "rooms", "r", "object_counting", "How many?", None, "4")
    said = ["<think> a </think> <answer>4</answer>", "<think> b </think> <answer>4</answer>", "3", "3", "4", "8"]
    told = probe.spread([asked], [said])
    assert told["object_counting"] == told["trained"]
    # 3 instead of 4 is right at six thresholds of ten
    assert told["trained"] == {"mean@14": round(100 * (3 + 2 * 0.6) / 6, 1), "maj@14": 100.0, "best@14": 100.0}


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        ("ppo", {}, "unknown method 'ppo'"),
        ("sft", {"mode": "think"}, "mode=think.*they are for grpo; sft learns the bare answer"),
        ("dpo", {"beta": 0.1}, "beta=0.1: they are for grpo"),
        ("grpo", {"budget": 9}, "budget=9: it is for sft and dpo"),
    ],
)
def test_what_a_method_does_not_take_is_refused(study, method, how, message):
    profile, data, out = study
    with pytest.raises(VsrError, match=message):
        train(method, profile, data, out, **how)
    assert not out.exists()


def test_killed_while_finishing_a_run_goes_on_from_its_last_checkpoint(study, monkeypatch):
    profile, data, out = study

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.cards, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            train("grpo", profile, data, out)
    assert list(out.glob("*/checkpoint-3"))
    run = train("grpo", profile, data, out, on_step=die_at(3))  # no step is taken
    assert run.finished
    assert not list(run.path.glob("checkpoint-*"))


def test_a_group_under_the_microscope_is_the_trainers(study):
    """Its numbers are those of a step: on-policy before, moved after, the loss that the log tells."""
    profile, data, _ = study
    group = one_group(profile, data, kind="object_counting", seed=1)
    assert group.question.question_type == "object_counting"
    assert torch.equal(group.total, group.rewards.sum(1))
    assert torch.equal(group.advantages, group_advantages(group.total[None])[0])
    assert group.mask.sum(1).tolist() == [len(tokens) for tokens in group.tokens]
    assert not torch.allclose(group.before, group.after)
    how = (group.advantages, group.mask, profile.epsilon, profile.beta)
    loss = float(grpo_loss(group.before, group.before, group.before, *how))
    assert loss == pytest.approx(group.line["loss"], abs=1e-6)
    with pytest.raises(VsrError, match="of type 'route_planning' differs in reward"):
        one_group(profile, data, kind="route_planning")


def test_the_best_and_the_most_frequent_of_k_are_those_of_all_draws():
    asked = [Question(f"q{i}", "rooms", f"room{i}", "object_counting", "How many?", None, "4") for i in range(3)]
    texts = [["4", "4", "3", "4", "9"], ["5", "8", "5", "2", "4"], ["x", "x", "x", "x", "x"]]
    found = scoring.Sampled.of(asked, texts)
    earned = [[scoring.score(one, text) for text in group] for one, group in zip(asked, texts, strict=True)]
    for k, best in enumerate(found.best, 1):
        naive = [sum(map(max, combinations(each, k))) / comb(5, k) for each in earned]
        assert best.scores[0] == pytest.approx(naive)
    assert found.most[0].scores[0] == pytest.approx(found.best[0].scores[0])
    assert found.most[4].scores[0] == pytest.approx([1.0, scoring.score(asked[1], "5"), 0.0])
