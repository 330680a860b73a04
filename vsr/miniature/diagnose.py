"""Does the base see? Its scores with true, shuffled, absent and one-frame video beside what needs no eyes, and beside
what its own vision tower would allow: a room read from the video tokens, then the official rules."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vsr import evaluate, models, prompts, runs, scoring
from vsr.engine import FeatureCache
from vsr.errors import VsrError
from vsr.files import read_jsonl, write_json
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.pretrain import PROBES
from vsr.miniature.rooms import VALUES, VIEWS, facing
from vsr.miniature.vision import Heads
from vsr.models import Loaded, folders
from vsr.paper import TRAINED
from vsr.profiles import Profile
from vsr.questions import tasks
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import NUMERICAL, Question
from vsr.questions.rules import VSIBENCH
from vsr.runs import Run, Stage
from vsr.scenes.scene import Box, Scene
from vsr.scoring import intervals, readable, score, task_of
from vsr.scoring.rewards import TAGGED_MODES
from vsr.scoring.rewards import format as follows_format
from vsr.train import STAGES
from vsr.train import train as train_adapter
from vsr.train.probe import sampled, spread

ANSWERED = {name for stage in evaluate.ANSWER.values() for name in stage.settings}
DIAGNOSE = Stage("diagnose", 3, tuple(sorted(ANSWERED | {*STAGES["sft"].settings, *evaluate.SCORE.settings})))
BLIND = ("shuffled", "none")
# The SFT probe asks what can be learnt at all: nearly 10,000 of the study's training questions, where the study
# compares methods after 640.
PROBED_STEPS, PROBED_RATE = 1200, 5e-4
Z = 1.96
THINNEST = 0.02  # metres


class Solver:
    """Answers from video tokens (tokens, D) without a language model; `probes` is the file the pre-training wrote."""

    def __init__(self, probes: str | Path):
        tensors = load_file(str(probes))
        self.words = tensors.pop("words")
        self.heads = Heads(self.words.shape[1])
        self.heads.load_state_dict(tensors)

    @torch.no_grad()
    def scene(self, tokens: torch.Tensor, name: str = "read") -> Scene:
        """The room that the tokens tell of, seen from the camera's spot. Every category is there: one that no token
        claims is put where it is least unlikely, and does not count."""
        logits = self.heads.presence(tokens, self.words)
        boxes, counts = [], {}
        for category, label in enumerate(CATALOGUE):
            claimed = (logits[:, category] > 0).nonzero()[:, 0].tolist()
            counts[label] = len(claimed)
            for token in claimed or [int(logits[:, category].argmax())]:
                values = self.heads.values(tokens[token : token + 1], self.words[category : category + 1])[0]
                boxes.append(_box(label, dict(zip(VALUES, values.tolist(), strict=True))))
        walls = self.heads.walls(self.heads.norm(tokens)).view(VIEWS, -1, 4).mean(1).exp().numpy()
        east, north, west, south = (walls * facing()).sum(0) / facing().sum(0)
        area = float((east + west) * (north + south))
        return Scene(name, "read", tuple(boxes), room_size=area, counts=counts)

    def answer(self, question: Question, scene: Scene) -> str:
        """A number or a letter; '' where the boxes cannot tell."""
        if question.question_type == "object_size_estimation":
            label = VSIBENCH.templates[question.question_type].read(question.question)["label"]
            return str(round(100 * scene.labelled(label)[0].point_center[0]))
        try:
            told = tasks.truth(scene, VSIBENCH, question)
        except VsrError:
            return ""
        if question.options:
            return next((option[0] for option in question.options if option[3:] == told), "")
        return told


def _box(label: str, value: dict[str, float]) -> Box:
    """An upright box along the walls; the longest side, which such a box may lack, is carried beside it."""
    center = np.array([2 * value["x"], 2 * value["y"], value["z"] + 0.5])
    half = np.array([value["reach_x"], value["reach_y"], value["half_height"]])
    longest = np.array([np.exp(value["log_longest"])] * 3)
    return Box(label, center, 2 * np.maximum(half, THINNEST), np.eye(3), point_center=longest)


def diagnose(
    base: str, bench: QuestionSet, train: QuestionSet, out: str | Path, profile: Profile, sampled: int = 240
) -> Run:
    """The run `diagnosis` of a base (a folder, or 'tiny') with `diagnosis.json`: all conditions on a bench of fresh
    rooms, and a plain SFT on `train`, the study's own training data, which measures the headroom.

    `sampled` questions are asked SAMPLES times at temperature 1. What it evaluates lies inside the run's folder.
    """
    profile = replace(profile, base=base, max_steps=PROBED_STEPS, sft_learning_rate=PROBED_RATE)
    arguments = models.arguments("base", profile)
    info = models.describe(**arguments)
    asked = {"bench": bench, "train": train}
    inputs = {name: data.questions.fingerprint() for name, data in asked.items()}
    about = {"model": info, "sampled": sampled}
    run = Run.open(out, "diagnosis", DIAGNOSE, profile, about=about, inputs=inputs, seed=profile.seed)
    if run.finished:
        return run
    loaded, rows = models.load(**arguments), {}
    for video in evaluate.VIDEOS:
        rows[video] = _rows(evaluate.evaluate(loaded, bench, "vanilla", video, profile, run.path))
    for mode in TAGGED_MODES:
        rows[mode] = _rows(evaluate.evaluate(loaded, bench, mode, "true", profile, run.path))
    rows["constant"] = _rows(evaluate.constant(bench, run.path, profile))
    rows["lookup"] = lookup(bench.questions)
    probes = Path(folders.find(base)[0].name) / "probes" / PROBES
    solver = Solver(probes)
    read = see_scenes(loaded, bench, profile, solver)
    rows["solver"] = [_row(q, solver.answer(q, read[q.scene_name])) for q in bench.questions]
    tuned = train_adapter("sft", profile, train, run.path, profile.seed)
    rows["sft"] = _rows(evaluate.evaluate(str(tuned.path), bench, "vanilla", "true", profile, run.path))
    told = report(rows, profile) | {"grounding": grounding(read, bench)}
    write_json(run.path / "diagnosis.json", told | {"samples": sample(loaded, bench, profile, sampled)})
    run.finish(device=loaded.device_name)
    return run


def report(rows: dict[str, list[dict]], profile: Profile) -> dict:
    """Scores of every condition (rows of samples.jsonl by its name), what the video is worth, what training adds."""
    told = {name: scoring.summarise(found, "official", profile.bootstrap, profile.seed) for name, found in rows.items()}
    answers = {name: scoring.answered(found) for name, found in rows.items()}

    def above(one: str, other: str, task: str = "trained") -> dict[str, float]:
        found = intervals.compare(answers[one], answers[other], task)
        error = (found.high - found.low) / (2 * Z)
        cells = {
            "points": found.value,
            "low": found.low,
            "high": found.high,
            "errors": found.value / error if error else nan,
        }
        return {key: round(value, 2) for key, value in cells.items()}

    return {
        "scenes": told["true"]["scenes"],
        "questions": told["true"]["n"],
        "parsable": told["true"]["parsable"],
        "trained": {
            name: {"score": one["trained"], "low": one["trained_low"], "high": one["trained_high"]}
            for name, one in told.items()
        },
        "tasks": {name: {task: cell["score"] for task, cell in one["tasks"].items()} for name, one in told.items()},
        "sees": {video: {task: above("true", video, task) for task in (*TRAINED, "trained")} for video in BLIND},
        "level": {mode: {task: above(mode, "true", task) for task in (*TRAINED, "trained")} for mode in TAGGED_MODES},
        "counts": above("true", "constant", "object_counting"),
        "headroom": {"sft": above("sft", "true"), "solver": above("solver", "true")},
    }


def _rows(run: Run) -> list[dict]:
    return list(read_jsonl(run.path / "samples.jsonl"))


def _row(question: Question, response: str) -> dict:
    return {**question.__dict__, "response": response, "score": score(question, response)}


def see_scenes(loaded: Loaded, bench: QuestionSet, profile: Profile, solver: Solver) -> dict[str, Scene]:
    """The rooms that the solver reads from the base's own video tokens, by scene."""
    see = FeatureCache(loaded.model, runs.data_folder() / "features", profile.frames, profile.max_pixels)
    names = dict.fromkeys(question.scene_name for question in bench.questions)
    return {name: solver.scene(see(bench.video_path(name))[0].float(), name) for name in names}


