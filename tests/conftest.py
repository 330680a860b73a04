"""Fixtures that many tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest

hypothesis.settings.register_profile("steady", deadline=None)  # a busy machine is no failure
hypothesis.settings.register_profile("thorough", deadline=None)  # see test_fuzz
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real scenes, questions and tokenizer; they are no part of the project, so a user may lack them."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real scenes and questions in ../shared/data, which are not part of the project")
    return folder


# measured on two cores; the tests of every other file take less than a minute together
LONGEST = (
    "notebooks",
    "real_study",
    "jupyterlab",
    "faults",
    "launch",
    "shards",
    "build_resume",
    "estimate",
    "grpo_run",
    "real_path",
)


def pytest_collection_modifyitems(items):
    """The longest files first: with one file to a worker (`--dist loadfile`), all workers then end together."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_addoption(parser):
    """`pytest tests/test_train.py --renew-golden` writes the committed trajectories anew."""
    parser.addoption("--renew-golden", action="store_true")


def pytest_configure(config):
    """Where tests find it."""
    pytest.renew_golden = config.getoption("--renew-golden")
