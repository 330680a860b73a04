"""Kills a study with SIGKILL at random moments, runs it again, and compares every number, table and figure with an
unbroken run's, byte for byte.

    python tests/faults.py --kills 30            a small study: rooms, GRPO, evaluations, report
    python tests/faults.py --kills 30 --smoke --in-a-row 10    `vsr run --profile smoke`, every notebook

A study is killed `--in-a-row` times before it is let through to its end, each time after a random share of what the
unbroken run took, so that the moments spread over the whole of it. Only kills that found it running count. Of a study
of several processes only the first is killed: the others must notice.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("summary.json", "samples.jsonl", "questions.jsonl", "adapter_model.safetensors")
DRAWN = {".md", ".csv", ".tex", ".svg", ".png"}
MEASURED = {"qlora_tradeoff"}  # shows seconds a step: no two runs are alike
STUDY = """
import sys
from pathlib import Path
from vsr import evaluate, runs
runs.ROOT = Path(sys.argv[1])
from vsr.report import write_all
from vsr.study import setup
settings = {"train_rooms": 3, "bench_rooms": 3, "seeds": 1, "bootstrap": 50}
study = setup("smoke", settings, runs.ROOT / "results" / "smoke")
(trained,) = study.grpo(["vanilla"], live=False)
evaluate.constant(study.bench, study.results, study.profile)
study.evaluate()
study.evaluate(model=str(trained))
write_all(study.results)
"""


class Study:
    """A study in an empty folder of its own."""

    def __init__(self, folder: Path, smoke: bool):
        self.folder = folder
        self.words = [sys.executable, "-c", STUDY, str(folder)]
        source = ROOT
        if smoke:
            for name in ("vsr", "notebooks"):
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            self.words, source = [sys.executable, "-m", "vsr.cli", "run", "--profile", "smoke"], folder
        self.environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(self, seconds: float | None = None) -> bool:
        """Whether it came to its end within `seconds`; then it is killed. A failure is an error."""
        process = subprocess.Popen(
            self.words,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return False
        if process.returncode:
            raise RuntimeError(f"the rerun failed with exit code {process.returncode}:\n{said}")
        return True

    def results(self) -> dict[str, bytes]:
        """What must not depend on how often it was killed."""
        files = [path for path in self.folder.rglob("*") if path.name in COMPARED or path.suffix in DRAWN]
        files = [path for path in files if path.stem not in MEASURED]
        kept = [path for path in files if {"results", "figures", "data"} & set(path.relative_to(self.folder).parts)]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(kept)}


def check(kills: int, seed: int, smoke: bool = False, in_a_row: int = 3) -> int:
    """The number of files compared; AssertionError, with the moments, where one differs."""
    rng, done = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        unbroken = Study(_folder(name, "unbroken"), smoke)
        started = time.monotonic()
        unbroken.run()
        length = time.monotonic() - started
        expected = unbroken.results()
        print(f"unbroken: {length:.0f} s, {len(expected)} files", flush=True)
        while done < kills:
            study, moments = Study(_folder(name, f"killed-{done}"), smoke), []
            for _ in range(min(in_a_row, kills - done)):
                moment = round(rng.uniform(0.1, 1.9) * length / in_a_row, 1)
                if study.run(moment):  # came to its end before its turn
                    break
                moments.append(moment)
            done += len(moments)
            study.run()
            found = study.results()
            differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
            assert not differing, f"killed after {moments} s: {differing}"
            print(f"killed after {moments} s: equal; {done} of {kills}", flush=True)
            shutil.rmtree(study.folder)
    return len(expected)


def _folder(parent: str, name: str) -> Path:
    path = Path(parent) / name
    path.mkdir()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--in-a-row", type=int, default=3)
    given = parser.parse_args()
    check(given.kills, given.seed, given.smoke, given.in_a_row)
