"""Tables, figures and claims from run folders: every number traces to a run, and nothing is made up."""

import csv
import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vsr import claims, figures, paper, tables
from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.runs import write_json
from vsr.scoring import summarise
from vsr.stats import Effect
from vsr.summaries import COLUMNS, find

RUNS = [name for _, _, name in tables.TABLE_1_RUNS]
WRITERS = (tables.write_all, figures.write_all, claims.write)


def write_run(results: Path, name: str, skill: float, tasks: tuple[str, ...] = tuple(TASKS)) -> None:
    """A run folder whose answers are right with probability `skill`, on questions that are the same for every run."""
    rng, samples = random.Random(name), []
    for scene in range(8):
        for task in tasks:
            for kind in (
                [f"{task}_{x}" for x in ("easy", "medium", "hard")] if task == "object_rel_direction" else [task]
            ):
                truth = str(scene + 2) if task in NUMERICAL else "ABCD"[scene % 4]
                response = truth if rng.random() < skill else "none"
                samples.append(
                    {
                        "id": f"{scene}-{kind}", "scene_name": f"room{scene}", "question_type": kind,
                        "options": None if task in NUMERICAL else ["A. a", "B. b", "C. c", "D. d"],
                        "ground_truth": truth, "response": response, "video": "true", "mode": "vanilla",
                    }
                )  # fmt: skip
    (results / name).mkdir(parents=True)
    (results / name / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    write_json(results / name / "manifest.json", {"id": f"{name}-0123abcd"})
    write_json(results / name / "summary.json", {**summarise(samples, resamples=200), "run": f"{name}-0123abcd"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("results") / "tiny"
    for name, skill in zip(RUNS, (0.2, 0.4, 0.9, 0.3, 0.27, 0.25, 0.3), strict=True):
        write_run(results, name, skill)
    return results


@pytest.fixture
def results(finished, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The csv as (row, mode) -> column -> score."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            found.setdefault((line["row"], line["mode"]), {})[line["column"]] = line["score"]
    return found


# --- tables ---
def test_table_1_holds_the_printed_rows_and_ours(finished, tmp_path):
    tables.write_all(finished, tmp_path)
    rows = rows_of(tmp_path / "table1.csv")
    assert len(rows) == len(paper.TABLE_1) + len(tables.TABLE_1_RUNS)
    for row in paper.TABLE_1:
        assert [float(x) for x in rows[f"paper: {row.backbone}", row.mode].values()][2:] == list(row.scores)
    for label, mode, name in tables.TABLE_1_RUNS:
        summary = json.loads((finished / name / "summary.json").read_text())
        ours = rows[f"ours: {label}", mode]
        assert list(ours) == list(COLUMNS)
        assert float(ours["overall"]) == summary["overall"]
        assert float(ours["trained"]) == summary["trained"]
        assert {task: float(ours[task]) for task in TASKS} == {t: s["score"] for t, s in summary["tasks"].items()}


def test_every_format_names_its_runs_and_shows_intervals(finished, tmp_path):
    tables.write_all(finished, tmp_path)
    summary = json.loads((finished / "eval-base-vanilla-true" / "summary.json").read_text())
    interval = f"{summary['overall']:.1f} [{summary['overall_low']:.1f}, {summary['overall_high']:.1f}]"
    for suffix in (".md", ".tex"):
        text = (tmp_path / f"table1{suffix}").read_text()
        assert interval in text
        assert all(f"{name}-0123abcd" in text for name in RUNS)
        assert tables.NOT_RUN not in text
    tex = (tmp_path / "table1.tex").read_text()
    assert len({line.count(" & ") for line in tex.splitlines() if line.endswith(r"\\")}) == 1


def test_without_runs_every_number_of_ours_is_visibly_missing(tmp_path):
    (tmp_path / "tiny").mkdir()
    for write in WRITERS:
        write(tmp_path / "tiny", tmp_path / "out")
    for (row, _), columns in rows_of(tmp_path / "out" / "table1.csv").items():
        assert (set(columns.values()) == {"not run"}) == row.startswith("ours")
    assert {entry.verdict for entry in claims.ledger(tmp_path / "tiny")} == {"not run"}


def test_deleting_a_run_changes_its_row_and_nothing_else(results, tmp_path):
    tables.write_all(results, tmp_path / "before")
    shutil.rmtree(results / "eval-base-vanilla-none")
    tables.write_all(results, tmp_path / "after")
    before, after = (rows_of(tmp_path / when / "table1.csv") for when in ("before", "after"))
    gone = ("ours: base, no video", "vanilla")
    assert set(after.pop(gone).values()) == {"not run"}
    assert before.pop(gone)
    assert before == after


def test_a_task_that_was_not_asked_is_a_dash_not_0(results, tmp_path):
    shutil.rmtree(results / "eval-constant")
    write_run(results, "eval-constant", 0.5, tasks=("object_counting", "room_size_estimation"))
    tables.write_all(results, tmp_path)
    row = rows_of(tmp_path / "table1.csv")["ours: best constant answer", ""]
    assert row["route_planning"] == "–"
    assert float(row["object_counting"]) > 0
    figures.write_all(results, tmp_path)


def test_a_second_call_writes_the_same_bytes_and_overwrites_edits(finished, tmp_path):
    for write in WRITERS:
        write(finished, tmp_path)
    first = digests(tmp_path)
    assert {Path(name).suffix for name in first} == {".md", ".csv", ".tex", ".svg", ".png", ".json"}
    table = tmp_path / "table1.md"
    table.write_text(table.read_text().replace("22.9", "99.9"))
    for write in WRITERS:
        write(finished, tmp_path)
    assert digests(tmp_path) == first


def test_another_process_writes_the_same_bytes_without_torch(finished, tmp_path):
    """Also the test that tables, figures and claims never import torch."""
    for write in WRITERS:
        write(finished, tmp_path / "here")
    code = (
        "import sys; from vsr import tables, figures, claims\n"
        "for write in (tables.write_all, figures.write_all, claims.write): write(sys.argv[1], sys.argv[2])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(finished), str(tmp_path / "there")], check=True)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


# --- run folders ---
def test_a_folder_without_summary_is_not_run(results):
    (results / "eval-constant" / "summary.json").unlink()
    assert find(results, "eval-constant") is None


def test_a_summary_of_another_run_is_refused(results):
    write_json(results / "eval-constant" / "manifest.json", {"id": "eval-constant-ffffffff"})
    with pytest.raises(VsrError, match=r"summary\.json: it says run 'eval-constant-0123abcd'.*vsr evaluate"):
        tables.table_1(results)


@pytest.mark.parametrize("content", ["", '{"tasks": {', '{"run": "eval-constant-0123abcd"}'])
def test_a_broken_summary_is_named(results, content):
    (results / "eval-constant" / "summary.json").write_text(content)
    with pytest.raises(VsrError, match=r"eval-constant.summary\.json"):
        find(results, "eval-constant")


# --- figures ---
def test_titles_say_the_finding(finished, results):
    assert figures.prompting(finished).axes[0].get_title("left").startswith("Ours, tiny: vanilla leads (vanilla ")
    title = figures.video_matters(finished).axes[0].get_title("left")
    assert title.startswith("The true video beats a shuffled one and none on ")
    shutil.rmtree(results / "eval-base-vanilla-none")
    shutil.rmtree(results / "eval-base-think-true")
    assert figures.video_matters(results).axes[0].get_title("left").endswith("not run: no video")
    assert figures.prompting(results).axes[0].get_title("left") == "Ours, tiny: think not run"


def test_bars_stand_at_the_scores(finished):
    axes = figures.prompting(finished).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    for i, mode in enumerate(paper.MODES):
        run = find(finished, f"eval-base-{mode}-true")
        assert heights[9 * i : 9 * (i + 1)] == [run.value(column).score for column in ("overall", *TASKS)]


# --- audit and ledger ---
def test_the_audit_flags_exactly_the_2b_think_row_of_table_1():
    flagged = [row for row in claims.audit() if row.flagged]
    assert [(row.where, row.row, row.printed) for row in flagged] == [("Table 1", "Qwen2-VL-2B base think", 22.9)]
    assert flagged[0].mean == pytest.approx(20.7125)
    assert claims.audit_markdown(claims.audit()).count("beyond rounding") == 1


@pytest.mark.parametrize(
    ("better", "low", "high", "verdict"),
    [
        (True, 0.1, 5, "reproduced"), (True, -5, -0.1, "not reproduced"), (True, -1, 5, "cannot tell at this size"),
        (False, -1, 1.9, "reproduced"), (False, 0.1, 5, "not reproduced"), (False, -1, 5, "cannot tell at this size"),
    ],
)  # fmt: skip
def test_verdict_of_one_comparison(better, low, high, verdict):
    comparison = claims.Comparison("a", "b", better=better)
    assert comparison.verdict(Effect((low + high) / 2, low, high, 1.0, 10, 5)) == verdict


def test_ledger_judges_what_was_run(finished):
    entries = claims.ledger(finished)
    assert [entry.claim.number for entry in entries] == list(range(1, 11))
    assert entries[0].verdict == "reproduced"
    assert all(effect.value > 0 for _, effect in entries[0].effects)
    assert {entry.verdict for entry in entries[1:]} == {"not run"}


def test_ledger_verdict_turns_with_the_numbers(results):
    true, think = results / "eval-base-vanilla-true", results / "eval-base-think-true"
    samples = (true / "samples.jsonl").read_text()
    (true / "samples.jsonl").write_text((think / "samples.jsonl").read_text())
    (think / "samples.jsonl").write_text(samples)
    assert claims.judge(paper.CLAIMS[0], results).verdict == "not reproduced"
    (think / "samples.jsonl").write_text((true / "samples.jsonl").read_text())
    (results / "eval-base-observe-true" / "samples.jsonl").write_text((true / "samples.jsonl").read_text())
    assert claims.judge(paper.CLAIMS[0], results).verdict == "cannot tell at this size"


def test_training_claims_are_judged_once_their_runs_exist(results):
    for name, skill in {"vsgrpo-v": 0.99, "sft": 0.95, "dpo": 0.94}.items():
        write_run(results, f"eval-{name}-vanilla-true", skill)
    verdicts = {entry.claim.number: entry.verdict for entry in claims.ledger(results)}
    assert verdicts[2] == "reproduced"
    assert verdicts[6] == "cannot tell at this size"
    assert verdicts[3] == verdicts[4] == "not run"  # about the 7B model; T and O are missing
    paper_7b = results.rename(results.with_name("paper-7b"))
    assert {e.claim.number: e.verdict for e in claims.ledger(paper_7b)}[3] == "reproduced"


def test_ledger_files_hold_every_claim_with_its_runs(finished, tmp_path):
    claims.write(finished, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert all(f"| {claim.number} |" in text for claim in paper.CLAIMS)
    assert "eval-base-vanilla-true-0123abcd" in text
    assert "profile tiny" in text
    assert "<think>" not in text  # markdown would swallow it
    record = json.loads((tmp_path / "claims.json").read_text())[0]
    assert record["runs"] == [f"{name}-0123abcd" for name in (RUNS[2], RUNS[0], RUNS[1])]
    assert record["effects"][0]["low"] < record["effects"][0]["value"] < record["effects"][0]["high"]