def grounding(read: dict[str, Scene], bench: QuestionSet) -> dict[str, float]:
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
    # by half of the scenes: questions by key
    groups: tuple[dict, dict] = (defaultdict(list), defaultdict(list))
    for question in questions:
        for key in _keys(question):
            groups[half[question.scene_name]][key].append(question)
    tables = [{key: _best(group) for key, group in part.items()} for part in groups]
    rows = []
    for question in questions:
        table = tables[1 - half[question.scene_name]]
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


def sample(loaded: Loaded, bench: QuestionSet, profile: Profile, count: int) -> dict:
    """Answers at temperature 1: how they `spread`, and by mode how often the tags are right."""
    see = FeatureCache(loaded.model, runs.data_folder() / "features", profile.frames, profile.max_pixels)
    rng = np.random.default_rng(profile.seed)
    chosen = [bench.questions[i] for i in rng.permutation(len(bench.questions))]
    chosen = [q for q in chosen if task_of(q.question_type) in TRAINED][:count]
    told: dict[str, dict] = {"tags": {}}
    for stage in ("evaluate", "train"):
        for mode in ("vanilla", "think", "observe"):
            texts = _ask(loaded, see, bench, chosen, mode, stage, profile)
            if mode == "vanilla":
                told[f"parsable_{stage}"] = _share(
                    readable(q.question_type, q.options, text)
                    for q, group in zip(chosen, texts, strict=True)
                    for text in group
                )
            else:
                right = (follows_format(text, mode) for group in texts for text in group)
                told["tags"][f"{stage} {mode}"] = _share(right)
            if (stage, mode) == ("evaluate", "vanilla"):
                told["spread"] = spread(chosen, texts)
    return told


def _share(flags: Iterable[float]) -> float:
    return round(100 * float(np.mean(list(flags))), 1)


def _ask(
    loaded: Loaded,
    see: FeatureCache,
    bench: QuestionSet,
    asked: list[Question],
    mode: str,
    stage: str,
    profile: Profile,
    temperature: float = 1.0,
) -> list[list[str]]:
    shown = [(question, see(bench.video_path(question.scene_name))) for question in asked]
    given = [
        seen.prompt(prompts.render(loaded.tokenizer, prompts.messages(question, mode, stage), seen.grid))
        for question, seen in shown
    ]
    longest = profile.max_new_tokens if mode == "vanilla" else profile.max_new_tokens_reasoning
    return sampled(loaded.model, loaded.tokenizer, given, longest, profile.seed, temperature=temperature)
