"""Does the base see? Its scores with true, shuffled, absent and one-frame video beside what needs no eyes, and beside
what its own vision tower would allow."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vsr import evaluate, models, prompts, runs, scoring, seeds
from vsr.engine import FeatureCache, Prompt, rollouts
from vsr.models import Loaded
from vsr.paper import TRAINED
from vsr.pretrain.solver import Solver
from vsr.profiles import Profile
from vsr.questions.bench import Bench
from vsr.questions.question import NUMERICAL, Question
from vsr.questions.rules import VSIBENCH
from vsr.rewards import format as follows_format
from vsr.runs import read_jsonl, write_json
from vsr.scenes.scene import Scene
from vsr.scoring import readable, score, task_of
from vsr.train.sft import run_sft

BLIND = ("shuffled", "none")
SAMPLES = 14  # answers a question, as many as GRPO's rollouts
Z = 1.96


def diagnose(
    base: str,
    bench: Bench,
    out: str | Path,
    profile: Profile,
    probes: str | Path,
    train: Bench | None = None,
    sampled: int = 120,
) -> dict:
    """All diagnostics of a base (a folder, or 'tiny') on a bench of fresh rooms; written to `out`/diagnosis.json.

    `probes` are the read-outs that pre-training wrote beside the model. `sampled` questions are asked `SAMPLES` times
    at temperature 1. With `train`, a plain SFT on it, evaluated alike, measures the headroom.
    """
    out, profile = Path(out), replace(profile, base=base)
    loaded = models.load(**models.arguments("base", profile))
    rows = {video: _rows(evaluate.evaluate(loaded, bench, "vanilla", video, profile, out)) for video in evaluate.VIDEOS}
    rows["constant"] = _rows(evaluate.constant(bench, out, profile))
    rows["lookup"] = lookup(bench.questions)
    solver = Solver(probes)
    read_scenes = see_scenes(loaded, bench, profile, solver, out)
    rows["solver"] = [_row(q, solver.answer(q, read_scenes[q.scene_name])) for q in bench.questions]
    if train is not None:
        tuned = run_sft(profile, train, out)
        rows["sft"] = _rows(evaluate.evaluate(str(tuned.path), bench, "vanilla", "true", profile, out))
    told = {name: scoring.summarise(found, "official", profile.bootstrap, profile.seed) for name, found in rows.items()}
    report = {
        "model": loaded.info,
        "scenes": told["true"]["scenes"],
        "trained": {name: told[name]["trained"] for name in told},
        "tasks": {name: {task: cell["score"] for task, cell in told[name]["tasks"].items()} for name in told},
        "sees": {task: sees(rows, task) for task in (*TRAINED, "trained")},
        "parsable": told["true"]["parsable"],
        "grounding": grounding(read_scenes, bench),
        "samples": sample(loaded, bench, out, profile, sampled),
    }
    write_json(out / "diagnosis.json", report)
    return report


def _rows(run: runs.Run) -> list[dict]:
    return list(read_jsonl(run.path / "samples.jsonl"))


def sees(rows: dict[str, list[dict]], task: str) -> dict[str, dict]:
    """How far true video is above each blind condition, in points and in standard errors (scenes resampled)."""
    told = {}
    for video in BLIND:
        found = seeds.compare(seeds.answers(rows["true"]), seeds.answers(rows[video]), task)
        error = (found.high - found.low) / (2 * Z)
        told[video] = {"points": round(found.value, 1), "errors": round(found.value / error, 1) if error else None}
    return told


def _row(question: Question, response: str) -> dict:
    return {**question.__dict__, "response": response, "score": score(question, response)}


def see_scenes(loaded: Loaded, bench: Bench, profile: Profile, solver: Solver, out: Path) -> dict[str, Scene]:
    """The rooms that the solver reads from the base's own video tokens, by scene."""
    see = FeatureCache(loaded.model, out / ".features", profile.frames, profile.max_pixels)
    names = dict.fromkeys(question.scene_name for question in bench.questions)
    return {name: solver.scene(see(bench.video_path(name))[0].float(), name) for name in names}


