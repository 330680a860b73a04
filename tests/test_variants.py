"""QLoRA variants: equal but for the quantisation, apart from the main study, drawn from run folders alone."""

import json
from dataclasses import replace

import pytest
from made_runs import write_manifest, write_run, write_training

from vsr import estimate, profiles, variants
from vsr.errors import VsrError
from vsr.estimate import devices
from vsr.files import read_json, read_jsonl, write_json
from vsr.models import quantize
from vsr.report import plotting, show, training_logs, write_all
from vsr.study import Study

NAMES = ("none", "nf4", "int8")


@pytest.fixture
def results(tmp_path):
    """Three variants whose models score 60, 58 and 40 % or so, on a CPU."""
    for name, skill, megabytes in zip(NAMES, (0.6, 0.58, 0.4), (16, 6, 9), strict=True):
        folder = tmp_path / "qlora" / name
        write_run(folder, "eval-base-vanilla-true", 0.3)
        write_run(folder, "eval-grpo-vanilla-seed0-vanilla-true", skill)
        write_training(folder, "grpo-vanilla-seed0", "vanilla", 1e-4, 0, steps=4)
        run = folder / "grpo-vanilla-seed0"
        write_json(run / "manifest.json", read_json(run / "manifest.json") | {"device": "cpu"})
        seconds = {f"seconds/{phase}": 0.5 for phase in variants.PHASES}
        lines = [line | seconds | {"peak_memory_mb": 900.0} for line in read_jsonl(run / "log.jsonl")]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        plan = {"peak": 2.0**30, "weights": megabytes * 2.0**20, "loaded": megabytes * 2**20, "training": 4.0}
        plan |= {"step": dict.fromkeys(variants.PHASES, 0.4), "fits": True, "changes": [], "rates": "made up"}
        write_json(folder / "plan" / "estimate.json", plan)
        write_manifest(folder / "plan", "estimate", about={}, id="plan-01234567")
    return tmp_path


def test_only_the_quantisation_differs(tmp_path):
    study = Study(profiles.get("tiny"), tmp_path)
    made = variants.studies(study, NAMES, lora_r=4, lora_targets="", learning_rate=0.0, max_steps=3)
    assert [one.profile.quantization for one in made.values()] == list(NAMES)
    assert {one.profile.lora_r for one in made.values()} == {4}
    assert {one.profile.learning_rate for one in made.values()} == {study.profile.learning_rate}
    assert [one.results for one in made.values()] == [tmp_path / "qlora" / name for name in NAMES]
    with pytest.raises(VsrError, match="unknown quantization 'nf5': did you mean 'nf4'"):
        variants.studies(study, ["nf5"])


def test_the_main_study_does_not_see_them(results):
    assert training_logs.find(results) == []
    write_all(results)
    assert "not run" in (results / "tables" / "table2.md").read_text()
    assert "01234567" not in (results / "tables" / "table2.md").read_text()


def test_numbers_are_those_of_the_run_folders(results):
    found = {one.name: one for one in variants.find(results)}
    assert list(found) == ["none", "int8", "nf4"]
    assert found["nf4"].memory == (6.0, 6.0)
    assert found["nf4"].step == pytest.approx((1.2, 1.5))
    rows = {row[0]: row for row in variants.rows(results)}
    assert rows["int8"][1:5] == ("9.0", "9.0", "1.20", "1.50")
    assert rows["none"][6] == str(found["none"].trained.value("overall"))
    lost = variants.loss(results)
    assert lost.keys() == {"nf4", "int8"}
    assert lost["int8"].value < lost["nf4"].value < 0


def test_on_a_gpu_memory_is_the_peak(results):
    run = results / "qlora" / "nf4" / "grpo-vanilla-seed0"
    write_json(run / "manifest.json", read_json(run / "manifest.json") | {"device": "NVIDIA L4"})
    found = next(one for one in variants.find(results) if one.name == "nf4")
    assert found.memory == (1024.0, 900.0)


def test_the_picture_says_what_it_found_and_is_stable(results, tmp_path):
    first, second = (variants.tradeoff(results) for _ in range(2))
    said = first.get_suptitle()
    assert said.startswith("nf4 instead of full precision: 38% of the memory, 1.0 times the seconds a step, -")
    written = [plotting.savefig(figure, tmp_path / f"{i}" / "f") for i, figure in enumerate((first, second))]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_what_was_not_run_says_so(results, tmp_path):
    assert "Quantised bases" in variants.tradeoff(tmp_path / "none at all").get_suptitle()
    for name in ("eval-base-vanilla-true", "eval-grpo-vanilla-seed0-vanilla-true", "grpo-vanilla-seed0"):
        (results / "qlora" / "nf4" / name / "manifest.json").unlink()
    row = next(row for row in variants.rows(results) if row[0] == "nf4")
    assert row == ("nf4", "6.0", "6.0", "1.20", "not run", "not run", "not run")
    variants.tradeoff(results)


