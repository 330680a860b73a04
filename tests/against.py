"""A think-mode training step of this code and of an earlier commit's, in turn on the same machine:

    python tests/against.py 5c6c6d6

The shipped base with a young adapter on the study's rooms, 8 questions x 14 rollouts x 48 tokens at most, one thread
each, processor seconds, the shortest of some runs."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "vsr" / "miniature" / "base"
RUNS, QUESTIONS, GROUP, TOKENS = 7, 8, 14, 48
PHASES = ("rollout", "scoring", "update")


def serve(folder: Path) -> None:
    """One side: a step for every line that comes in, its phases' seconds as a line that goes out."""
    import inspect
    import warnings

    import torch

    from vsr import models, profiles
    from vsr.bench import grpo
    from vsr.engine import FeatureCache
    from vsr.train.group_trainer import GroupTrainer

    try:
        from vsr.train.grpo import config
    except ImportError:  # before they became one file
        from vsr.train.options import config
    with contextlib.suppress(ImportError):  # as the workers of each commit begin
        from vsr.workers.pool import keep_freed

        keep_freed()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    profile = profiles.get("tiny", base=str(BASE))
    base = models.load(**models.arguments("base", profile))
    torch.manual_seed(0)
    loaded = models.Loaded(models.add_lora(base.model, profile), base.tokenizer, base.info)
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.004)
    rows = json.loads((folder / "rows.json").read_text())
    see = FeatureCache(base.model, folder / "features", profile.frames, profile.max_pixels)
    sizes = {"num_generations": GROUP, "per_device_train_batch_size": QUESTIONS * GROUP, "max_steps": 1}
    args = config(profile, folder / "run", **sizes, max_completion_length=TOKENS, save_strategy="no")
    given = [loaded, rows, [grpo.reward], args, see]
    if "folder" in inspect.signature(GroupTrainer).parameters:
        given.append(folder)
    trainer = GroupTrainer(*given, token_budget=1 << 14, split_every=1 << 30)
    trainer.state.global_step = 1  # not a step that measures parts of the gradient
    step = grpo._timed(trainer, rows, "_sample", "_logps") if hasattr(grpo, "_timed") else _timed(trainer, rows)
    for _ in sys.stdin:
        found = step()
        tokens = sum(len(c) for group in trainer.batch.completions for c in group)
        print(json.dumps(found | {"tokens": tokens}), flush=True)


def _timed(trainer, rows: list[dict]):
    """`vsr.bench.grpo._timed` for commits that have none: the same clock around the same methods."""
    import time

    import torch

    known = {}

    def watch(phase: str, name: str) -> None:
        method = getattr(trainer, name)

        def call(*args):
            started = time.process_time()
            result = method(*args)
            if phase == "rollout" or not torch.is_grad_enabled():
                known[phase] += time.process_time() - started
            return result

        setattr(trainer, name, call)

    watch("rollout", "_sample")
    watch("scoring", "_logps")
    trainer.create_optimizer_and_scheduler(1)

    def step() -> dict[str, float]:
        known.update(rollout=0.0, scoring=0.0)
        started = time.process_time()
        trainer.training_step(trainer.model, rows, None)
        total = time.process_time() - started
        trainer.model.zero_grad()
        return known | {"update": total - sum(known.values())}

    return step


def prepare(folder: Path) -> None:
    """Questions about the study's rooms, as rows of a training."""
    from vsr import prompts
    from vsr.questions import build, dataset

    build.build_rooms(folder, "train", QUESTIONS, "vsi100k", seed=0)
    asked = dataset.load(folder)
    by_scene = {question.scene_name: question for question in asked.questions}
    rows = [
        {"id": q.id, "prompt": prompts.messages(q, "think", "train", video=True), "video": str(asked.video_path(scene))}
        for scene, q in by_scene.items()
    ]
    (folder / "rows.json").write_text(json.dumps(rows))


def main(commit: str) -> None:
    """Both sides in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder, earlier = Path(name) / "rooms", Path(name) / "earlier"
        prepare(folder)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(earlier), commit], check=True)
        try:
            sides = {commit: _start(earlier, folder), "now": _start(ROOT, folder)}
            best: dict[str, dict[str, float]] = {side: {} for side in sides}
            for _ in range(RUNS):
                for side, process in sides.items():
                    print(file=process.stdin, flush=True)
                    found = json.loads(process.stdout.readline())
                    best[side] = {part: min(value, best[side].get(part, value)) for part, value in found.items()}
            for process in sides.values():
                process.stdin.close()
                process.wait()
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    print(f"{'':10}", *(f"{part:>9}" for part in (*PHASES, "step", "tokens")))
    times = {side: [*(found[phase] for phase in PHASES)] for side, found in best.items()}
    for side, seconds in times.items():
        seconds.append(sum(seconds))
        print(f"{side:10}", *(f"{value:9.3f}" for value in seconds), f"{best[side]['tokens']:9}")
    print(f"{'times':10}", *(f"{a / b:9.2f}" for a, b in zip(times[commit], times["now"], strict=True)))


def _start(code: Path, folder: Path) -> subprocess.Popen:
    settings = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--serve", str(folder)]
    return subprocess.Popen(command, env=settings, cwd=code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    serve(Path(sys.argv[2])) if sys.argv[1] == "--serve" else main(sys.argv[1])
