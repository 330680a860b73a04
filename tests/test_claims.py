"""The ledger: verdicts follow from runs and logs and turn with them; the published tables are audited."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import write_grid, write_run, write_training

from vsr import paper
from vsr.files import write_json
from vsr.report import claims
from vsr.report.declared import DECLARED, Finding, above, below, combine, unchanged, worth
from vsr.report.evaluations import BASE, evaluation
from vsr.report.judgements import calibrated
from vsr.report.judgements_training import share
from vsr.scoring.intervals import Effect
from vsr.scoring.rewards import is_shell

YES, NO, UNCLEAR, NOT_RUN = "reproduced", "contradicted", "cannot tell", "not run"


def under_ten(effect: Effect) -> str:
    return below(effect, 10)


def verdicts(results: Path) -> dict[int, str]:
    return {entry.claim.number: entry.verdict for entry in claims.ledger(results)}


def judged(results: Path, number: int) -> claims.Entry:
    return claims.judge(paper.CLAIMS[number - 1], results)


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results" / "tiny"


# --- rules ---
@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (above, 0.1, 5, YES), (above, -5, -0.1, NO), (above, -1, 5, UNCLEAR), (above, float("nan"), 5, UNCLEAR),
        (worth, 0.1, 5, YES), (worth, -0.1, 5, UNCLEAR), (worth, -0.1, 1.4, NO), (worth, 0.1, 1.4, NO),
        (unchanged, -1, 1.9, YES), (unchanged, 0.1, 5, NO), (unchanged, -1, 5, UNCLEAR),
        (under_ten, -1, 9, YES), (under_ten, 11, 20, NO), (under_ten, 9, 11, UNCLEAR),
    ],
)  # fmt: skip
def test_an_interval_decides(rule, low, high, verdict):
    assert rule(Effect(1.0, low, high, 1.0, 10, 5)) == verdict


def found(verdict: str, **more) -> Finding:
    return Finding("this", Effect(1.0, 0.0, 2.0, 3.0, 10, 5), verdict, (), **more)


def test_one_failure_refutes_and_all_must_hold():
    assert combine([found(YES), found(NO), found(UNCLEAR)]) == (NO, "")
    assert combine([found(YES), found(UNCLEAR, why="power: this")]) == (UNCLEAR, "power: this")
    assert combine([found(YES), found(YES), found("")]) == (YES, "")


def test_behind_a_gate_that_fails_nothing_is_told():
    assert combine([found("", holds=False, why="too weak"), found(NO)]) == (UNCLEAR, "gate: too weak")
    assert combine([found("", holds=True, why="too weak"), found(NO)]) == (NO, "")


def test_a_verdict_that_hangs_on_the_bootstrap_says_so():
    assert combine([found(YES, flips=True)]) == (YES, "this: it hangs on the bootstrap's seed")


def test_every_claim_has_its_declaration():
    assert list(DECLARED) == [claim.number for claim in paper.CLAIMS]


# --- evaluations ---
def test_without_runs_nothing_is_judged(results):
    found = verdicts(results)
    assert found.pop(3) == found.pop(10) == UNCLEAR  # about a larger model, and about a GPU, whatever is run
    assert set(found.values()) == {NOT_RUN}
    assert [entry.claim.number for entry in claims.ledger(results)] == list(range(1, 11))
    assert "base, vanilla prompt, true video" in judged(results, 1).note


def test_claim_1_is_not_about_a_base_that_was_taught_its_prompts(results):
    for mode, skill in (("vanilla", 0.9), ("think", 0.3), ("observe", 0.5)):
        write_run(results, f"eval-base-{mode}-true", skill)
    entry = judged(results, 1)
    assert entry.verdict == UNCLEAR
    assert entry.note.startswith("gate: the base was taught")
    assert len(entry.findings) == 3


def test_claim_1_turns_with_the_numbers(results):
    results = results.with_name("paper-2b")
    for mode, skill in (("vanilla", 0.9), ("think", 0.3), ("observe", 0.5)):
        write_run(results, f"eval-base-{mode}-true", skill)
    assert judged(results, 1).verdict == YES
    true, think = (results / f"eval-base-{mode}-true" / "samples.jsonl" for mode in ("vanilla", "think"))
    good, bad = true.read_text(), think.read_text()
    true.write_text(bad)
    think.write_text(good)
    assert judged(results, 1).verdict == NO
    think.write_text(bad)
    shutil.copy(true, results / "eval-base-observe-true" / "samples.jsonl")
    assert judged(results, 1).verdict == NO  # no difference is no difference worth having


def write_ladder(results: Path, **skills: float) -> None:
    write_run(results, "eval-base-vanilla-true", 0.2, scenes=24)
    for name, skill in skills.items():
        for seed in range(3):
            write_run(results, f"eval-{name}-seed{seed}-vanilla-true", skill, scenes=24)


def test_claims_2_and_6_over_seeds(results):
    write_ladder(results, **{"grpo-vanilla": 0.95, "sft": 0.7, "dpo": 0.45})
    found = verdicts(results)
    assert found[2] == found[6] == YES
    entry = judged(results, 6)
    pairs = ["vsGRPO-V − SFT", "SFT − DPO", "DPO − base"]
    assert [one.what for one in entry.findings if one.verdict] == [f"{pair}, trained six" for pair in pairs]
    assert [one.what for one in entry.findings if not one.verdict] == pairs  # the average stands beside
    assert [finding.effect.seeds for finding in entry.findings] == [(3, 3), (3, 3), (3, 1)] * 2
    assert len(entry.runs) == 10
    assert found[3] == UNCLEAR  # about the 7B model
    assert found[4] == NOT_RUN  # T and O are missing


def test_what_stands_beside_has_no_vote(results):
    write_ladder(results, **{"grpo-vanilla": 0.9, "sft": 0.7, "dpo": 0.45, "sft-compute": 0.99})
    entry = judged(results, 6)
    beside = entry.findings[-1]
    assert (beside.what, beside.verdict) == ("vsGRPO-V − SFT, GRPO's compute, trained six", "")
    assert beside.effect.value < 0
    assert entry.verdict == YES
    assert f"({beside.what}" in claims.describe(beside)


def test_printed_scores_count_only_where_the_questions_are_the_benchmarks(results):
    write_ladder(results, **{"grpo-vanilla": 0.95})
    assert len([one for one in judged(results, 2).findings if one.verdict]) == 1
    for profile in ("paper-2b", "paper-7b"):
        shutil.copytree(results, results.with_name(profile))
    assert judged(results.with_name("paper-2b"), 2).findings[-1].what == "vsGRPO-V − GPT-4o, as printed"
    entry = judged(results.with_name("paper-7b"), 3)
    assert entry.verdict == YES
    assert entry.findings[-1].effect.value == pytest.approx(
        float(entry.findings[0].effect.value) + claims_base(results) - 40.9, abs=1e-3
    )


def claims_base(results: Path) -> float:
    return json.loads((results / "eval-base-vanilla-true" / "summary.json").read_text())["overall"]


# --- training logs ---
def write_grids(results: Path, *ends: float, kl: float = 8.0, seeds: int = 3) -> None:
    for rate in ("rate-3", "rate-10"):
        for seed in range(seeds):
            write_grid(results / rate, seed, ends, kl)


@pytest.mark.parametrize(
    ("ends", "verdict"), [((0.4, 1.0, 1.0), YES), ((1.0, 1.0, 1.0), UNCLEAR), ((0.4, 0.4, 1.0), NO)]
)
def test_claim_5_counts_the_runs_of_the_grid_that_lose_the_form(results, ends, verdict):
    write_grids(results, *ends)
    assert judged(results, 5).verdict == verdict  # none of six allows a rate of 46 %


def test_claim_5_needs_a_kl_term_that_acts(results):
    write_grids(results, 0.4, 1.0, 1.0, kl=0.0)
    entry = judged(results, 5)
    assert entry.verdict == UNCLEAR
    assert entry.note.startswith("gate: at 0.0001 the KL term is 0.01")


def test_a_grid_without_beta_0_is_not_run(results):
    write_training(results / "rate-3", "grpo-think-seed0", "think", 1e-4, 0)
    assert judged(results, 5).note == "missing: the grid at beta 0"


def test_one_seed_alone_cannot_tell(results):
    write_training(results, "grpo-think-seed0", "think", 1e-4, 0)
    assert judged(results, 8).verdict == UNCLEAR


def test_claim_8_wants_format_first_and_accuracy_later(results):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed)
    assert judged(results, 8).verdict == YES
    for seed in range(3):
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed, end=0.2)
    assert judged(results, 8).verdict != YES


@pytest.mark.parametrize(
    ("shells", "repeats", "verdict"), [(0.3, 0.3, YES), (0.0, 0.3, NO), (0.3, 0.0, NO), (0.0102, 0.3, UNCLEAR)]
)
def test_claim_9_counts_empty_shells_and_under_a_length_reward_repeated_tags(results, shells, repeats, verdict):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed, shells=shells)
    assert judged(results, 9).verdict == NOT_RUN
    for seed in range(3):
        write_training(results / "length", f"grpo-observe-seed{seed}", "observe", 1e-4, seed, shells=repeats)
    assert judged(results, 9).verdict == verdict


def test_claim_4_sets_each_model_beside_its_own_base(results):
    def write(**skills: float) -> None:
        for name, skill in skills.items():
            mode = name.split("_")[1]
            write_run(results, f"eval-base-{mode}-true-train-prompt", skill, scenes=24)

    for trained, mode, skill in (
        *(("vanilla", "vanilla", 0.9), ("think", "think", 0.6), ("observe", "observe", 0.6)),
        *(("think", "vanilla", 0.45), ("observe", "vanilla", 0.45)),
    ):
        for seed in range(3):
            write_run(results, f"eval-grpo-{trained}-seed{seed}-{mode}-true", skill, scenes=24)
    assert judged(results, 4).verdict == NOT_RUN
    write(base_vanilla=0.3, base_think=0.3, base_observe=0.3)
    assert judged(results, 4).verdict == YES
    shutil.rmtree(results / "eval-base-think-true-train-prompt")
    write(base_think=0.05)
    assert judged(results, 4).note.startswith("gate: base (think prompt) − base (vanilla prompt), trained six is -")


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        ("<think> </think> <answer>2</answer>", True), ("<observe>\n...</observe><answer>2</answer>", True),
        ("<think>two chairs</think> <answer>2</answer>", False), ("<answer>2</answer>", False), ("", False),
        ("<think></observe> <answer>2</answer>", False), ("<think></think><think>a</think>", False),
    ],
)  # fmt: skip
def test_a_shell_has_tags_and_says_nothing(text, shell):
    assert is_shell(text) == shell


def test_a_share_of_nothing_has_the_exact_binomial_bound():
    found = share(np.zeros(25), np.full(25, 4))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 100)))


def test_rollouts_of_one_prompt_are_not_independent():
    apart = share(np.ones(40), np.full(40, 4))
    together = share(np.array([4] * 10 + [0] * 30), np.full(40, 4))
    assert apart.value == together.value == 25
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_unfinished_training_is_not_judged(results):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed)
        manifest = json.loads((results / f"grpo-observe-seed{seed}" / "manifest.json").read_text())
        manifest["finished"] = False
        write_json(results / f"grpo-observe-seed{seed}" / "manifest.json", manifest)
    assert judged(results, 8).verdict == judged(results, 9).verdict == NOT_RUN


def bench(results: Path, device: str, trl_s: float) -> None:
    row = {"group": 14, "prompt": 1200, "completion": 8, "ours_s": trl_s / 15, "trl_s": trl_s}
    write_json(results / "bench" / "grpo.json", {"machine": {"device": device}, "rows": [row]})


def test_claim_10_is_projected_from_a_gpu_and_never_from_a_cpu(results):
    bench(results, "cpu", 3.0)
    assert judged(results, 10).verdict == UNCLEAR
    bench(results, "NVIDIA H100", 3.0)
    entry = judged(results, 10)
    assert entry.verdict == YES
    assert [f.effect.value for f in entry.findings] == pytest.approx([97.5, 6.5])
    assert [f.verdict for f in entry.findings] == [YES, ""]
    bench(results, "NVIDIA H100", 0.1)
    assert judged(results, 10).verdict == NO


# --- files ---
def test_ledger_files_hold_every_claim_with_its_runs(results, tmp_path):
    for mode, skill in (("vanilla", 0.9), ("think", 0.3), ("observe", 0.5)):
        write_run(results, f"eval-base-{mode}-true", skill)
    claims.write(results, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert all(f"| {claim.number} |" in text for claim in paper.CLAIMS)
    assert "eval-base-vanilla-true-0123abcd" in text
    assert "**cannot tell** in the miniature<br>gate: the base was taught" in text
    assert "worth having: 1.5 points" in text
    assert "not about Qwen2-VL" in text
    assert "<think>" not in text  # markdown would swallow it
    record = json.loads((tmp_path / "claims.json").read_text())[0]
    record["findings"] = [one for one in record["findings"] if one["verdict"]]
    assert record["runs"] == [f"eval-base-{mode}-true-0123abcd" for mode in ("vanilla", "think", "observe")]
    assert record["findings"][0]["low"] < record["findings"][0]["value"] < record["findings"][0]["high"]
    assert record["findings"][0]["detectable"] > 0


def test_ledger_json_is_json_even_without_intervals(results, tmp_path):
    bench(results, "NVIDIA H100", 3.0)
    claims.write(results, tmp_path)
    assert "NaN" not in (tmp_path / "claims.json").read_text()


def test_the_audit_flags_exactly_the_2b_think_row_of_table_1():
    flagged = [row for row in claims.audit() if row.flagged]
    assert [(row.where, row.row, row.printed) for row in flagged] == [("Table 1", "Qwen2-VL-2B base think", 22.9)]
    assert flagged[0].mean == pytest.approx(20.7125)
    assert claims.audit_markdown(claims.audit()).count("beyond rounding") == 1


def test_the_papers_cells_below_the_most_frequent_answer_are_marked():
    row = next(line for line in claims.anchors_markdown().splitlines() if "Qwen2-VL-2B vsGRPO-V" in line)
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells == "35.4|53.6 ↓|29.0 ↓|52.7|43.4|28.1|30.9 ↓|26.8 ↓|18.9 ↓|5".split("|")


# --- what a gain rests on ---
def test_two_numbers_undo_a_stretched_metre(results):
    """A base that takes every number for 1.4 times too large is right once its logarithms are moved."""
    write_run(results, "eval-base-vanilla-true", 0.0, scenes=30)
    path = results / "eval-base-vanilla-true" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["options"] is None:
            row["response"] = f"{1.4 * float(row['ground_truth']):.3f}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = evaluation(results, BASE)
    numbers = {row["id"] for row in rows if row["options"] is None}
    known = np.array([mark in numbers for mark in base.answers.ids])
    scores = calibrated(base).scores[0]
    assert base.answers.scores[0][known].max() < 0.5
    assert scores[known].min() > 0.9
    assert (scores[~known] == base.answers.scores[0][~known]).all()


def test_claim_2_names_the_task_it_rests_on(results):
    write_ladder(results, **{"grpo-vanilla": 0.2})
    for seed in range(3):
        path = results / f"eval-grpo-vanilla-seed{seed}-vanilla-true" / "samples.jsonl"
        base = (results / "eval-base-vanilla-true" / "samples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in base]
        for row in rows:
            if row["question_type"] == "room_size_estimation":
                row["response"] = row["ground_truth"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = judged(results, 2)
    assert (entry.verdict, entry.note) == (YES, "it rests on room size")
