"""Trackers beside log.jsonl, which stays the source: transformers' callbacks for them get its very lines."""

import copy
import importlib.util
import os
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from vsr.errors import VsrError, unknown

TRACKERS = ("trackio", "tensorboard", "wandb")
CHOSEN = "VSR_REPORT_TO"  # a process hands it to those it starts: kernels, workers, jobs on several devices
PROJECT = "vsr"


def offer(names: str) -> None:
    """Have every training of this process, and of those it starts, report to `names` (commas between) too. VsrError for
    one that is not known or not installed."""
    for name in names.split(","):
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise VsrError(f"--report-to {name}: it is not installed; pip install {name}, or leave the option out")
    os.environ[CHOSEN] = names


class Reports(TrainerCallback):
    """What was offered, for the run in `path`: named after it and its results folder, in the project 'vsr'. A run that
    goes on reports the steps since its checkpoint again. TensorBoard's files lie in `tensorboard/` beside the runs."""

    def __init__(self, path: Path):
        self.name, self.told = f"{path.parent.name}/{path.name}", None
        names = filter(None, os.environ.get(CHOSEN, "").split(","))
        self.trackers = [tracker() for tracker in get_reporting_integration_callbacks(list(names))]
        for tracker in self.trackers:
            if hasattr(tracker, "logging_dir"):  # transformers' default is named after the machine, in the run's folder
                tracker.logging_dir = str(Path(tracker.logging_dir or path.parent / "tensorboard") / path.name)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more):
        """Open them."""
        args = copy.copy(args)
        args.run_name, args.project = self.name, PROJECT
        self.told = args, state, control
        for tracker in self.trackers:
            tracker.on_train_begin(*self.told, **more)

    def line(self, line: dict) -> None:
        """The numbers of a line of log.jsonl."""
        args, state, control = self.told
        state = copy.copy(state)
        state.global_step = line["step"]  # the trainer counts a step when it has ended, after its line
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
        for tracker in self.trackers:
            tracker.on_log(args, state, control, logs=dict(numbers))

    def close(self) -> None:
        """Close them, also after a failure, of which transformers tells its callbacks nothing."""
        if self.told:
            for tracker in self.trackers:
                tracker.on_train_end(*self.told)
            self.told = None
