"""What the paper's two baselines share: GRPO's questions in GRPO's order, one adapter, one run folder, one log.

Equal data is the default: as many optimiser steps of as many questions as GRPO takes. Equal compute is a `budget` of
token passes (`vsr.train.compute`), the same questions coming round as often as it allows.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from vsr import models, runs
from vsr.engine.inputs import FeatureCache
from vsr.errors import VsrError
from vsr.files import append_jsonl, fingerprint
from vsr.models import Loaded, cards
from vsr.models.adapters import adapter_hash
from vsr.profiles import Profile
from vsr.questions import leak
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question
from vsr.runs import Run, Stage
from vsr.train import compute, options
from vsr.train.collate import AnswerCollator
from vsr.train.data import See, check_rows, sample
from vsr.train.diagnostics import peak_memory
from vsr.train.fit import fit
from vsr.train.grpo import GRPO, OnStep, save_adapter
from vsr.train.schedule import Schedule

MODE = "vanilla"  # both baselines learn the bare answer; Table 2 evaluates them so
MEASURED = 256  # questions whose length tells the cost of a step
OMITTED = {"num_tokens", "epoch"}  # TRL's figures that log.jsonl says otherwise or not


@dataclass(frozen=True)
class Method:
    """A baseline: `answers` gives a question's answer texts by column, `collator` batches rows, `trainer` is TRL's with
    the arguments given, `passes` its token passes for each token of a batch."""

    name: str
    passes: int
    answers: Callable[[Question, int], dict[str, str]]
    collator: type[AnswerCollator]
    trainer: Callable[[Profile, Loaded, Dataset, AnswerCollator, dict], Trainer]
    learning_rate: Callable[[Profile], float]


def train(
    method: Method,
    profile: Profile,
    data: QuestionSet,
    out: str | Path,
    seed: int,
    *,
    budget: int | None = None,
    loaded: Loaded | None = None,
    on_step: OnStep | None = None,
    fresh: bool = False,
    deadline: float | None = None,
) -> Run:
    """The run `run_name` names. See `run_sft`.

    Of several processes each takes its share of every step's questions; the first one writes. TRL divides SFT's loss by
    the answer tokens of all of them, DPO's shares are equal: the adapter is that of one process, but for rounding."""
    name = run_name(method.name, seed, budget)
    args = options.config(profile, Path(out) / name, seed=seed)  # GRPO's, for the same questions on the same processes
    if args.n_gpu > 1:
        raise VsrError(
            f"{args.n_gpu} GPUs in one process; start one process a GPU: vsr train {method.name} --gpus {args.n_gpu}"
        )
    options.check(args)
    caution = leak.check_folder(data.folder, (question.scene_name for question in data.questions))
    info = loaded.info if loaded else models.describe(**models.arguments("base", profile))
    what = {
        "about": {"method": method.name, "mode": MODE, "budget": budget, "model": info, "ablated": None},
        "inputs": {"questions": fingerprint([asdict(q) for q in data.questions])},
    }
    own = ("sft_learning_rate",) if method.name == "sft" else ("dpo_learning_rate", "dpo_beta")
    shared = (key for key in GRPO.settings if key not in ("beta", "learning_rate"))
    stage = Stage(method.name, 1, (*shared, *own))
    with args.main_process_first(local=False):  # the one writer of the folder; the others read what it left
        main = args.process_index == 0
        run = (
            Run.open(out, name, stage, profile, **what, seed=seed, fresh=fresh) if main else Run.read(Path(out) / name)
        )
    if run.finished:
        return run
    rows = rows_of(method, data, seed)
    base = loaded or models.load(**models.arguments("base", profile))
    torch.manual_seed(seed)
    with trl_guest(base.model):
        adapted = Loaded(models.add_lora(base.model, profile), base.tokenizer, base.info)
        see = FeatureCache(base.model, runs.ROOT / "data" / "features", profile.frames, profile.max_pixels)
        try:
            trainer = make(method, profile, adapted, rows, see, run.path, seed, budget)
            _fit(trainer, method, run.path, on_step, deadline)
            if main:
                save_adapter(adapted.model, run.path / "adapter")
        finally:
            adapted.model.unload()
    with args.main_process_first(local=False):
        if main:
            _close(run, base.device_name, trainer.args.max_steps, caution)
    return run


