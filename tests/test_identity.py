"""Nothing paid for is lost: every setting is changed, the stage run again, and the setting changed back."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from grpo_setup import small_study
from small import small_folder

from vsr import evaluate, profiles, runs, train
from vsr.questions import dataset

OTHERS = {  # another value of every setting
    "quantization": "nf4", "dtype": "bfloat16", "attention": "eager", "seed": 5, "seeds": 2, "data": "elsewhere",
    "train_rooms": 5, "bench_rooms": 5, "route_questions": 3, "order_questions": 3,
    "frames": 2, "max_pixels": 56 * 56, "max_new_tokens": 3,
    "max_new_tokens_reasoning": 5, "bootstrap": 77, "lora_r": 2, "lora_alpha": 8, "lora_targets": "q,v",
    "lora_dropout": 0.1, "num_generations": 2, "temperature": 0.7, "beta": 0.3, "epsilon": 0.1, "learning_rate": 1e-3,
    "questions_per_step": 1, "max_steps": 1, "max_completion_length": 3, "token_budget": 99, "split_every": 3,
    "num_iterations": 2, "loss_level": "sequence", "scale_rewards": "none", "format_rule": "strict",
    "length_weight": 0.5, "optim": "adamw_torch", "lr_scheduler": "linear", "warmup_steps": 1, "weight_decay": 0.1,
    "max_grad_norm": 0.5, "trained_prompts": "evaluate", "train_rules": "vsibench", "probe_every": 7,
    "probe_questions": 7, "beyond_steps": 7, "beyond_seeds": 2, "notebooks": "01", "extra_runs": "",
    "grid_betas": "0", "grid_rates": "2", "grid_steps": 1,
    "grid_questions": 5, "grid_seeds": 4, "sft_learning_rate": 1e-2, "dpo_learning_rate": 1e-2, "dpo_beta": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A profile of two steps, questions about three rooms, and a folder for results."""
    here = tmp_path_factory.mktemp("study")
    profile, folder = small_study(here)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROOT", here)
        patch.setitem(OTHERS, "base", str(small_folder(here / "other", seed=1)))
        yield dataclasses.replace(profile, max_steps=2), dataset.load(folder), here / "results"


def digest(run: runs.Run) -> str:
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def trained(profile, data, out: Path) -> runs.Run:
    return train.train("grpo", profile, data, out)


def answered(profile, data, out: Path) -> runs.Run:
    return evaluate.evaluate("base", data, "vanilla", "true", profile, out)


STAGES = {"grpo": (trained, train.STAGES["grpo"]), "answer": (answered, evaluate.ANSWER["vanilla"])}
ALL = [field.name for field in dataclasses.fields(profiles.Profile) if field.name != "name"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_setting_that_is_changed_and_changed_back_finds_the_first_result_again(study, monkeypatch, stage):
    profile, data, out = study
    work, declared = STAGES[stage]
    first, mistakes = digest(work(profile, data, out)), []
    for name in ALL:
        assert OTHERS[name] != getattr(profile, name), name
        before = runs.earlier(out)
        other = digest(work(dataclasses.replace(profile, **{name: OTHERS[name]}), data, out))
        with monkeypatch.context() as patch:  # the way back trains and answers nothing
            patch.setattr(train, "save_adapter", None)
            patch.setattr(evaluate, "answer", None)
            again = digest(work(profile, data, out))
        if again != first:
            mistakes.append(f"{name}: the first result is another one now")
        if (len(runs.earlier(out)) > len(before)) != (name in declared.settings):
            mistakes.append(f"{name}: {'no' if name in declared.settings else 'a'} second run was made")
        if name not in declared.settings and name not in ("bootstrap", "seed") and other != first:
            mistakes.append(f"{name}: changed the run, though its stage does not declare it")
    assert not mistakes
