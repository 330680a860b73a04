"""What finished GRPO runs wrote down, read back: curves, where they end, how far they fall, when they arrive.

A run's mode, KL coefficient and seed come from its manifest, not from its folder's name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vsr.errors import VsrError
from vsr.files import read_jsonl
from vsr.runs import Run
from vsr.runs import find as find_runs
from vsr.scoring.rewards import TAGGED_MODES

FORMAT, ACCURACY, TOTAL, KL = "rewards/format_reward/mean", "rewards/accuracy_reward/mean", "reward", "kl"
ENDS, SMOOTH = 10, 20  # the first and last tenth of training; curves are smoothed over a twentieth


@dataclass(frozen=True)
class TrainingLog:
    """One finished run: `rows` is log.jsonl, one dict a step."""

    name: str
    id: str
    mode: str
    beta: float
    seed: int
    path: Path
    rows: tuple[dict, ...]

    def curve(self, key: str) -> np.ndarray:
        """A figure of every step (steps,), nan where a step has none."""
        return np.array([row.get(key, np.nan) for row in self.rows], dtype=float)

    def share(self, key: str) -> float:
        """The share of steps that tell it, 0 to 1."""
        return sum(key in row for row in self.rows) / len(self.rows)

    @cached_property
    def steps(self) -> np.ndarray:
        """The steps' numbers (steps,)."""
        return np.array([row["step"] for row in self.rows], dtype=int)

    def completions(self) -> list[dict]:
        """The completions kept for reading."""
        return list(read_jsonl(self.path / "completions.jsonl"))


def find(results: str | Path) -> list[TrainingLog]:
    """The finished GRPO runs in `results`, by mode, falling beta and seed."""
    found = [_read(run) for run in find_runs(results, "grpo") if (run.path / "log.jsonl").is_file()]
    return sorted(found, key=lambda run: (run.mode, -run.beta, run.seed))


def _read(run: Run) -> TrainingLog:
    rows, manifest = tuple(read_jsonl(run.path / "log.jsonl")), run.manifest
    if not rows or any("step" not in row for row in rows):
        raise VsrError(f"{run.path / 'log.jsonl'}: a line without 'step', or none at all; train again with 'vsr train'")
    mode, beta = run.about["mode"], float(manifest["settings"]["beta"])
    return TrainingLog(run.path.name, manifest["id"], mode, beta, manifest["seed"], run.path, rows)


def by_beta(runs: Iterable[TrainingLog]) -> dict[float, list[TrainingLog]]:
    """Runs by KL coefficient, the largest first."""
    found: dict[float, list[TrainingLog]] = {}
    for run in runs:
        found.setdefault(run.beta, []).append(run)
    return dict(sorted(found.items(), reverse=True))


def ablation(results: str | Path) -> dict[float, list[TrainingLog]]:
    """The runs by beta in the mode with tags that was trained with most of them; think where modes tie."""
    runs = find(results)
    modes = [by_beta(run for run in runs if run.mode == mode) for mode in TAGGED_MODES]
    return max(modes, key=len)


def smooth(curve: np.ndarray, part: int = SMOOTH) -> np.ndarray:
    """The mean over a window of a `part`-th of the steps, shorter at both ends; nan is left out."""
    half = len(curve) // part // 2
    windows = [curve[max(0, i - half) : i + half + 1] for i in range(len(curve))]
    return np.array([_mean(window) for window in windows])


def mean_curve(runs: list[TrainingLog], value: Callable[[TrainingLog], np.ndarray]) -> np.ndarray:
    """The mean of a curve over runs, as far as the shortest goes."""
    curves = [value(run) for run in runs]
    length = min(map(len, curves))
    whole = np.stack([curve[:length] for curve in curves])
    present = ~np.isnan(whole)
    return np.where(present.any(0), np.where(present, whole, 0).sum(0) / np.maximum(present.sum(0), 1), np.nan)


def start(curve: np.ndarray) -> float:
    """The mean over the first tenth; nan where no step of it tells."""
    return _mean(curve[: max(1, len(curve) // ENDS)])


def end(curve: np.ndarray) -> float:
    """The mean over the last tenth; nan where no step of it tells."""
    return _mean(curve[-max(1, len(curve) // ENDS) :])


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def fall(curve: np.ndarray) -> float:
    """From the highest mean over any tenth of training down to that over the last one; 0 where it ends highest."""
    width = max(1, len(curve) // ENDS)
    tenths = np.lib.stride_tricks.sliding_window_view(curve, width)
    return float(max(np.nanmean(tenth) for tenth in tenths if not np.isnan(tenth).all())) - end(curve)


def arrival(curve: np.ndarray, level: float) -> float:
    """The share of training, 0 to 1, after which the smoothed curve first is at `level`; 1 if it never is."""
    there = np.flatnonzero(smooth(curve) >= level)
    return float(there[0]) / len(curve) if len(there) else 1.0
