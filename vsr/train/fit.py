"""What every training of the study does around its trainer: whole checkpoints, resume, progress, stopping in time."""

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from vsr.errors import Stopped, VsrError
from vsr.files import atomic_write, read_jsonl
from vsr.progress import track
from vsr.train.stopping import Stop
from vsr.workers import Heart


class AdapterCheckpoints:
    """For trainers: checkpoints hold the adapter alone, and one that cannot be written leaves nothing behind."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without this peft would ask the hub about embeddings and transformers pickle its arguments."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)

    def create_model_card(self, *_, **__) -> None:
        """None: the run's manifest says more."""

    def _save_checkpoint(self, model, trial) -> None:
        """A full disk is a VsrError; the checkpoint before stays."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            raise VsrError(
                f"{folder}: could not be written ({str(error).splitlines()[0]}); free some space and run it again: "
                "it continues from the checkpoint before"
            ) from None


def fit(trainer: Trainer, run: Path, *, every: int = 1, deadline: float | None = None) -> None:
    """Train from the last whole checkpoint in the trainer's output folder, or from the start, to the end.

    run: the folder of log.jsonl. Checkpoints are whole after multiples of `every` steps. Raises Stopped (or
    KeyboardInterrupt, in several processes), with a checkpoint, where it stopped before its end: see `Stop`."""
    args = trainer.args
    with args.main_process_first(local=False):
        checkpoint = last_checkpoint(Path(args.output_dir))
        if args.process_index == 0:
            cut_logs(run, 0 if checkpoint is None else int(checkpoint.name.split("-")[1]))
    stop = Stop(args, every, deadline)
    trainer.add_callback(stop)
    trainer.add_callback(_Progress(run, stop))
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
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
    for name in ("log.jsonl", "completions.jsonl"):
        if (folder / name).is_file():
            kept = [row for row in read_jsonl(folder / name) if row["step"] <= step]
            atomic_write(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


class _Progress(TrainerCallback):
    """Shows steps the way everything else in the study does, and gives the sign of life."""

    def __init__(self, run: Path, stop: Stop):
        self.run, self.stop = run, stop
        self.steps: Iterator[int] = iter(())
        self.heart: Heart | None = None

    def on_train_begin(self, args, state, control, **_):
        """Start counting, at the step that training resumes from."""
        if state.is_world_process_zero:
            self.steps = track(range(state.global_step, state.max_steps), f"training {self.run.name}")
            next(self.steps, None)
        self.heart = Heart(self.run, state.global_step, state.max_steps, written=state.is_world_process_zero)

    def on_step_end(self, args, state, control, **_):
        """One step done."""
        next(self.steps, None)
        if self.heart:
            self.heart.beat(state.global_step, self.stop.why or None)