def test_a_gpu_that_is_too_small_for_one_is_refused_before_any_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(estimate.devices, "this", lambda *_: devices.of_size(0.1))
    made = variants.studies(Study(profiles.get("tiny", token_budget=1 << 12), tmp_path), ["nf4", "none"])
    monkeypatch.setattr(variants, "run_all", None)
    with pytest.raises(VsrError, match=r"tiny needs about .* of GPU memory \(estimated\)"):
        variants.train(made)


def test_rounding_grows_as_bits_shrink():
    errors = {name: quantize.rounding_error(name) for name in ("int8", "nf4", "nf4-double", "fp4")}
    assert errors["int8"] < 0.02 < errors["nf4"] <= errors["nf4-double"] < errors["fp4"] < 0.15


def test_the_estimates_of_a_plan_as_a_table(results):
    plans = {name: read_json(results / "qlora" / name / "plan" / "estimate.json") for name in NAMES}
    text = show.table(variants.PLAN_HEAD, variants.plan_rows(plans)).data
    assert "| nf4 | 6.0 MiB | 6.0 MiB | 1.0 GiB | 1.20 s | 4 s | yes |" in text


@pytest.mark.slow
def test_a_plan_counts_what_is_loaded_and_is_not_repeated(tmp_path):
    profile = profiles.get("smoke", quantization="nf4")
    run = variants.expect(profile, tmp_path)
    plan = read_json(run.path / "estimate.json")
    assert plan["loaded"] == plan["weights"]
    before = (run.path / "estimate.json").read_bytes()
    assert variants.expect(profile, tmp_path).finished
    assert (run.path / "estimate.json").read_bytes() == before


# notebook 08


def beyond(tmp_path, **skills: float) -> Study:
    """A study whose base answers half of the questions right, the variants as many as told."""
    study = Study(profiles.get("tiny", beyond_seeds=2), tmp_path)
    write_run(study.results, "eval-base-vanilla-true", 0.5, scenes=30)
    for one in variants.beyond(study).values():
        write_run(one.results, "eval-base-vanilla-true", 0.5, scenes=30)
        for seed in (0, 1):
            skill = skills.get(one.results.name.partition("-")[0], 0.7)
            write_run(one.results, f"eval-grpo-vanilla-seed{seed}-vanilla-true", skill, scenes=30)
    return study


def test_one_thing_is_changed_at_a_time(tmp_path):
    study = Study(profiles.get("tiny"), tmp_path)
    made = variants.beyond(study)
    first = made.pop(variants.AS_IT_IS).profile
    changed = [
        [key for key in profiles.sources() if getattr(one.profile, key) != getattr(first, key)] for one in made.values()
    ]
    assert all(len(names) == 1 for names in changed)
    assert {names[0] for names in changed} >= {
        "scale_rewards",
        "loss_level",
        "num_generations",
        "train_rules",
        "frames",
    }
    assert len({one.results for one in made.values()}) == len(made)
    given = variants.beyond(Study(replace(study.profile, data="elsewhere"), tmp_path))
    assert not [one for one in given.values() if one.results.name.startswith("train_")]


def test_a_variant_is_compared_with_its_own_base_and_with_the_study(tmp_path):
    study = beyond(tmp_path, scale_rewards=0.98, loss_level=0.7, frames=0.2)
    found, told = variants.gains(study), dict(variants.sentences(study))
    assert set(found) == set(variants.beyond(study)) == set(told)
    assert told[variants.AS_IT_IS].endswith(" points, a gain")
    assert "; more than the study's settings (+" in told["Dr. GRPO: not divided by the deviation"]
    assert "; less than the study's settings (-" in told["half of the frames"]
    assert " points, a loss; less than" in told["half of the frames"]
    title = variants.differences(study).axes[0].get_title(loc="left")
    assert {"Dr. GRPO", "half of the frames"} <= {name for name in ("Dr. GRPO", "half of the frames") if name in title}


def test_without_the_study_s_own_runs_nothing_is_compared(tmp_path):
    study = Study(profiles.get("tiny"), tmp_path)
    write_run(study.results, "eval-base-vanilla-true", 0.5)
    other = variants.beyond(study)["4 rollouts"]
    write_run(other.results, "eval-grpo-vanilla-seed0-vanilla-true", 0.7)
    assert variants.gains(study) == {}
    assert "not run" in variants.differences(study).axes[0].texts[0].get_text()
