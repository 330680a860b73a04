"""Figures stand at the numbers of their runs, and their titles say what those numbers say."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import BLIND, name_of, write_run, write_training

from vsr.errors import VsrError
from vsr.paper import TASKS
from vsr.report import evaluations as methods
from vsr.report import figures, figures_answers, figures_training, plotting, training_logs
from vsr.report.evaluations import BASE, COLUMNS, GRPO_V, evaluation
from vsr.report.training_logs import FORMAT, KL, TrainingLog
from vsr.scoring import intervals

SKILLS = {BASE: 0.3, methods.DPO: 0.35, methods.SFT: 0.5, GRPO_V: 0.8}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("results") / "tiny"
    write_run(results, "eval-constant", 0.3)
    for mode, skill in (("think", 0.1), ("observe", 0.2)):
        write_run(results, f"eval-base-{mode}-true", skill)
    for method, skill in SKILLS.items():
        for seed in (0, 1) if method.trained else (0,):
            write_run(results, name_of(method, seed), skill, scenes=8)
            for video, share in BLIND.items():
                write_run(results, name_of(method, seed, video), share * skill)
    for seed in range(2):
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed)
        write_training(results, f"grpo-think-seed{seed}-beta0", "think", 0.0, seed, end=0.3)
        write_training(results, f"grpo-think-seed{seed}-beta0.04", "think", 0.04, seed)
        write_training(results, f"grpo-vanilla-seed{seed}", "vanilla", 1e-4, seed)
    return results


@pytest.fixture
def results(finished, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def heading(axes) -> str:
    return " ".join(axes.get_title("left").split())


def lines_of(axes, marker: str) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == marker]


def test_every_figure_is_drawn_even_without_runs(tmp_path):
    for draw in figures.ALL.values():
        fig = draw(tmp_path / "tiny")
        texts = [text.get_text() for axes in fig.axes for text in axes.texts]
        titles = [axes.get_title("left") for axes in fig.axes]
        assert any("not run" in text for text in (*texts, *titles)), draw.__name__


# --- prompting, videos ---
def test_titles_say_the_finding(finished, results):
    assert heading(figures.prompting(finished).axes[0]).startswith("Ours, tiny: observe ")
    title = heading(figures.video_matters(finished).axes[0])
    true, other = (evaluation(finished, BASE, video) for video in ("true", "shuffled"))
    worth = intervals.compare(true.answers, other.answers)
    assert title.startswith(f"The true video is worth {worth} points on average: it beats a shuffled one and none on ")
    shutil.rmtree(results / "eval-base-vanilla-none")
    shutil.rmtree(results / "eval-base-think-true")
    assert heading(figures.video_matters(results).axes[0]).endswith("not run: no video")
    assert heading(figures.prompting(results).axes[0]) == "Ours, tiny: think not run"


def test_bars_stand_at_the_scores(finished):
    axes = figures.prompting(finished).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    for i, (method, _) in enumerate(figures.MODES.values()):
        run = evaluation(finished, method)
        assert heights[9 * i : 9 * (i + 1)] == [run.value(column).score for column in ("overall", *TASKS)]


# --- before and after, honesty, gains ---
def test_before_after_stands_at_the_means_over_seeds(finished):
    axes = figures.before_after(finished).axes[0]
    for method, (_, marker) in figures.METHOD_STYLES.items():
        shown = [x for x, _ in lines_of(axes, marker)]
        run = evaluation(finished, method)
        assert shown == pytest.approx([run.value(column).score for column in COLUMNS])
    title = heading(axes)
    assert title.index("vsGRPO-V +") < title.index("SFT ") < title.index("DPO ")


def test_before_after_names_what_is_missing(results):
    for seed in (0, 1):
        shutil.rmtree(results / f"eval-dpo-seed{seed}-vanilla-true")
    assert heading(figures.before_after(results).axes[0]).endswith("; not run: DPO")


def test_the_panel_has_every_condition_of_every_method(finished):
    axes = figures.honesty(finished).axes[0]
    for video, (_, marker) in figures.VIDEO_STYLES.items():
        shown = sorted(x for x, _ in lines_of(axes, marker))
        scores = [evaluation(finished, method, video).value("overall").score for method in SKILLS]
        assert shown == pytest.approx(sorted(scores))
    assert [text.get_text() for text in axes.texts] == ["not run", "not run"]  # T and O
    assert heading(axes).startswith("What the true video is worth instead of another room's: +")


def test_gains_are_differences_of_scores_and_those_that_show_are_named(finished):
    axes = figures.gains(finished).axes[0]
    base, ours = evaluation(finished, BASE), evaluation(finished, GRPO_V)
    expected = [ours.value(row).score - base.value(row).score for row in figures.ROWS]
    assert [x for x, _ in lines_of(axes, "^")] == pytest.approx(expected, abs=1e-3)
    clear = [intervals.compare(ours.answers, base.answers, task) for task in TASKS]
    clear = [one for one in clear if one.low > 0 or one.high < 0]
    assert heading(axes).startswith(f"vsGRPO-V moves {len(clear)} of 8 tasks")
    assert all(str(one) in heading(axes) for one in clear)


# --- answers ---
def test_errors_are_those_of_the_named_run(finished):
    fig = figures_answers.errors(finished)
    assert len(fig.axes) == 8
    assert fig.get_suptitle().startswith("vsGRPO-V scores ")
    assert figures_answers.errors(finished, BASE).get_suptitle().startswith("base scores ")
    shares = np.asarray(fig.axes[4].images[0].get_array())
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_figure_1_shows_one_question_where_the_modes_differ(finished):
    axes = figures_answers.figure_1(finished).axes[0]
    text = axes.texts[0].get_text()
    assert {"vanilla, scores 1.0", "think, scores 0.0"} <= {line.split(":")[0] for line in text.splitlines()}
    assert heading(axes).startswith("Of 80 questions vanilla does better on ")


# --- training ---
def test_figure_3_left_has_every_seed_thin_and_every_beta_thick(finished):
    axes = figures_training.figure3_left(finished).axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    thick = [line for line in axes.lines if line.get_linewidth() > 2]
    assert (len(thin), len(thick)) == (6, 3)
    run = next(run for run in training_logs.find(finished) if run.name == "grpo-think-seed0-beta0")
    assert any(np.array_equal(line.get_ydata(), run.curve(FORMAT)) for line in thin)
    assert heading(axes).startswith("Format reward falls at beta 0 (2 of 2 runs): it ends at 0.3")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["beta 0 (2 seeds)", "beta 0.0001 (2 seeds)", "beta 0.04 (2 seeds)"]


def test_figure_3_left_says_so_if_nothing_collapses(results):
    for seed in (0, 1):
        shutil.rmtree(results / f"grpo-think-seed{seed}-beta0")
    title = heading(figures_training.figure3_left(results).axes[0])
    assert title.startswith("No collapse in think mode: format reward ends at ")
    assert title.endswith("; beta 0 not run")


def test_the_report_draws_the_grid_at_its_highest_rate(results):
    """The study's own runs have one coefficient; the ablation lies beside them, a folder a rate."""
    for rate, end in (("3", 1.0), ("10", 0.2)):
        for beta in (0.0, 1e-4):
            name = "grpo-think-seed0" + "-beta0" * (beta == 0)
            write_training(results / f"rate-{rate}", name, "think", beta, 0, end=end)
    assert training_logs.grid(results) == results / "rate-10"
    title = heading(figures_training.figure3_left(results).axes[0])
    assert title.startswith("Format reward falls at beta 0 (1 of 1 runs)")
    assert "not run" not in title


