"""What is compared, and the finished evaluations behind it: the base and every way to train it, over all seeds.

A trained model is evaluated with the prompt it was trained with, unless Table 2 says otherwise.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vsr import runs, scoring
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl
from vsr.paper import MODES, TASKS
from vsr.report import finished, once
from vsr.scoring import intervals
from vsr.scoring.intervals import Answers, Value

AVERAGES = {"overall": "avg", "trained": "trained six"}
COLUMNS: dict[str, str] = AVERAGES | TASKS  # a summary's numbers and their column heads


@dataclass(frozen=True)
class Method:
    """`label` as Table 2 has it, `mode` the prompt it is evaluated with, `trained` that of its training; `compute` says
    whether it had GRPO's compute; `prompts` is 'train' for a base asked by the prompts of training."""

    label: str
    mode: str
    method: str
    trained: str | None = None
    compute: bool = False
    prompts: str = ""

    def find(self, results: str | Path, video: str = "true") -> list[runs.Run]:
        """Its finished evaluations on all questions, by the seed of the training."""
        if self.method == "constant":
            return [run for run in finished(Path(results)) if run.of("constant", {})]
        about = {"method": self.method, "trained_mode": self.trained, "ablated": None, "limit": None}
        about |= {"mode": self.mode, "video": video}
        found = [run for run in finished(Path(results)) if run.of("answer", about)]
        found = [run for run in found if bool(run.about.get("budget")) == self.compute]
        if self.method == "base":
            found = [run for run in found if run.about.get("prompts", "evaluate") == (self.prompts or "evaluate")]
        return sorted(found, key=lambda run: run.about.get("train_seed") or 0)

    def __str__(self) -> str:
        return f"{self.label}, {self.mode} prompt{' of training' * bool(self.prompts)}" if self.mode else self.label


BASE = Method("base", "vanilla", "base")
BASE_T = Method("base", "think", "base")
BASE_O = Method("base", "observe", "base")
# asked as training asks: what a model trained under a prompt has to be set beside
OWN_BASE = {mode: Method("base", mode, "base", prompts="train") for mode in MODES}
CONSTANT = Method("best constant answer", "", "constant")
SFT = Method("SFT", "vanilla", "sft", "vanilla")
DPO = Method("DPO", "vanilla", "dpo", "vanilla")
SFT_COMPUTE = Method("SFT, GRPO's compute", "vanilla", "sft", "vanilla", compute=True)
DPO_COMPUTE = Method("DPO, GRPO's compute", "vanilla", "dpo", "vanilla", compute=True)
GRPO_T_PLAIN = Method("vsGRPO-T", "vanilla", "grpo", "think")
GRPO_O_PLAIN = Method("vsGRPO-O", "vanilla", "grpo", "observe")
GRPO_T = Method("vsGRPO-T", "think", "grpo", "think")
GRPO_O = Method("vsGRPO-O", "observe", "grpo", "observe")
GRPO_V = Method("vsGRPO-V", "vanilla", "grpo", "vanilla")

TABLE_2 = (BASE, SFT, DPO, SFT_COMPUTE, DPO_COMPUTE, GRPO_T_PLAIN, GRPO_O_PLAIN, GRPO_T, GRPO_O, GRPO_V)
LADDER = (BASE, DPO, SFT, GRPO_V)  # the paper's ladder, claim 6
SEEING = (BASE, DPO, SFT, GRPO_T, GRPO_O, GRPO_V)  # each with its own prompt


@dataclass(frozen=True)
class Evaluation:
    """All seeds of a method under one prompt and one kind of video, with their summaries."""

    method: Method
    runs: tuple[runs.Run, ...]
    summaries: tuple[dict, ...]

    @property
    def id(self) -> str:
        """The runs' ids."""
        return ", ".join(run.manifest["id"] for run in self.runs)

    @property
    def warning(self) -> str | None:
        """What has to be said with every number of these runs: a model was trained on rooms of the benchmark."""
        return next((w for one in self.summaries if (w := one.get("model", {}).get("warning"))), None)

    @cached_property
    def answers(self) -> Answers:
        """Every question's score by every seed."""
        return intervals.stack([_answers(run.path / "samples.jsonl") for run in self.runs])

    def samples(self, seed: int = 0) -> list[dict]:
        """The answers of one seed, by its place among them."""
        return list(read_jsonl(self.runs[seed].path / "samples.jsonl"))

    def value(self, column: str) -> Value | None:
        """The number of one of COLUMNS, a mean over seeds; None where no question asked for it."""
        return self.answers.value(column) if len(self.runs) > 1 else Value.read(self.summaries[0], column)

    def values(self) -> dict[str, Value | None]:
        """All COLUMNS."""
        return {column: self.value(column) for column in COLUMNS}


def evaluation(results: str | Path, method: Method, video: str = "true") -> Evaluation | None:
    """The finished runs of a method; None if there are none."""
    return _evaluation(Path(results), method, video)


@once
def _evaluation(results: Path, method: Method, video: str) -> Evaluation | None:
    found = [run for run in method.find(results, video) if (run.path / "summary.json").is_file()]
    return Evaluation(method, tuple(found), tuple(map(_summary, found))) if found else None


def _summary(run: runs.Run) -> dict:
    """The summary of a run; one of another run's numbers, or with something else for a number, is an error."""
    path, mark = run.path / "summary.json", run.manifest["id"]
    summary, wrong = read_json(path), ""
    try:
        for column in COLUMNS:
            Value.read(summary, column)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        wrong = "'tasks' or a number is missing"
    if not wrong and summary.get("run") != mark:
        wrong = f"it says run '{summary.get('run')}', the manifest says '{mark}'"
    if wrong:
        raise VsrError(f"{path}: {wrong}; evaluate again with 'vsr evaluate'")
    return summary


def _answers(path: Path) -> Answers:
    try:
        return scoring.answered(list(read_jsonl(path)))
    except VsrError as error:
        raise VsrError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
