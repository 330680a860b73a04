"""The ledger: verdicts follow from runs and logs and turn with them; the published tables are audited."""

import json
import shutil
from pathlib import Path

import pytest
from made_runs import write_run, write_training

from vsr import paper
from vsr.files import write_json
from vsr.report import claims, judgements
from vsr.report.judgements import above, below, combine, unchanged
from vsr.scoring.intervals import Effect
from vsr.scoring.rewards import is_shell

YES, NO, UNCLEAR, NOT_RUN = "reproduced", "not reproduced", "cannot tell at this size", "not run"


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
        (unchanged, -1, 1.9, YES), (unchanged, 0.1, 5, NO), (unchanged, -1, 5, UNCLEAR),
        (under_ten, -1, 9, YES), (under_ten, 11, 20, NO), (under_ten, 9, 11, UNCLEAR),
    ],
)  # fmt: skip
def test_an_interval_decides(rule, low, high, verdict):
    assert rule(Effect(1.0, low, high, 1.0, 10, 5)) == verdict


def test_one_failure_refutes_and_all_must_hold():
    assert combine([YES, NO, UNCLEAR]) == NO
    assert combine([YES, UNCLEAR]) == UNCLEAR
    assert combine([YES, YES]) == YES


# --- evaluations ---
def test_without_runs_nothing_is_judged(results):
    found = verdicts(results)
    assert found.pop(3) == found.pop(10) == UNCLEAR  # about a larger model, and about a GPU, whatever is run
    assert set(found.values()) == {NOT_RUN}
    assert [entry.claim.number for entry in claims.ledger(results)] == list(range(1, 11))
    assert "base, vanilla prompt, true video" in judged(results, 1).note


def test_claim_1_turns_with_the_numbers(results):
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
    assert judged(results, 1).verdict == UNCLEAR


def write_ladder(results: Path, **skills: float) -> None:
    write_run(results, "eval-base-vanilla-true", 0.2, scenes=16)
    for name, skill in skills.items():
        for seed in range(3):
            write_run(results, f"eval-{name}-seed{seed}-vanilla-true", skill, scenes=16)


def test_claims_2_and_6_over_seeds(results):
    write_ladder(results, **{"grpo-vanilla": 0.95, "sft": 0.7, "dpo": 0.45})
    found = verdicts(results)
    assert found[2] == found[6] == YES
    entry = judged(results, 6)
    assert [finding.what for finding in entry.findings] == ["vsGRPO-V − SFT", "SFT − DPO", "DPO − base"]
    assert [finding.effect.seeds for finding in entry.findings] == [(3, 3), (3, 3), (3, 1)]
    assert len(entry.runs) == 10
    assert found[3] == UNCLEAR  # about the 7B model
    assert found[4] == NOT_RUN  # T and O are missing


def test_what_stands_beside_has_no_vote(results):
    write_ladder(results, **{"grpo-vanilla": 0.9, "sft": 0.7, "dpo": 0.45, "sft-compute": 0.99})
    entry = judged(results, 6)
    beside = next(finding for finding in entry.findings if not finding.verdict)
    assert beside.what == "vsGRPO-V − SFT, GRPO's compute"
    assert beside.effect.value < 0
    assert entry.verdict == YES
    assert f"({beside.what}" in claims.describe(beside)


def test_printed_scores_count_only_where_the_questions_are_the_benchmarks(results):
    write_ladder(results, **{"grpo-vanilla": 0.95})
    assert len(judged(results, 2).findings) == 2
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
@pytest.mark.parametrize(("end", "verdict"), [(0.4, YES), (1.0, NO), (0.88, UNCLEAR)])
def test_claim_5_is_decided_by_the_fall_at_beta_0(results, end, verdict):
    for seed in range(3):
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed)
        write_training(results, f"grpo-think-seed{seed}-beta0", "think", 0.0, seed, end=end)
    assert judged(results, 5).verdict == verdict


def test_claim_5_fails_if_the_kl_term_does_not_prevent_the_fall(results):
    for seed in range(3):
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed, end=0.5)
        write_training(results, f"grpo-think-seed{seed}-beta0", "think", 0.0, seed, end=0.4)
    assert judged(results, 5).verdict == NO


def test_one_seed_alone_cannot_tell(results):
    write_training(results, "grpo-think-seed0", "think", 1e-4, 0)
    assert judged(results, 5).note == "missing: GRPO at beta 0 with tags"
    write_training(results, "grpo-think-seed0-beta0", "think", 0.0, 0, end=0.1)
    assert judged(results, 5).verdict == UNCLEAR
    assert judged(results, 8).verdict == UNCLEAR


def test_claim_8_wants_format_first_and_accuracy_later(results):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed)
    assert judged(results, 8).verdict == YES
    for seed in range(3):
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed, end=0.2)
    assert judged(results, 8).verdict != YES


@pytest.mark.parametrize(("shells", "verdict"), [(0.3, YES), (0.0, UNCLEAR)])
def test_claim_9_counts_empty_shells(results, shells, verdict):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed, shells=shells)
    assert judged(results, 9).verdict == verdict  # 0 of 144 does not exclude one in a hundred


def test_claim_9_without_shells_in_many_rollouts_is_refuted(results):
    for seed in range(3):
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed, steps=200)
    assert judged(results, 9).verdict == NO


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
    found = judgements.share([[False] * 4] * 25)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 100)))


def test_rollouts_of_one_prompt_are_not_independent():
    apart = judgements.share([[True, False, False, False]] * 40)
    together = judgements.share([[True] * 4] * 10 + [[False] * 4] * 30)
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
    assert "**reproduced** in the miniature" in text
    assert "not about Qwen2-VL" in text
    assert "<think>" not in text  # markdown would swallow it
    record = json.loads((tmp_path / "claims.json").read_text())[0]
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