def test_the_distance_from_the_base_is_the_logs_kl(finished):
    axes = figures_training.distance(finished).axes[0]
    thin = [line.get_ydata() for line in axes.lines if line.get_linewidth() < 1]
    runs = training_logs.find(finished)
    assert sorted(curve.tolist() for curve in thin) == sorted(r.curve(KL).tolist() for r in runs if r.mode == "think")
    mean = np.mean([run.curve(KL) for run in runs if run.mode == "think" and run.beta == 0])
    assert re.search(rf"{mean:.2f} \[.*?\] nats a token at beta 0,", heading(axes).replace("\n", " "))


def test_figure_3_right_shows_one_task_where_the_log_tells_it(finished, results):
    def labels(folder, *task) -> list[str]:
        axes = figures_training.figure3_right(folder, *task).axes[0]
        return [text.get_text() for text in axes.get_legend().get_texts()]

    assert labels(finished) == ["format", "accuracy (count)", "total"]
    assert labels(finished, "object_abs_distance") == ["format", "accuracy (all tasks)", "total"]
    title = heading(figures_training.figure3_right(finished).axes[0])
    assert title.startswith("vsGRPO, think mode: format reward reaches 0.9 after ")
    assert "accuracy (count) goes from" in title


def test_the_kl_share_is_its_part_of_the_norms(finished):
    runs = [run for run in training_logs.find(finished) if run.beta == 0.04]
    shares = []
    for run in runs:
        kl = sum(row["grad_norm/kl_live"] + row["grad_norm/kl_flat"] for row in run.rows)
        shares.append(100 * kl / (kl + sum(row["grad_norm/policy"] for row in run.rows)))
    fig = figures_training.gradient_shares(finished)
    told = f"{np.mean(shares):.2g} [{min(shares):.2g}, {max(shares):.2g}] % at beta 0.04"
    assert told in fig.get_suptitle().replace("\n", " ")
    assert len(fig.axes) == 2