def run_name(method: str, seed: int, budget: int | None = None) -> str:
    """The folder of a run: `<method>-seed<seed>`, or `<method>-compute-seed<seed>` with a budget."""
    return f"{method}-{'compute-' if budget else ''}seed{seed}"


def _close(run: Run, device: str, steps: int, caution: str | None) -> None:
    shutil.rmtree(run.path / "checkpoints")
    facts = {
        "adapter": adapter_hash(run.path),
        "device": device,
        "steps": steps,
        "token_passes": compute.token_passes(run.path),
        "warning": caution,
    }
    cards.write(run.path, run.manifest | facts)
    run.finish(**facts)


def rows_of(method: Method, data: QuestionSet, seed: int) -> list[dict]:
    """One row a question: `id`, `prompt`, `video` and the texts of its answers."""
    rows = []
    for question in data.questions:
        row = sample(question, data.video_path(question.scene_name), MODE)
        rows.append({key: row[key] for key in ("id", "prompt", "video")} | method.answers(question, seed))
    check_rows(rows)
    return rows


def make(
    method: Method,
    profile: Profile,
    loaded: Loaded,
    rows: list[dict],
    see: See,
    folder: Path,
    seed: int = 0,
    budget: int | None = None,
) -> Trainer:
    """TRL's trainer over `rows` in GRPO's order, with checkpoints in `folder`/checkpoints."""
    collator = method.collator(loaded, see)
    if budget:
        tokens = sum(int(collator([row])["attention_mask"].sum()) for row in rows[:MEASURED])
        step = method.passes * profile.questions_per_step * tokens / len(rows[:MEASURED])
        profile = replace(profile, max_steps=compute.steps_within(budget, step))
    questions = options.questions_a_process(profile)
    order = Schedule(rows, options.config(profile, folder, seed=seed), questions)
    settings = {
        "output_dir": str(folder / "checkpoints"),
        "learning_rate": method.learning_rate(profile),
        "max_steps": profile.max_steps,
        "per_device_train_batch_size": questions,
        "train_sampling_strategy": "sequential",  # the schedule has shuffled
        "max_length": None,  # nothing is cut: half a video is no video
        "remove_unused_columns": False,  # the collator reads them all
        "bf16": False,  # the model's own dtype rules; this would add autocast
        "activation_checkpointing": profile.dtype != "float32",
        "ddp_find_unused_parameters": False,  # every step uses the whole adapter
        "save_steps": max(1, profile.max_steps // 10),
        "save_total_limit": 2,
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "seed": seed,
    }
    return method.trainer(profile, loaded, Dataset.from_list(list(order)), collator, settings)


def _fit(trainer: Trainer, method: Method, folder: Path, on_step: OnStep | None, deadline: float | None) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Log(folder / "log.jsonl", method.passes, on_step))
    fit(trainer, folder, deadline=deadline)


@contextmanager
def trl_guest(model: PreTrainedModel) -> Iterator[None]:
    """Lets TRL work on `model`: the `forward` it replaces for good comes back, its use of old names is not reported."""
    before = model.__dict__.get("forward")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        model.__dict__.pop("forward", None)
        if before is not None:
            model.forward = before


class _Log(TrainerCallback):
    """One line a step: TRL's figures, tokens, token passes, seconds, peak memory."""

    def __init__(self, path: Path, passes: int, on_step: OnStep | None):
        self.path, self.passes, self.on_step = path, passes, on_step
        self.tokens, self.last = 0, time.perf_counter()

    def on_train_begin(self, args, state, control, **_):
        """Start the clock."""
        self.last = time.perf_counter()

    def on_log(self, args, state, control, logs, **_):
        """Write the line; the summary at the end of training is none."""
        if "loss" not in logs or not state.is_world_process_zero:
            return
        tokens = int(logs["num_tokens"]) - self.tokens  # TRL counts from the start of the process
        self.tokens += tokens
        line = {"step": state.global_step, **{key: value for key, value in logs.items() if key not in OMITTED}}
        line |= {"tokens": tokens, "token_passes": self.passes * tokens}
        now = time.perf_counter()
        line |= {"seconds": now - self.last, "peak_memory_mb": peak_memory()}
        self.last = now
        append_jsonl(self.path, line)
        if self.on_step is not None:
            self.on_step(line)
