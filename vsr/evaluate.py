"""Model x questions -> samples.jsonl -> summary.json, greedily, a scene's questions on one pass over its video.

Answering and scoring are stages of their own: a changed scoring rule, or other bootstrap settings, score the answers
that are there again; nothing is asked twice."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vsr import models, prompts, scoring
from vsr.engine.decoding import answer_scenes
from vsr.engine.inputs import FeatureCache, Seen, digest
from vsr.errors import VsrError, unknown
from vsr.files import append_jsonl, fingerprint, read_json, read_jsonl, write_json, write_jsonl
from vsr.models import Loaded
from vsr.paper import MODES
from vsr.profiles import VIDEOS, Profile
from vsr.progress import track
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import Question, Questions, joined
from vsr.runs import Run, Settings, Stage, data_folder
from vsr.video import sample
from vsr.workers import Heart, check_time

LIMITS = {mode: "max_new_tokens" if mode == "vanilla" else "max_new_tokens_reasoning" for mode in MODES}
ANSWER = {mode: Stage("answer", 1, (*models.SETTINGS, "frames", "max_pixels", LIMITS[mode])) for mode in MODES}
CONSTANT = Stage("constant", 1, ())
SCORE = Stage("score", 1, ("bootstrap", "seed"))
TOGETHER = 8  # scenes between two writes of their answers
SAMPLES, SUMMARY = "samples.jsonl", "summary.json"


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks of a model (`info` as `Loaded.info`): `scenes` with their questions, in order, the videos
    `shown` with them (scene -> scene), by the prompts of `mode` at the paper's `stage`: 'train' for section 3.2's,
    'evaluate' for section 2's."""

    settings: Settings
    info: dict
    mode: str
    video: str
    stage: str
    scenes: dict[str, Questions]
    shown: dict[str, str]


def evaluate(
    model: Loaded | str,
    bench: QuestionSet,
    mode: str,
    video: str,
    profile: Profile,
    out: str | Path,
    limit: int | None = None,
    stage: str | None = None,
) -> Run:
    """The run `eval-<model>-<mode>-<video>` of `model` on the first `limit` questions of `bench`; `video` is 'true',
    'none' (text alone), 'shuffled' (another scene's) or 'one' (the middle frame). `stage` chooses the prompts; None:
    section 2's for a base, the profile's `trained_prompts` for a trained model.

    A name instead of a loaded model is loaded only if something is left to do (see `models.arguments`). A killed run
    continues with the first scene that was not answered in full. A missing or broken video is counted as wrong and
    reported in the summary; that no video at all can be read is an error."""
    asked = ask(model, bench, mode, video, profile, limit, stage)
    run = opened(model, bench, asked, profile, out, limit)
    if not run.finished:
        if not isinstance(model, Loaded):
            model = models.load(**models.arguments(model, asked.settings))
        facts = {"device": model.device_name, "dtype": model.info["dtype"]}  # as 'auto' found it
        close(run, **facts, **answer(model, bench, asked, run.path / SAMPLES))
    return scored(run, profile)


def opened(
    model: Loaded | str, bench: QuestionSet, asked: Asked, profile: Profile, out: str | Path, limit: int | None
) -> Run:
    """The run of an evaluation, finished or not."""
    info, mode, video = asked.info, asked.mode, asked.video
    own = asked.stage == "train" and not info["adapter_hash"]  # a base asked as training asks
    name = f"eval-{info['name']}-{mode}-{video}" + "-train-prompt" * own + (f"-first{limit}" if limit else "")
    about = {"mode": mode, "video": video, "prompts": asked.stage, "limit": limit, "model": info}
    about |= _trained(model, info)
    seed = profile.seed if video == "shuffled" else 0  # nothing else is left to chance
    inputs = _hashes(bench, asked.scenes, asked.shown)
    profile = replace(profile, quantization=info["quantization"])  # a base may be kept quantised
    return Run.open(out, name, ANSWER[mode], profile, about=about, inputs=inputs, seed=seed)


