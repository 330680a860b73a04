"""Profiles: typed changes, helpful refusals, a source for every value."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsr import profiles, study
from vsr.errors import VsrError
from vsr.files import write_json
from vsr.study import Study


def test_text_is_read_as_the_field_s_type():
    changed = profiles.get("tiny", num_generations="8", beta="0", base="folder")
    assert (changed.num_generations, changed.beta, changed.base) == (8, 0.0, "folder")
    assert isinstance(changed.beta, float)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tinny", {}, "unknown profile 'tinny': did you mean 'tiny'?"),
        ("tiny", {"num_generation": 8}, "unknown setting 'num_generation': did you mean 'num_generations'?"),
        ("tiny", {"num_generations": "many"}, "num_generations='many': expected int"),
        ("tiny", {"num_generations": "2.5"}, "expected int"),
        ("tiny", {"name": "mine"}, "unknown setting 'name'"),
    ],
)
def test_mistakes_are_named(name, changes, message):
    with pytest.raises(VsrError) as caught:
        profiles.get(name, **changes)
    assert message in str(caught.value)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_setting_crashes_without_a_named_error(key, value):
    known = key in profiles.sources() and key != "name"
    with suppress(VsrError) if known else pytest.raises(VsrError, match="unknown setting"):
        profiles.get("tiny", **{key: value})


def test_every_value_names_its_source_and_the_paper_s_are_the_paper_s():
    for name, profile in profiles.PROFILES.items():
        assert all(profiles.sources(name).values())
        tiny = profiles.PROFILES["tiny"]
        changed = {key for key in profiles.sources() if getattr(profile, key) != getattr(tiny, key)} - {"name"}
        assert changed <= set(profiles.GIVEN[name]), "a value that still names tiny's source"
    for name in ("paper-2b", "paper-7b"):
        paper = profiles.get(name)
        assert (paper.num_generations, paper.temperature, paper.beta) == (14, 1.0, 1e-4)
    assert profiles.get("paper-2b").learning_rate == 1e-5
    assert profiles.get("paper-7b").learning_rate == 5e-6


@pytest.mark.parametrize("text", ["", "1,", "a", "-1", "nan", "inf"])
def test_lists_of_numbers_are_checked(text):
    with pytest.raises(VsrError, match=f"setting grid_rates='{text}': expected numbers"):
        profiles.get("tiny", grid_rates=text)


@pytest.mark.parametrize("name", profiles.CHOICES)
def test_a_setting_with_few_values_takes_no_other(name):
    with pytest.raises(VsrError, match=f"unknown {name} 'other': choose one of: "):
        profiles.get("tiny", **{name: "other"})


def test_the_grid_is_a_study_a_rate(tmp_path):
    profile = profiles.get("tiny", grid_rates="1,3", grid_steps=7, grid_questions=1, grid_seeds=2)
    here = Study(profile, tmp_path)
    grid = here.grid()
    assert [one.results for one in grid] == [tmp_path / "rate-1", tmp_path / "rate-3"]
    assert [one.profile.learning_rate / profile.learning_rate for one in grid] == pytest.approx([1, 3])
    assert {(one.profile.max_steps, one.profile.questions_per_step, one.profile.seeds) for one in grid} == {(7, 1, 2)}


def test_rates_are_looked_for_with_a_seed_and_rooms_of_their_own(tmp_path, monkeypatch):
    asked = []

    def run(jobs):
        for job in jobs:
            asked.append(job.arguments)
            if "model" in job.arguments:
                folder = job.arguments["out"] / f"eval-{Path(job.arguments['model']).name}-vanilla-true"
                rate = job.arguments["profile"].learning_rate
                write_json(folder / "summary.json", {"trained": 1e4 * rate, "trained_low": 0, "trained_high": 9})

    monkeypatch.setattr(study, "run_all", run)
    monkeypatch.setattr(Study, "_rooms", lambda self, split, number, rules: (split, number, rules))
    profile = profiles.get("tiny")
    rows = Study(profile, tmp_path).rates(7)
    assert [method for method, *_ in rows] == ["grpo"] * 3 + ["sft"] * 3 + ["dpo"] * 3
    assert [rate for _, rate, _ in rows[:3]] == pytest.approx([1e-4, 3e-4, 9e-4])
    assert [value.score for *_, value in rows[:3]] == pytest.approx([1, 3, 9])
    assert {one["seed"] for one in asked if "seed" in one}.isdisjoint(range(profile.seeds))
    assert {one["bench"] for one in asked if "bench" in one} == {("fresh", 7, "vsibench")}
    assert len({one["out"] for one in asked}) == 3


def test_a_misspelt_extra_run_is_refused():
    assert profiles.get("paper-2b", extra_runs="length").extra_runs == "length"
    with pytest.raises(VsrError, match=r"unknown word in extra_runs 'compte': did you mean 'compute'"):
        profiles.get("paper-2b", extra_runs="compte")
