"""What a step of GRPO says about itself: one line of log.jsonl, and a few of its completions to read."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vsr.files import read_jsonl
from vsr.train.objective import flat


def reward_facts(names: list[str], rewards: Tensor, total: Tensor) -> dict[str, float]:
    """Mean and spread of each reward and of their weighted sum `total` (groups, G); `rewards` (groups, G, functions).

    `spread` is the mean over groups of the deviation within a group: what the advantages are made of."""
    facts = {"reward": total.mean(), "reward_spread": total.std(1).mean(), "zero_spread": flat(total).float().mean()}
    for index, name in enumerate(names):
        part = rewards[..., index]
        facts |= {f"reward/{name}": part.mean(), f"reward/{name}/spread": part.std(1).mean()}
    return {key: float(value) for key, value in facts.items()}


def task_facts(names: list[str], rewards: Tensor, rows: list[dict], kinds: list[str]) -> dict[str, float]:
    """Mean of each reward by question type, as `reward/<name>/<type>`; `rewards` (groups, G, functions), `rows` the
    groups' samples. All `kinds` are there on every process, nan where this step asks none."""
    facts = {}
    for kind in kinds:
        asked = torch.tensor([row["question_type"] == kind for row in rows])
        facts |= {f"reward/{name}/{kind}": float(rewards[asked, :, i].mean()) for i, name in enumerate(names)}
    return facts


def length_facts(completions: list[list[Tensor]], eos: int) -> dict[str, float]:
    """Tokens a completion, and the share cut off by the budget, not ended by the model."""
    lengths = torch.tensor([float(len(c)) for group in completions for c in group])
    cut = torch.tensor([float(c[-1] != eos) for group in completions for c in group])
    return {
        "length": float(lengths.mean()),
        "length_min": float(lengths.min()),
        "length_max": float(lengths.max()),
        "truncated": float(cut.mean()),
    }


@dataclass
class TokenMeans:
    """Sums over completion tokens, added up pass by pass."""

    tokens: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0

    def add(self, mask: Tensor, kl: Tensor, entropy: Tensor, clipped: Tensor) -> None:
        """All (sequences, tokens)."""
        self.tokens += float(mask.sum())
        self.kl += float((kl * mask).sum())
        self.entropy += float((entropy * mask).sum())
        self.clipped += float((clipped * mask).sum())

    def facts(self) -> dict[str, float]:
        """Means over tokens: KL and entropy in nats, the share of tokens whose gradient the clip stopped."""
        return {
            "kl": self.kl / self.tokens,
            "entropy": self.entropy / self.tokens,
            "clip_share": self.clipped / self.tokens,
        }


class Clock:
    """Seconds of a step's phases."""

    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()

    def mark(self, phase: str) -> None:
        """End a phase; on a GPU, wait for it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[phase], self.last = now - self.last, now

    def facts(self, tokens: dict[str, int]) -> dict[str, float]:
        """Seconds by phase, tokens a second for those in `tokens`, peak memory in MB."""
        facts = {f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()}
        facts |= {f"tokens_per_second/{phase}": count / self.seconds[phase] for phase, count in tokens.items()}
        return facts | {"peak_memory_mb": peak_memory()}


def over_processes(names: list[str], values: Tensor) -> dict[str, float]:
    """The facts of a step from every process's `values` (processes, names): extremes of extremes, the sum of speeds,
    the mean of all else (nan where no process has any)."""

    def whole(name: str, column: Tensor) -> Tensor:
        if name.startswith("tokens_per_second/"):
            return column.sum()
        if name.endswith("_min"):
            return column.min()
        return column.max() if name.endswith("_max") or name == "peak_memory_mb" else column.nanmean()

    return {name: float(whole(name, values[:, i])) for i, name in enumerate(names)}


def peak_memory() -> float:
    """MB this process has held at most: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def completions_table(run: str | Path, step: int | None = None) -> str:
    """The completions kept of one step (the last by default) as a Markdown table, best reward first."""
    rows = list(read_jsonl(Path(run) / "completions.jsonl"))
    step = rows[-1]["step"] if step is None else step
    lines = ["| sample | truth | completion | reward | advantage |", "|---|---|---|---|---|"]
    for row in sorted((r for r in rows if r["step"] == step), key=lambda r: -r["reward"]):
        text = " ".join(row["completion"].split()).replace("|", "\\|")
        lines.append(f"| {row['id']} | {row['truth']} | {text} | {row['reward']:.2f} | {row['advantage']:+.2f} |")
    return "\n".join(lines)
