"""The same run tracked and in log.jsonl: equal numbers, and not another run."""

import math

import pytest
from grpo_setup import small_study
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from vsr import runs
from vsr.errors import VsrError
from vsr.files import read_jsonl
from vsr.questions.dataset import load
from vsr.train import trackers, train

Steps = dict[int, dict[str, float]]


class Kept(TrainerCallback):
    """A tracker that keeps what it gets."""

    opened: list["Kept"] = []  # noqa: RUF012  emptied by its test

    def on_train_begin(self, args, state, control, **_):
        """One run."""
        self.name, self.project, self.steps, self.ended = args.run_name, args.project, {}, 0
        self.opened.append(self)

    def on_log(self, args, state, control, logs, **_):
        """One step."""
        self.steps[state.global_step] = logs

    def on_train_end(self, *_, **__):
        """Once."""
        self.ended += 1


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv(trackers.CHOSEN, "")
    profile, folder = small_study(tmp_path)
    return profile, load(folder), tmp_path / "results"


def numbers(run: runs.Run) -> Steps:
    """log.jsonl, without its step and its lists."""
    lines = {line.pop("step"): line for line in read_jsonl(run.path / "log.jsonl")}
    return {step: {k: v for k, v in line.items() if isinstance(v, int | float)} for step, line in lines.items()}


@pytest.mark.parametrize("method", ["grpo", "sft", "dpo"])
def test_a_tracker_gets_the_lines_of_the_log(study, monkeypatch, method):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Kept)
    monkeypatch.setenv(trackers.CHOSEN, "wandb")
    monkeypatch.setattr(Kept, "opened", [])
    tracked = train(method, *study)
    (kept,) = Kept.opened
    assert (kept.name, kept.project, kept.ended) == (f"results/{tracked.path.name}", "vsr", 1)
    assert kept.steps == numbers(tracked) != {}
    monkeypatch.delenv(trackers.CHOSEN)
    assert train(method, *study).manifest == tracked.manifest  # the same run, tracked or not
    assert len(Kept.opened) == 1


def test_trackers_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(VsrError, match="unknown tracker 'trackioo': did you mean 'trackio'"):
        trackers.offer("trackioo")
    with pytest.raises(VsrError, match="--report-to trackio: it is not installed; pip install trackio"):
        trackers.offer("trackio")


def close(tracked: Steps, logged: Steps, rel: float) -> None:
    """Equal, but for the digits that a tracker's files have."""
    assert tracked.keys() == logged.keys()
    for step, line in logged.items():
        assert tracked[step].keys() >= line.keys()
        wrong = {k: v for k, v in line.items() if not math.isclose(tracked[step][k], v, rel_tol=rel, abs_tol=1e-30)}
        assert wrong == {}


def test_tensorboard(study, monkeypatch):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trackers.offer("tensorboard")
    run = train("grpo", *study)
    files = accumulators.EventAccumulator(str(run.path.parent / "tensorboard" / run.path.name)).Reload()
    found: Steps = {}
    for tag in files.Tags()["scalars"]:
        for event in files.Scalars(tag):
            found.setdefault(event.step, {})[tag.removeprefix("train/")] = event.value
    close(found, numbers(run), 1e-6)  # its files have single precision


def test_trackio(study, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    storage = pytest.importorskip("trackio.sqlite_storage")
    trackers.offer("trackio")
    run = train("grpo", *study)
    rows = storage.SQLiteStorage.get_logs("vsr", f"results/{run.path.name}")
    found = {row["train/global_step"]: {key.removeprefix("train/"): v for key, v in row.items()} for row in rows}
    close(found, numbers(run), 0)
