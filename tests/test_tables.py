"""Tables from run folders: every number traces to runs, over seeds too, and nothing is made up."""

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import name_of, write_manifest, write_run

from vsr import paper, scoring
from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.report import evaluations as methods
from vsr.report import tables
from vsr.report.evaluations import BASE, COLUMNS, CONSTANT, GRPO_V, SFT, evaluation
from vsr.report.tables import NOT_RUN, to_csv
from vsr.scoring.intervals import Effect

RUNS = ["eval-constant" if m == CONSTANT else name_of(m, 0, video) for m, video in tables.TABLE_1_ROWS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Table 1's runs, and two seeds of SFT and vsGRPO-V."""
    results = tmp_path_factory.mktemp("results") / "tiny"
    for name, skill in zip(RUNS, (0.2, 0.4, 0.9, 0.3, 0.27, 0.25, 0.3), strict=True):
        write_run(results, name, skill)
    for seed in (0, 1, 10):
        write_run(results, f"eval-sft-seed{seed}-vanilla-true", 0.9)
    for seed in (0, 1):
        write_run(results, f"eval-grpo-vanilla-seed{seed}-vanilla-true", 0.95)
        write_run(results, f"eval-grpo-vanilla-seed{seed}-vanilla-shuffled", 0.3, pruned=True)
    return results


@pytest.fixture
def results(finished, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def rows_of(table) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """The csv as (row, mode) -> column -> line."""
    found: dict = {}
    for line in csv.DictReader(to_csv(table).splitlines()):
        found.setdefault((line["row"], line["mode"]), {})[line["column"]] = line
    return found


def scores(row: dict) -> dict[str, str]:
    return {column: line["score"] for column, line in row.items()}


# --- Table 1 ---
def test_table_1_holds_the_printed_rows_and_ours(finished):
    rows = rows_of(tables.table_1(finished))
    assert len(rows) == len(paper.TABLE_1) + len(RUNS)
    for row in paper.TABLE_1:
        printed = scores(rows[f"paper: {row.backbone}", row.mode])
        assert [float(printed[task]) for task in TASKS] == list(row.scores)
    for (method, video), name in zip(tables.TABLE_1_ROWS, RUNS, strict=True):
        summary = json.loads((finished / name / "summary.json").read_text())
        label = tables.measured_row(method, evaluation(finished, method, video), video).label
        ours = scores(rows[label, method.mode])
        assert list(ours) == list(COLUMNS)
        assert float(ours["overall"]) == summary["overall"]
        assert float(ours["trained"]) == summary["trained"]
        assert {task: float(ours[task]) for task in TASKS} == {t: s["score"] for t, s in summary["tasks"].items()}


def test_every_format_names_its_runs_and_shows_intervals(finished, tmp_path):
    tables.write_all(finished, tmp_path)
    summary = json.loads((finished / "eval-base-vanilla-true" / "summary.json").read_text())
    score, interval = f"{summary['overall']:.1f}", f"[{summary['overall_low']:.1f}, {summary['overall_high']:.1f}]"
    for suffix, between, space in ((".md", "<br>", "&nbsp;"), (".tex", " ", " ")):
        text = (tmp_path / f"table1{suffix}").read_text()
        assert score + between + interval.replace(" ", space) in text
        assert all(f"{name}-0123abcd" in text for name in RUNS)
        assert NOT_RUN not in text
    for tex in tmp_path.glob("*.tex"):
        lines = [line for line in tex.read_text().splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in lines}) == 1


def test_a_task_that_was_not_asked_is_a_dash_not_0(results):
    shutil.rmtree(results / "eval-constant")
    write_run(results, "eval-constant", 0.5, tasks=("object_counting", "room_size_estimation"))
    row = scores(rows_of(tables.table_1(results))["ours: best constant answer", ""])
    assert row["route_planning"] == "–"
    assert float(row["object_counting"]) > 0


# --- Table 2: seeds and gains ---
def test_table_2_holds_every_printed_row_and_every_method_of_ours(finished):
    rows = rows_of(tables.table_2(finished))
    assert len(rows) == len(paper.TABLE_2) + len(methods.TABLE_2)
    for row in paper.TABLE_2:
        label = row.backbone if row.method == "base" else f"{row.backbone} + {row.method}"
        printed = scores(rows[f"paper: {label}", row.mode])
        assert [float(printed[task]) for task in TASKS] == list(row.scores)
    gain = rows["paper: Qwen2-VL-2B + vsGRPO-V", "vanilla"]["overall gain"]
    assert float(gain["score"]) == pytest.approx(12.1)
    assert rows["paper: GPT-4o", "vanilla"]["overall gain"]["score"] == "–"


def test_ours_stands_under_the_papers_row_of_its_backbone(results):
    for name, backbone in (("tiny", "2B"), ("paper-7b", "7B")):
        rows = [row.label for row in tables.table_2(results.rename(results.with_name(name))).rows]
        results = results.with_name(name)
        assert rows.index("ours: SFT") == rows.index(f"paper: Qwen2-VL-{backbone} + SFT") + 1


def test_a_method_is_the_mean_of_its_seeds_with_their_spread(finished):
    rows = rows_of(tables.table_2(finished))
    for method, numbers in ((SFT, (0, 1, 10)), (GRPO_V, (0, 1))):
        whole = evaluation(finished, method)
        pairs = zip(whole.runs, whole.summaries, strict=True)
        runs = [replace(whole, runs=(run,), summaries=(summary,)) for run, summary in pairs]
        row = rows[f"ours: {method.label}", "vanilla"]
        for column in COLUMNS:
            each = [run.value(column).score for run in runs]
            assert float(row[column]["score"]) == pytest.approx(statistics.mean(each), abs=1e-3)
            assert float(row[column]["sd"]) == pytest.approx(statistics.stdev(each), abs=1e-3)
            assert row[column]["seeds"] == str(len(numbers))
        assert all(run.id in row["overall"]["source"] for run in runs)


def test_a_gain_is_the_difference_to_the_base_paired_on_questions(finished):
    rows = rows_of(tables.table_2(finished))
    base, ours = rows["ours: base", "vanilla"], rows["ours: vsGRPO-V", "vanilla"]
    for over in ("overall", "trained"):
        gain = ours[f"{over} gain"]
        difference = float(ours[over]["score"]) - float(base[over]["score"])
        assert float(gain["score"]) == pytest.approx(difference, abs=1e-3)
        assert float(gain["low"]) < difference < float(gain["high"])
        assert gain["seeds"] == "2x1"
        assert base[f"{over} gain"]["score"] == "–"


def test_seeds_are_found_by_number_and_variants_are_not_seeds(results):
    write_run(results, "eval-sft-seed2-beta0-vanilla-true", 0.5)
    assert [run.about["train_seed"] for run in SFT.find(results)] == [0, 1, 10]
    assert methods.DPO.find(results) == []


def test_seeds_that_answered_different_questions_are_refused(results):
    shutil.rmtree(results / "eval-sft-seed1-vanilla-true")
    write_run(results, "eval-sft-seed1-vanilla-true", 0.9, scenes=7)
    with pytest.raises(VsrError, match="different questions"):
        tables.table_2(results)


def test_without_the_base_only_gains_are_missing(results):
    shutil.rmtree(results / "eval-base-vanilla-true")
    row = rows_of(tables.table_2(results))["ours: vsGRPO-V", "vanilla"]
    assert {column for column, line in row.items() if line["score"] == NOT_RUN} == {"overall gain", "trained gain"}


# --- honesty panel ---
def test_the_panel_shows_what_the_true_video_is_worth(finished):
    rows = rows_of(tables.honesty(finished))
    worth = rows["ours: vsGRPO-V, shuffled video", "vanilla"]["overall worth"]
    true, shuffled = (
        rows[f"ours: vsGRPO-V, {what}", "vanilla"]["overall"] for what in ("true video", "shuffled video")
    )
    assert float(worth["score"]) == pytest.approx(float(true["score"]) - float(shuffled["score"]), abs=1e-3)
    assert rows["ours: vsGRPO-V, no video", "vanilla"]["overall"]["score"] == NOT_RUN
    assert rows["ours: base, no video", "vanilla"]["overall worth"]["score"] != NOT_RUN


def test_the_debiased_score_is_that_of_the_kept_questions(finished):
    rows = rows_of(tables.honesty(finished))
    assert rows["ours: vsGRPO-V, true video", "vanilla"]["debiased"]["score"] == "–"
    shown = float(rows["ours: vsGRPO-V, shuffled video", "vanilla"]["debiased"]["score"])
    each = []
    for seed in range(2):
        samples = evaluation(finished, GRPO_V, "shuffled").samples(seed)
        kept = scoring.answered([sample for sample in samples if not sample["pruned"]])
        each.append(float(kept.points("overall")[0][0]))
    assert shown == pytest.approx(np.mean(each), abs=1e-3)


# --- what is missing ---
def test_without_runs_every_number_of_ours_is_visibly_missing(tmp_path):
    for make in (tables.table_1, tables.table_2, tables.honesty):
        for (row, _), columns in rows_of(make(tmp_path / "tiny")).items():
            assert (set(scores(columns).values()) == {NOT_RUN}) == row.startswith("ours")


@pytest.mark.parametrize("method", [BASE, GRPO_V])
def test_deleting_runs_turns_their_row_to_not_run_and_no_other_score(results, method):
    before = rows_of(tables.table_2(results))
    for run in method.find(results):
        shutil.rmtree(run.path)
    after = rows_of(tables.table_2(results))
    gone = (f"ours: {method.label}", "vanilla")
    assert set(scores(after.pop(gone)).values()) == {NOT_RUN}
    assert NOT_RUN not in scores(before.pop(gone)).values()
    for row in before:
        kept = [column for column in before[row] if "gain" not in column or method != BASE]
        assert [before[row][column] for column in kept] == [after[row][column] for column in kept]


def test_a_folder_without_summary_is_not_run(results):
    (results / "eval-constant" / "summary.json").unlink()
    assert evaluation(results, CONSTANT) is None


def test_a_summary_of_another_run_is_refused(results):
    write_manifest(results / "eval-constant", "constant", id="eval-constant-ffffffff")
    with pytest.raises(VsrError, match=r"summary\.json: it says run 'eval-constant-0123abcd'.*vsr evaluate"):
        tables.table_1(results)


@pytest.mark.parametrize("content", ["", '{"tasks": {', '{"run": "eval-constant-0123abcd"}'])
def test_a_broken_summary_is_named(results, content):
    (results / "eval-constant" / "summary.json").write_text(content)
    with pytest.raises(VsrError, match=r"eval-constant.summary\.json"):
        evaluation(results, CONSTANT)


def test_broken_answers_are_named(results):
    path = results / "eval-sft-seed1-vanilla-true" / "samples.jsonl"
    path.write_text('{"id": "1"}\n')
    with pytest.raises(VsrError, match=r"eval-sft-seed1-vanilla-true.samples\.jsonl: sample 1: field"):
        tables.table_2(results)


def test_an_effect_prints_with_its_sign():
    assert str(Effect(2.04, -1, 5, 1, 10, 5)) == "+2.0 [-1.0, +5.0]"
