"""What every training of the study does around its trainer: whole checkpoints with finite numbers, resume, progress,
and ending before its end, at a deadline or on a signal, always after a whole step and with a checkpoint."""

import json
import resource
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from vsr.errors import Stopped, VsrError
from vsr.files import as_the_umask_says, read_jsonl, write_jsonl
from vsr.models.precision import amplified
from vsr.progress import track
from vsr.workers import Heart, until

APART = "sampling/sampling_logp_difference/max"  # TRL's name
LARGEST = ("completions/max_length", "peak_memory_mb", APART)  # facts of which the largest counts
REASONS = ("", "--max-hours", "terminated", "interrupted")


class AdapterTrainer:
    """For trainers: checkpoints hold the adapter alone, one that cannot be written leaves nothing behind, and no number
    that is not finite comes into one."""

    def training_step(self, *inputs, **more) -> Tensor:
        """The loss, a scalar; VsrError unless it is finite."""
        loss = super().training_step(*inputs, **more)
        self.require_finite("loss", [loss], self.state.global_step + 1)
        return loss

    def compute_loss(self, model, inputs: dict, *more, **how) -> Tensor:
        """TRL's, once it is noted what all processes read in this step; see `vsr.engine.inputs.digest`."""
        self.read = self.accelerator.gather(inputs.pop("inputs")).tolist()
        found = super().compute_loss(model, inputs, *more, **how)
        if isinstance(found, tuple):
            return amplified(found[0], self.model), *found[1:]
        return amplified(found, self.model)

    def require_finite(self, what: str, values: Iterable[Tensor], step: int) -> None:
        """VsrError, naming the step, if any number is not: from there on nothing could be learnt any more."""
        if not _finite(values):
            raise VsrError(
                f"{Path(self.args.output_dir).name}: step {step} of {self.state.max_steps}: its {what} is not finite, "
                f"at a learning rate of {self.args.learning_rate:g} in {str(self.model.dtype).removeprefix('torch.')}; "
                "set a lower one and train again (the last checkpoint with finite numbers is kept)"
            )

    def weights(self) -> list[Tensor]:
        """The adapter's."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def keep(self) -> None:
        """Save a checkpoint of the last whole step, if there is one, its rollouts are used up and its numbers finite;
        the main process."""
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        due = self.is_world_process_zero() and step % rollout_steps(self.args) == 0 < step
        if due and not folder.exists() and _finite(self.weights()):
            self._save_checkpoint(self.model, trial=None)

    def create_model_card(self, *_, **__) -> None:
        """None: the run's manifest says more."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without this peft would ask the hub about embeddings and transformers pickle its arguments."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)

    def _save_checkpoint(self, model, trial) -> None:
        """A full disk is a VsrError; the checkpoint before stays."""
        try:
            super()._save_checkpoint(model, trial)
            as_the_umask_says(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            raise VsrError(
                f"{folder}: could not be written ({str(error).splitlines()[0]}); free some space and run it again: "
                "it continues from the checkpoint before"
            ) from None


def _finite(values: Iterable[Tensor]) -> bool:
    """Whether all numbers are; a GPU is waited for once, not for every tensor."""
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def rollout_steps(args: TrainingArguments) -> int:
    """Steps that share their rollouts (GRPO's `num_iterations`): between them no checkpoint is whole, since rollouts
    are not saved."""
    return getattr(args, "num_iterations", 1)


def fit(trainer: AdapterTrainer, *more: TrainerCallback) -> None:
    """Train from the last whole checkpoint in the trainer's output folder, or from the start, to the end; `more` are
    called after each step whose numbers are finite.

    Raises VsrError, after saving the last whole step; Stopped (or KeyboardInterrupt, in several processes), with a
    checkpoint, where it stopped before its end: see `Stop`."""
    args, run = trainer.args, Path(trainer.args.output_dir)
    with args.main_process_first(local=False):
        checkpoint = last_checkpoint(run)
        if args.process_index == 0:
            cut_logs(run, 0 if checkpoint is None else int(checkpoint.name.split("-")[1]))
    stop = Stop(args)
    trainer.add_callback(stop)
    for callback in (_Progress(trainer, stop), *more):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (VsrError, KeyboardInterrupt):
        trainer.keep()
        raise
    finally:
        stop.release()
    if stop.why:
        with args.main_process_first(local=False):  # whoever ends first has the others killed
            pass
        if stop.why == "interrupted":
            raise KeyboardInterrupt
        raise Stopped(f"{run}: stopped after step {trainer.state.global_step} ({stop.why}); run it again to continue")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Those that a killed process or a failing disk left damaged are removed, and that is
    said."""
    while (found := get_last_checkpoint(folder) if folder.is_dir() else None) is not None:
        path = Path(found)
        damage = _damage(path)
        if damage is None:
            return path
        print(f"{path.name}: damaged ({damage}), the one before is used", file=sys.stderr, flush=True)
        shutil.rmtree(path)
    return None


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; `trainer_state.json` is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        with safe_open(checkpoint / "adapter_model.safetensors", "pt"):  # compares the file's size with its header
            pass
        for file in sorted(checkpoint.glob("*.pt*")):
            with zipfile.ZipFile(file) as archive:
                if (member := archive.testzip()) is not None:
                    return f"{file.name}: {member} is broken"
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
        return str(error).replace(f"{checkpoint}/", "")
    return None


def cut_logs(folder: Path, step: int) -> None:
    """Forget lines after `step`: they will be written again."""
    for name in ("log.jsonl", "completions.jsonl", "probe.jsonl"):
        if (folder / name).is_file():
            kept = [row for row in read_jsonl(folder / name) if row["step"] <= step]
            write_jsonl(folder / name, kept)


class Stop(TrainerCallback):
    """All processes stop after the same step, one whose rollouts are used up, if any of them has got SIGTERM (or
    SIGINT, where there are several: alone, Python's own handling ends a step at once), or if the next step would not
    end before `vsr.workers.until`. `why` then holds the reason."""

    def __init__(self, args: TrainingArguments):
        self.args = args
        self.asked, self.why = 0, ""
        self.last = time.monotonic()
        self.old: dict = {}

    def on_train_begin(self, args, state, control, **_):
        """Listen."""
        self.last = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            reasons = {signal.SIGTERM: 2} | ({signal.SIGINT: 3} if args.world_size > 1 else {})
            for number, reason in reasons.items():
                self.old[number] = signal.signal(number, lambda *_, reason=reason: setattr(self, "asked", reason))

    def on_step_end(self, args, state, control, **_):
        """Decide; the largest reason of all processes counts."""
        now = time.monotonic()
        late = now + (now - self.last) > until()
        self.last = now
        if state.global_step % rollout_steps(args) or state.global_step >= state.max_steps:
            return
        reason = self.asked or int(late)
        if args.world_size > 1:
            agreed = torch.tensor(reason, device=args.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            reason = int(agreed)
        self.why = REASONS[reason]
        if self.why:
            control.should_save = control.should_training_stop = True

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self.old.items():
            signal.signal(number, handler)


class _Progress(TrainerCallback):
    """Shows steps the way everything else in the study does, gives the sign of life, and sees that nothing that is not
    finite gets into the adapter, or stays there."""

    def __init__(self, trainer: AdapterTrainer, stop: Stop):
        self.trainer, self.stop = trainer, stop
        self.steps: Iterator[int] = iter(())
        self.heart: Heart | None = None

    def on_train_begin(self, args, state, control, **_):
        """Start counting, at the step that training resumes from."""
        run = Path(args.output_dir)
        if state.is_world_process_zero:
            self.steps = track(range(state.global_step, state.max_steps), f"training {run.name}")
            next(self.steps, None)
        self.heart = Heart(run, state.global_step, state.max_steps, written=state.is_world_process_zero)

    def on_pre_optimizer_step(self, args, state, control, **_):
        """The gradients are there, of all processes together; the adapter is still that of the step before."""
        gradients = [weight.grad for weight in self.trainer.weights() if weight.grad is not None]
        self.trainer.require_finite("gradient", gradients, state.global_step + 1)

    def on_step_end(self, args, state, control, **_):
        """One step done; checkpoints are saved only after this."""
        self.trainer.require_finite("adapter", self.trainer.weights(), state.global_step)
        next(self.steps, None)
        if self.heart:
            self.heart.beat(state.global_step, self.stop.why or None)


def peak_memory() -> float:
    """MB this process has held at most: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def over_processes(names: list[str], values: Tensor) -> dict[str, float]:
    """The facts of a step from every process's `values` (processes, names): extremes of extremes, the sum of speeds,
    the mean of all else (nan where no process has any)."""

    def whole(name: str, column: Tensor) -> Tensor:
        if name.startswith("tokens_per_second/"):
            return column.sum()
        if name == "completions/min_length":
            return column.min()
        return column.max() if name in LARGEST else column.nanmean()

    return {name: float(whole(name, values[:, i])) for i, name in enumerate(names)}


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