def grounding(read: dict[str, Scene], bench: Bench) -> dict[str, float]:
    """Probes of the video tokens: precision and recall of categories, median metres between where an object that
    occurs once is read and where it is."""
    right = claimed = there = 0
    metres = []
    for name, scene in read.items():
        truth = bench.scenes[name]
        present, told = set(truth.counts), {label for label, count in scene.counts.items() if count}
        right, claimed, there = right + len(present & told), claimed + len(told), there + len(present)
        spot = truth.camera.position[0, :2]
        for box in truth.once():
            metres.append(float(np.hypot(*(scene.labelled(box.label)[0].center[:2] + spot - box.center[:2]))))
    return {
        "precision": round(100 * right / max(claimed, 1), 1),
        "recall": round(100 * right / max(there, 1), 1),
        "metres": round(float(np.median(metres)), 3),
    }


def lookup(questions: Iterable[Question]) -> list[dict]:
    """The best answers that need only the question: for each kind the best constant by the categories it names, learnt
    on one half of the scenes and scored on the other."""
    questions = list(questions)
    names = sorted({question.scene_name for question in questions})
    half = {name: number % 2 for number, name in enumerate(names)}
    tables = []
    for side in (0, 1):
        groups = defaultdict(list)
        for question in questions:
            if half[question.scene_name] != side:
                for key in _keys(question):
                    groups[key].append(question)
        tables.append({key: _best(group) for key, group in groups.items()})
    rows = []
    for question in questions:
        table = tables[half[question.scene_name]]
        rows.append(_row(question, next((table[key] for key in _keys(question) if key in table), "")))
    return rows


def _keys(question: Question) -> list[tuple]:
    """From the most to the least special: the kind with the categories it names, the kind alone."""
    fields = VSIBENCH.templates[question.question_type].read(question.question) or {}
    special = tuple(sorted(fields.values())) if len(fields) == 1 else ()
    return [(question.question_type, special), (question.question_type,)]


def _best(questions: list[Question]) -> str:
    if questions[0].question_type in NUMERICAL:
        guesses = sorted({question.ground_truth for question in questions})
        return max(guesses, key=lambda guess: sum(score(question, guess) for question in questions))
    return Counter(question.ground_truth for question in questions).most_common(1)[0][0]


@torch.no_grad()
def sample(loaded: Loaded, bench: Bench, out: Path, profile: Profile, count: int) -> dict:
    """Answers at temperature 1: distinct ones a question by task, and by mode how often the tags are right."""
    see = FeatureCache(loaded.model, out / ".features", profile.frames, profile.max_pixels)
    rng = np.random.default_rng(profile.seed)
    chosen = [bench.questions[i] for i in rng.permutation(len(bench.questions))]
    chosen = [q for q in chosen if task_of(q.question_type) in TRAINED][:count]
    distinct = defaultdict(list)
    report: dict[str, dict] = {"tags": {}}
    for stage in ("evaluate", "train"):
        for mode in ("vanilla", "think", "observe"):
            texts = [_ask(loaded, see, bench, question, mode, stage, profile) for question in chosen]
            if mode == "vanilla":
                report[f"parsable_{stage}"] = _share(
                    readable(q.question_type, q.options, text)
                    for q, group in zip(chosen, texts, strict=True)
                    for text in group
                )
            else:
                right = (follows_format(text, mode) for group in texts for text in group)
                report["tags"][f"{stage} {mode}"] = _share(right)
            if (stage, mode) == ("evaluate", "vanilla"):
                for question, group in zip(chosen, texts, strict=True):
                    distinct[task_of(question.question_type)].append(len(set(group)))
    every = [number for numbers in distinct.values() for number in numbers]
    report["distinct"] = {task: round(float(np.mean(numbers)), 1) for task, numbers in sorted(distinct.items())}
    report["three_or_more"] = _share(number >= 3 for number in every)
    return report


def _share(flags: Iterable[float]) -> float:
    return round(100 * float(np.mean(list(flags))), 1)


def _ask(
    loaded: Loaded, see: FeatureCache, bench: Bench, question: Question, mode: str, stage: str, profile: Profile
) -> list[str]:
    tokens, grid = see(bench.video_path(question.scene_name))
    ids = prompts.render(loaded.tokenizer, prompts.messages(question, mode, stage), grid)
    longest = profile.max_new_tokens if mode == "vanilla" else profile.max_new_tokens_reasoning
    generator = torch.Generator().manual_seed(profile.seed)
    group = rollouts(
        loaded.model, [Prompt(ids, tokens, grid)], SAMPLES, longest, models.end_id(loaded.tokenizer),
        models.suppressed(loaded.tokenizer), generators=[generator],
    )[0]  # fmt: skip
    return [models.read(loaded.tokenizer, answer.tolist()) for answer in group]
