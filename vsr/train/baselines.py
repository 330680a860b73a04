"""SFT (paper, baselines of Table 2: "on VSI-100k directly") and DPO, TRL's trainers made to see the video.

SFT learns the right answers; DPO prefers them to wrong ones made from them, its reference the model without its
adapter. Questions, order, adapter, run folder and log are GRPO's.
"""

import time
from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from vsr.engine.inputs import as_number
from vsr.files import append_jsonl, fingerprint
from vsr.models import Loaded
from vsr.runs import Settings
from vsr.train import OnStep
from vsr.train.data import AnswerCollator, PairCollator, Schedule, See
from vsr.train.fit import AdapterTrainer, peak_memory
from vsr.train.grpo import optimiser, questions_a_process

COLLATORS = {"sft": AnswerCollator, "dpo": PairCollator}
PASSES = {"sft": 2, "dpo": 3}  # forward and backward; DPO's reference reads right and rejected answers too
MEASURED = 256  # questions whose length tells the cost of a step
OMITTED = {"num_tokens", "epoch"}  # TRL's figures that log.jsonl says otherwise or not


def config(
    method: str, settings: Settings, output_dir: str | Path, *, seed: int = 0, steps: int | None = None
) -> SFTConfig | DPOConfig:
    """TRL's arguments for `steps` optimiser steps (default: the settings'), with log and checkpoints in `output_dir`.
    VsrError where the questions of a step cannot be shared out among the processes."""
    steps = steps or settings.max_steps
    common = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        **optimiser(settings),
        "per_device_train_batch_size": questions_a_process(settings),
        "train_sampling_strategy": "sequential",  # the schedule has shuffled
        "max_length": None,  # nothing is cut: half a video is no video
        "remove_unused_columns": False,  # the collator reads them all
        "bf16": False,  # the model's own dtype rules; this would add autocast
        "activation_checkpointing": settings.dtype != "float32",
        "ddp_find_unused_parameters": False,  # every step uses the whole adapter
        "save_steps": max(1, steps // 10),
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would report the mean loss in place of one that is not finite
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "seed": seed,
    }
    if method == "sft":
        own = {"learning_rate": settings.sft_learning_rate, "dataset_kwargs": {"skip_prepare_dataset": True}}
        return SFTConfig(**common, **own)
    return DPOConfig(**common, learning_rate=settings.dpo_learning_rate, beta=settings.dpo_beta)


def make(
    method: str,
    settings: Settings,
    loaded: Loaded,
    rows: list[dict],
    see: See,
    args: SFTConfig | DPOConfig,
    *,
    budget: int | None = None,
    on_step: OnStep | None = None,
) -> Trainer:
    """TRL's trainer over `rows` in GRPO's order; with `budget` for as many steps, at least one, as come closest to so
    many token passes."""
    collator = COLLATORS[method](loaded, see)
    if budget:
        some = rows[:MEASURED]
        tokens = sum(int(collator([row])["attention_mask"].sum()) for row in some) / len(some)
        steps = max(1, round(budget / (PASSES[method] * settings.questions_per_step * tokens)))
        args = config(method, settings, args.output_dir, seed=args.seed, steps=steps)
    order = Schedule(rows, args.max_steps, settings.questions_per_step, args.seed)
    table = Dataset.from_list(list(order))
    if method == "sft":
        trainer = VideoSFTTrainer(loaded.model, args, collator, table, processing_class=loaded.tokenizer)
    else:
        trainer = VideoDPOTrainer(loaded.model, None, args, collator, table, processing_class=loaded.tokenizer)
        # TRL made a copy of the fresh adapter; without it the reference is the model with its adapter switched off
        loaded.model.delete_adapter("ref")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Log(trainer, PASSES[method], on_step))
    return trainer


class VideoSFTTrainer(AdapterTrainer, SFTTrainer):
    """TRL's, with our checkpoints."""


class VideoDPOTrainer(AdapterTrainer, DPOTrainer):
    """TRL's, with our checkpoints and rows left to the collator (SFTTrainer has an option for that, this one none)."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


class _Log(TrainerCallback):
    """One line a step: TRL's figures, tokens, token passes, seconds, peak memory."""

    def __init__(self, trainer: AdapterTrainer, passes: int, on_step: OnStep | None):
        self.trainer, self.passes, self.on_step = trainer, passes, on_step
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
        line |= {
            "tokens": tokens,
            "token_passes": self.passes * tokens,
            "inputs": as_number(fingerprint(self.trainer.read)),
        }
        now = time.perf_counter()
        line |= {"seconds": now - self.last, "peak_memory_mb": peak_memory()}
        self.last = now
        append_jsonl(Path(args.output_dir) / "log.jsonl", line)
        if self.on_step is not None:
            self.on_step(line)