def ask(
    model: Loaded | str,
    bench: QuestionSet,
    mode: str,
    video: str,
    profile: Profile,
    limit: int | None,
    stage: str | None,
) -> Asked:
    """What an evaluation asks; nothing is loaded."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if video not in VIDEOS:
        raise unknown("video", video, VIDEOS)
    if limit is not None and limit < 1:
        raise VsrError(f"limit={limit}: ask at least 1 question, or all of them without a limit")
    settings, scenes = ANSWER[mode].view(profile), _by_scene(bench.questions[:limit])
    info = model.info if isinstance(model, Loaded) else models.describe(**models.arguments(model, settings))
    stage = stage or (profile.trained_prompts if info["adapter_hash"] else "evaluate")
    shown = shown_videos(bench, list(scenes), video, profile.seed)
    return Asked(settings, info, mode, video, stage, scenes, shown)


def _trained(model: Loaded | str, info: dict) -> dict:
    """What `about` says of the training behind a model: method, its prompt, seed, beta, budget. An adapter that no run
    of ours tells of is "unknown": it must never be taken for the base."""
    if info["adapter_hash"] is None:
        return {"method": "base"}
    folder = Path("" if isinstance(model, Loaded) else model)
    manifest = (folder.parent if folder.name == "adapter" else folder) / "manifest.json"
    training = read_json(manifest) if folder.name and manifest.is_file() else {}
    about = {"method": "unknown"} | training.get("about", {})
    kept = {key: about.get(key) for key in ("method", "beta", "budget", "ablated")}
    return kept | {"trained_mode": about.get("mode"), "train_seed": training.get("seed")}


def constant(bench: QuestionSet, out: str | Path, profile: Profile) -> Run:
    """The run `eval-constant`: for each task the one answer that scores best on these very questions."""
    scenes = _by_scene(bench.questions)
    best = scoring.best_constant(bench.questions)
    about = {"method": "constant", "constants": {task: answer for task, (answer, _) in best.items()}}
    inputs = _hashes(bench, scenes, {})
    run = Run.open(out, "eval-constant", CONSTANT, profile, about=about, inputs=inputs, seed=0)
    if not run.finished:
        constants = about["constants"]
        rows = (_row(q, constants[scoring.task_of(q.question_type)]) for q in joined(scenes.values()))
        write_jsonl(run.path / SAMPLES, rows)
        run.finish()
    return scored(run, profile)


def shown_videos(bench: QuestionSet, scenes: list[str], video: str, seed: int) -> dict[str, str]:
    """The scene whose video is shown with each scene's questions; empty for 'none'.

    'shuffled' takes the next scene in a seeded random circle over all scenes of the bench: never the scene itself."""
    if video == "none":
        return {}
    if video != "shuffled":
        return {scene: scene for scene in scenes}
    circle = sorted(scene for (scene,) in bench.questions.distinct("scene_name"))
    if len(circle) < 2:
        raise VsrError(f"video=shuffled: {bench.folder} has one scene only; it needs another scene's video")
    np.random.default_rng(seed).shuffle(circle)
    following = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return {scene: following[scene] for scene in scenes}


def _by_scene(questions: Questions) -> dict[str, Questions]:
    if (twice := questions.repeated()) is not None:
        raise VsrError(f"question id '{twice}' occurs twice; build the questions again")
    return questions.by_scene()


def _hashes(bench: QuestionSet, scenes: dict[str, Questions], shown: dict[str, str]) -> dict[str, str]:
    """Hashes of the questions and of the videos (size and first MiB of each: benchmarks have many gigabytes)."""
    videos: list[tuple] = []
    for scene, name in shown.items():
        path = bench.video_path(name)
        try:
            with path.open("rb") as file:
                videos.append((scene, name, path.stat().st_size, hashlib.sha256(file.read(2**20)).hexdigest()))
        except OSError:  # missing, or nobody may read it: its questions count as wrong
            videos.append((scene, name))
    return {"questions": joined(scenes.values()).fingerprint(), "videos": fingerprint(videos)}


def answer(loaded: Loaded, bench: QuestionSet, asked: Asked, samples: Path) -> dict:
    """Append the rows of every scene that has none yet; how fast that was."""
    done = _resume(samples, asked.scenes)
    todo = [scene for scene in asked.scenes if scene not in done]
    started, heart = time.monotonic(), Heart(samples.parent, len(done), len(asked.scenes))
    shown_as = f"{loaded.info['name']}, {asked.mode}, {asked.video} video"
    batches = [todo[at : at + TOGETHER] for at in range(0, len(todo), TOGETHER)]
    see = FeatureCache(loaded.model, data_folder() / "features", asked.settings.frames, asked.settings.max_pixels)
    whole = (rows for batch in batches for rows in _answer(loaded, bench, asked, batch, see))
    for number, rows in enumerate(track(whole, shown_as, len(todo)), len(done) + 1):
        for row in rows:
            append_jsonl(samples, row)
        heart.beat(number)
        if (number - len(done)) % TOGETHER == 0 and number < len(asked.scenes):
            check_time()
    return speed(sum(len(asked.scenes[scene]) for scene in todo), time.monotonic() - started)


def speed(questions: int, seconds: float) -> dict:
    """What the manifest says of the pace."""
    pace = round(questions / seconds, 2) if questions else None
    return {"questions_answered": questions, "questions_per_second": pace}


def _resume(samples: Path, scenes: dict[str, Questions]) -> set[str]:
    """The scenes answered in full; rows of a scene cut short by a kill are taken out of the file."""
    rows = list(read_jsonl(samples)) if samples.is_file() else []
    answered: dict[str, int] = {}
    for row in rows:
        answered[row["scene_name"]] = answered.get(row["scene_name"], 0) + 1
    done = {scene for scene, asked in scenes.items() if answered.get(scene) == len(asked)}
    if rows:
        write_jsonl(samples, (row for row in rows if row["scene_name"] in done))
    return done


def _answer(
    loaded: Loaded, bench: QuestionSet, asked: Asked, scenes: list[str], see: FeatureCache
) -> Iterator[list[dict]]:
    """The rows of each scene's questions, asked about the video that is shown with it, or about none; all scenes are
    decoded together."""
    tokenizer, settings, seen, read, missing = loaded.tokenizer, asked.settings, {}, {}, {}
    for scene in scenes:
        questions = asked.scenes[scene]
        try:
            shown = _see(bench, asked, scene, see)
        except VsrError as error:
            missing[scene] = str(error)
            continue
        chats = [prompts.messages(q, asked.mode, asked.stage, video=shown.grid is not None) for q in questions]
        asking = [prompts.render(tokenizer, chat, shown.grid, shown.stamps) for chat in chats]
        seen[scene] = (asking, shown.features, shown.grid, shown.step)
        read[scene] = [digest(loaded.model, shown.prompt(ids)) for ids in asking]
    limit, end = getattr(settings, LIMITS[asked.mode]), models.end_id(tokenizer)
    answers = answer_scenes(loaded.model, list(seen.values()), limit, end, models.suppressed(tokenizer)) if seen else []
    found = dict(zip(seen, answers, strict=True))
    for scene in scenes:
        questions, name = asked.scenes[scene], asked.shown.get(scene)
        if scene in missing:
            yield [_row(question, "", video=name, missing=missing[scene]) for question in questions]
            continue
        rows = []
        for question, answer, given in zip(questions, found[scene], read[scene], strict=True):
            facts = {"video": name, "tokens": len(answer), "truncated": end not in answer, "input": given}
            rows.append(_row(question, models.read(tokenizer, answer), **facts))
        yield rows


def _see(bench: QuestionSet, asked: Asked, scene: str, see: FeatureCache) -> Seen:
    """What is shown with a scene's questions, perhaps nothing. Errors name the video without this machine's folders."""
    if (name := asked.shown.get(scene)) is None:
        return Seen()
    path = bench.video_path(name)
    try:
        # one: the middle frame
        return see(path) if asked.video != "one" else see.look(sample(path, 3)[1:2], path.name)
    except VsrError as error:
        raise VsrError(str(error).replace(str(path), path.name)) from None


def _row(question: Question, response: str, **more: object) -> dict:
    """One line of samples.jsonl: the question, the response, its official score, and how it came about."""
    row = {**asdict(question), "response": response, "score": scoring.score(question, response), **more}
    return {key: value for key, value in row.items() if key != "pruned" or value is not None}


def close(run: Run, **facts: object) -> None:
    """Mark a run whose samples.jsonl is whole as answered; VsrError where it saw no video at all."""
    rows = list(read_jsonl(run.path / SAMPLES))
    missing = [row.get("missing") for row in rows]
    if missing and all(missing):
        raise VsrError(f"no video could be read, e.g. {missing[0]}")
    run.finish(missing=sum(map(bool, missing)), inputs_read=fingerprint([row.get("input") for row in rows]), **facts)


def scored(run: Run, profile: Profile) -> Run:
    """`run`, whose answers are whole, with a summary.json under today's scoring rules and bootstrap settings."""
    settings = SCORE.view(profile)
    mark = {"run": run.manifest["id"], "scored": [SCORE.version, settings.bootstrap, settings.seed]}
    summary = run.path / SUMMARY
    if summary.is_file() and read_json(summary).items() >= mark.items():
        return run
    rows = list(read_jsonl(run.path / SAMPLES))
    scores = scoring.score_samples(rows)
    if any(row.get("score") != score for row, score in zip(rows, scores, strict=True)):  # answered under other rules
        rows = [row | {"score": float(score)} for row, score in zip(rows, scores, strict=True)]
        write_jsonl(run.path / SAMPLES, rows)
    facts = {
        **scoring.summarise(rows, resamples=settings.bootstrap, seed=settings.seed),
        **run.manifest["settings"],
        **run.about,
        **mark,
        "missing": {
            "questions": sum(bool(row.get("missing")) for row in rows),
            "videos": {row["video"]: row["missing"] for row in rows if row.get("missing")},
        },
        "truncated": sum(bool(row.get("truncated")) for row in rows),
    }
    write_json(summary, facts)
    return run
