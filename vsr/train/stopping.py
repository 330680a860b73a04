"""Ending a training before its end, always after a whole step and with a checkpoint: at a deadline or on a signal."""

import signal
import threading
import time

import torch
from transformers import TrainerCallback, TrainingArguments

REASONS = ("", "--max-hours", "terminated", "interrupted")


class Stop(TrainerCallback):
    """All processes stop after the same step, one whose rollouts are used up (a multiple of `every`), if any of them
    has got SIGTERM (or SIGINT, where there are several: alone, Python's own handling ends a step at once), or if the
    next step would not end before `deadline` (seconds of the monotonic clock). `why` then holds the reason."""

    def __init__(self, args: TrainingArguments, every: int = 1, deadline: float | None = None):
        self.args, self.every, self.deadline = args, every, deadline
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
        """Decide."""
        now = time.monotonic()
        late = self.deadline is not None and now + (now - self.last) > self.deadline
        self.last = now
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        self.why = REASONS[self._agreed(self.asked or int(late))]
        if self.why:
            control.should_save = control.should_training_stop = True

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _agreed(self, reason: int) -> int:
        """The largest reason of all processes."""
        if self.args.world_size == 1:
            return reason
        asked = torch.tensor(reason, device=self.args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return int(asked)