# --- reading logs ---
def made_up(curve: list[float]) -> TrainingLog:
    rows = tuple({"step": i + 1, FORMAT: value} for i, value in enumerate(curve))
    return TrainingLog("run", "run-1", "think", 0.0, 0, Path(), rows)


def test_a_step_without_policy_gradient_does_not_make_a_small_kl_term_large():
    rows = [{"step": 1, "grad_norm/policy": 1.0, "grad_norm/kl_live": 1e-3, "grad_norm/kl_flat": 0.0}]
    rows += [{"step": 2, "grad_norm/policy": 0.0, "grad_norm/kl_live": 0.0, "grad_norm/kl_flat": 1e-3}]
    run = TrainingLog("run", "run-1", "think", 1e-4, 0, Path(), tuple(rows))
    assert training_logs.kl_share(run) == pytest.approx(2e-3, rel=0.01)


def test_curves_fall_end_and_arrive_where_they_do():
    curve = np.concatenate([np.linspace(0, 1, 51), np.linspace(1, 0.5, 50)[1:]])
    assert training_logs.arrival(curve, 0.8) == pytest.approx(0.40, abs=0.02)
    assert training_logs.arrival(curve, 2.0) == 1
    assert training_logs.end(curve) == pytest.approx(0.55, abs=0.01)
    assert training_logs.lost(curve, 0.6, 0.9)
    assert not training_logs.lost(curve, 0.4, 0.9)
    assert not training_logs.lost(np.linspace(0, 1, 100), 0.8, 0.9)
    assert training_logs.start(curve) == pytest.approx(0.09, abs=0.01)


def test_smoothing_is_a_moving_mean_that_leaves_gaps_out():
    curve = np.array([*range(39), np.nan], dtype=float)
    assert training_logs.smooth(curve)[5] == pytest.approx(5)
    assert training_logs.smooth(curve)[0] == pytest.approx(0.5)
    assert training_logs.smooth(curve)[39] == pytest.approx(38)


def test_means_over_seeds_go_as_far_as_the_shortest():
    runs = [made_up([0, 1, np.nan]), made_up([1, np.nan, np.nan, 4])]
    mean = training_logs.mean_curve([run.curve(FORMAT) for run in runs])
    assert mean[:2] == pytest.approx([0.5, 1])
    assert len(mean) == 3
    assert np.isnan(mean[2])


def test_a_log_without_steps_is_named(results):
    assert len(training_logs.find(results)) == 8
    (results / "grpo-think-seed0" / "log.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(VsrError, match=r"grpo-think-seed0.log\.jsonl: a line without 'step'"):
        training_logs.find(results)


# --- small print ---
def test_runs_that_differ_in_seed_or_video_are_told_together():
    ids = [f"eval-sft-seed{s}-vanilla-{v}-0123abcd" for v in ("true", "none") for s in (0, 1)]
    assert plotting.short(ids) == ["eval-sft-seed{0,1}-vanilla-{true,none}"]
    assert plotting.short(["eval-constant-0123abcd"]) == ["eval-constant-0123abcd"]
    assert plotting.short(["grpo-think-seed0-beta0-0123abcd"]) == ["grpo-think-seed0-beta0"]
