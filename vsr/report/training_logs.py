"""What finished GRPO runs wrote down, read back: curves, where they end, how far they fall, when they arrive.

A run's mode, KL coefficient and seed come from its manifest, not from its folder's name. A step that does not tell a
figure is nan, and left out of every mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas

from vsr.errors import VsrError
from vsr.files import read_jsonl
from vsr.report import finished, once
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
    size: int = 14  # of a group

    def curve(self, key: str) -> np.ndarray:
        """A figure of every step (steps,), nan where a step has none."""
        return np.array([row.get(key, np.nan) for row in self.rows], dtype=float)

    def counts(self, name: str) -> np.ndarray:
        """Rollouts of each step's groups that are counted under `name` (steps, groups); none in old logs."""
        return np.array([row["groups"][name] for row in self.rows if "groups" in row], dtype=float)

    def part(self, name: str | None, start: float, end: float) -> np.ndarray:
        """What is counted under `name` in every group of a part of training (steps, groups), at least one step; the
        groups' size for None."""
        counts = self.counts(name or "tagged")
        counts = counts if name else np.full_like(counts, self.size)
        first = min(int(start * len(counts)), len(counts) - 1)
        return counts[first : max(first + 1, int(end * len(counts)))]

    def probed(self, task: str = "trained") -> dict[str, np.ndarray]:
        """Scores of answers sampled during training: `step`, and mean@14, maj@14, best@14 of one task or the trained
        six, (probes,) each; {} where none were."""
        path = self.path / "probe.jsonl"
        rows = list(read_jsonl(path)) if path.is_file() else []
        told = [{"step": row["step"]} | row["tasks"][task] for row in rows]
        return {name: np.array([row[name] for row in told], dtype=float) for name in (told[0] if told else ())}

    def tagged_accuracy(self) -> np.ndarray:
        """The accuracy reward of the rollouts that have the format (steps,), nan where none has."""
        tagged, earned = self.counts("tagged").sum(-1), self.counts("tagged_accuracy").sum(-1)
        return np.divide(earned, tagged, out=np.full_like(earned, np.nan), where=tagged > 0)

    @cached_property
    def steps(self) -> np.ndarray:
        """The steps' numbers (steps,)."""
        return np.array([row["step"] for row in self.rows], dtype=int)


@once
def find(results: str | Path) -> list[TrainingLog]:
    """The finished GRPO runs in `results`, by mode, falling beta and seed."""
    found = []
    for run in finished(Path(results)):
        path, manifest = run.path / "log.jsonl", run.manifest
        if not run.of("grpo", {}) or not path.is_file():
            continue
        rows = tuple(read_jsonl(path))
        if not rows or any("step" not in row for row in rows):
            raise VsrError(f"{path}: a line without 'step', or none at all; train again with 'vsr train'")
        who = run.path.name, manifest["id"], run.about["mode"], float(manifest["settings"]["beta"]), manifest["seed"]
        found.append(TrainingLog(*who, run.path, rows, manifest["settings"].get("num_generations", 14)))
    return sorted(found, key=lambda run: (run.mode, -run.beta, run.seed))


def by_beta(runs: Iterable[TrainingLog]) -> dict[float, list[TrainingLog]]:
    """Runs by KL coefficient, the largest first."""
    found: dict[float, list[TrainingLog]] = {}
    for run in runs:
        found.setdefault(run.beta, []).append(run)
    return dict(sorted(found.items(), reverse=True))


def grid(results: str | Path) -> Path:
    """Where the runs of claim 5's grid are at the highest of its rates; `results` itself where it has no grid."""
    rates = sorted(Path(results).glob("rate-*"), key=lambda folder: float(folder.name.removeprefix("rate-")))
    return rates[-1] if rates else Path(results)


def ablation(results: str | Path) -> dict[float, list[TrainingLog]]:
    """The runs by beta in the mode with tags that was trained with most of them; think where modes tie."""
    runs = find(results)
    return max((by_beta(run for run in runs if run.mode == mode) for mode in TAGGED_MODES), key=len)


def smooth(curve: np.ndarray, part: int = SMOOTH) -> np.ndarray:
    """The mean over a window of a `part`-th of the steps, shorter at both ends."""
    window = 2 * (len(curve) // part // 2) + 1  # odd, so that it has a middle
    return pandas.Series(curve).rolling(window, center=True, min_periods=1).mean().to_numpy()


def mean_curve(curves: list[np.ndarray]) -> np.ndarray:
    """The mean over runs, as far as the shortest goes."""
    # (runs, steps), nan where a run has ended or tells nothing
    return pandas.DataFrame(curves).iloc[:, : min(map(len, curves))].mean().to_numpy()


def start(curve: np.ndarray) -> float:
    """The mean over the first tenth."""
    return float(pandas.Series(curve[: max(1, len(curve) // ENDS)]).mean())


def end(curve: np.ndarray) -> float:
    """The mean over the last tenth."""
    return start(curve[::-1])


def lost(curve: np.ndarray, level: float, reached: float) -> bool:
    """Whether a smoothed curve that was at `reached` once falls below `level` later."""
    there = np.flatnonzero(smooth(curve) >= reached)
    return bool(len(there)) and bool((smooth(curve)[there[0] :] < level).any())


def kl_share(run: TrainingLog) -> float:
    """The KL term's part of the gradient over all of training: its norms over the sum of all parts' norms. Not a mean
    of the steps' shares: where all rewards are equal the KL term is all there is, however small."""
    policy, live, flat = (run.curve(f"grad_norm/{part}") for part in ("policy", "kl_live", "kl_flat"))
    kl = np.nan_to_num(live) + np.nan_to_num(flat)
    known = np.isfinite(policy) & (policy + kl > 0)
    return float(kl[known].sum() / (policy + kl)[known].sum()) if known.any() else 0.0


def arrival(curve: np.ndarray, level: float) -> float:
    """The share of training after which the smoothed curve first is at `level`; 1 if it never is."""
    there = np.flatnonzero(smooth(curve) >= level)
    return float(there[0]) / len(curve) if len(there) else 1.0
