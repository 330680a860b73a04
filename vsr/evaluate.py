"""Model x questions -> samples.jsonl -> summary.json, greedily, a scene's questions on one pass over its video."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vsr import models, prompts, scoring
from vsr.engine.answering import answer_many
from vsr.errors import VsrError, unknown
from vsr.files import append_jsonl, atomic_write, fingerprint, hash_files, read_jsonl, write_json
from vsr.models import Loaded
from vsr.paper import MODES
from vsr.profiles import Profile
from vsr.progress import track
from vsr.questions.bench import Bench
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.video import decode, patchify
from vsr.workers.heartbeat import Heart

VIDEOS = ("true", "none", "shuffled", "one")
PACKAGE = Path(__file__).resolve().parent
SCORING_CODE = [PACKAGE / "scoring"]
CODE = [PACKAGE / f"{name}.py" for name in ("evaluate", "paper", "prompts", "video")] + [PACKAGE / "engine"]


@dataclass(frozen=True)
class Setting:
    """How questions are asked. `video` is 'true', 'none' (text alone), 'shuffled' (another scene's) or 'one' (the
    middle frame); `stage` chooses the paper's prompts: 'train' for a model with an adapter, else 'evaluate'."""

    mode: str
    video: str
    stage: str
    frames: int
    max_pixels: int
    max_new_tokens: int


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks: `scenes` with their questions, in order, the videos `shown` with them, and how."""

    setting: Setting
    scenes: dict[str, list[Question]]
    shown: dict[str, str]


def evaluate(
    model: Loaded | str,
    bench: Bench,
    mode: str,
    video: str,
    profile: Profile,
    out: str | Path,
    limit: int | None = None,
) -> Run:
    """The run `eval-<model>-<mode>-<video>` of `model` on the first `limit` questions of `bench`.

    A name instead of a loaded model is loaded only if something is left to do (see `models.arguments`). A killed run
    continues with the first scene that was not answered in full. A missing or broken video is counted as wrong and
    reported in the summary; that no video at all can be read is an error.
    """
    run, asked = opened(model, bench, mode, video, profile, out, limit)
    if run.finished:
        return run
    if not isinstance(model, Loaded):
        model = models.load(**models.arguments(model, profile))
    speed = answer(model, bench, asked, run.path / "samples.jsonl")
    close(run, profile, asked, device=model.device_name, **speed)
    return run


def opened(
    model: Loaded | str, bench: Bench, mode: str, video: str, profile: Profile, out: str | Path, limit: int | None
) -> tuple[Run, Asked]:
    """The run of an evaluation, finished or not, and what it asks."""
    info = model.info if isinstance(model, Loaded) else models.describe(**models.arguments(model, profile))
    asked = ask(info, bench, mode, video, profile, limit)
    run = Run.open(
        out,
        f"eval-{info['name']}-{mode}-{video}" + (f"-first{limit}" if limit else ""),
        settings={"model": info, **asdict(asked.setting), "limit": limit, "bootstrap": profile.bootstrap},
        inputs={
            **_data_hash(bench, asked.scenes, asked.shown),
            "code": hash_files(*CODE, *SCORING_CODE),
        },
        seed=profile.seed,
    )
    return run, asked


def ask(info: dict, bench: Bench, mode: str, video: str, profile: Profile, limit: int | None) -> Asked:
    """What an evaluation asks a model with this `info`."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if video not in VIDEOS:
        raise unknown("video", video, VIDEOS)
    setting = Setting(
        mode=mode,
        video=video,
        stage="train" if info["adapter_hash"] else "evaluate",
        frames=1 if video == "one" else profile.frames,
        max_pixels=profile.max_pixels,
        max_new_tokens=profile.max_new_tokens if mode == "vanilla" else profile.max_new_tokens_reasoning,
    )
    scenes = _by_scene(bench.questions[:limit])
    return Asked(setting, scenes, shown_videos(bench, list(scenes), video, profile.seed))


def constant(bench: Bench, out: str | Path, profile: Profile) -> Run:
    """The run `eval-constant`: for each task the one answer that scores best on these very questions."""
    scenes = _by_scene(bench.questions)
    inputs = {**_data_hash(bench, scenes, {}), "code": hash_files(*SCORING_CODE)}
    run = Run.open(out, "eval-constant", settings={"bootstrap": profile.bootstrap}, inputs=inputs, seed=profile.seed)
    if run.finished:
        return run
    best = scoring.best_constant(bench.questions)
    samples = run.path / "samples.jsonl"
    samples.unlink(missing_ok=True)
    for question in (question for asked in scenes.values() for question in asked):
        answer, _ = best[scoring.task_of(question.question_type)]
        append_jsonl(samples, _row(question, answer))
    _close(run, profile, {"model": {"name": "constant"}, "constants": {task: pair[0] for task, pair in best.items()}})
    return run


def shown_videos(bench: Bench, scenes: list[str], video: str, seed: int) -> dict[str, str]:
    """The scene whose video is shown with each scene's questions; empty for 'none'.

    'shuffled' takes the next scene in a seeded random circle over all scenes of the bench: never the scene itself.
    """
    if video == "none":
        return {}
    if video != "shuffled":
        return {scene: scene for scene in scenes}
    circle = sorted({question.scene_name for question in bench.questions})
    if len(circle) < 2:
        raise VsrError(f"video=shuffled: {bench.folder} has one scene only; it needs another scene's video")
    np.random.default_rng(seed).shuffle(circle)
    following = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return {scene: following[scene] for scene in scenes}


def _by_scene(questions: tuple[Question, ...]) -> dict[str, list[Question]]:
    scenes: dict[str, list[Question]] = {}
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            raise VsrError(f"question id '{question.id}' occurs twice; build the questions again")
        ids.add(question.id)
        scenes.setdefault(question.scene_name, []).append(question)
    return scenes


def _data_hash(bench: Bench, scenes: dict[str, list[Question]], shown: dict[str, str]) -> dict[str, str]:
    """Hashes of the questions and of the videos (size and first MiB of each: benchmarks have many gigabytes)."""
    questions = [asdict(question) for asked in scenes.values() for question in asked]
    videos: list[tuple] = []
    for scene, name in shown.items():
        path = bench.video_path(name)
        if not path.is_file():
            videos.append((scene, name))
            continue
        with path.open("rb") as file:
            videos.append((scene, name, path.stat().st_size, hashlib.sha256(file.read(2**20)).hexdigest()))
    return {"questions": fingerprint(questions), "videos": fingerprint(videos)}


def answer(loaded: Loaded, bench: Bench, asked: Asked, samples: Path) -> dict:
    """Append the rows of every scene that has none yet; how fast that was."""
    done, setting = _resume(samples, asked.scenes), asked.setting
    todo = [scene for scene in asked.scenes if scene not in done]
    started, heart = time.monotonic(), Heart(samples.parent, len(done), len(asked.scenes))
    shown_as = f"{loaded.info['name']}, {setting.mode}, {setting.video} video"
    for number, scene in enumerate(track(todo, shown_as), len(done) + 1):
        for row in _answer_scene(loaded, bench, asked.scenes[scene], asked.shown.get(scene), setting):
            append_jsonl(samples, row)
        heart.beat(number)
    return speed(sum(len(asked.scenes[scene]) for scene in todo), time.monotonic() - started)


def speed(questions: int, seconds: float) -> dict:
    """What the manifest says of the pace."""
    return {
        "questions_answered": questions,
        "questions_per_second": round(questions / seconds, 2) if questions else None,
    }


def _resume(samples: Path, scenes: dict[str, list[Question]]) -> set[str]:
    """The scenes answered in full; rows of a scene cut short by a kill are taken out of the file."""
    if not samples.is_file():
        return set()
    rows = list(read_jsonl(samples))
    answered: dict[str, int] = {}
    for row in rows:
        answered[row["scene_name"]] = answered.get(row["scene_name"], 0) + 1
    done = {scene for scene, asked in scenes.items() if answered.get(scene) == len(asked)}
    atomic_write(
        samples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["scene_name"] in done)
    )
    return done


def _answer_scene(
    loaded: Loaded, bench: Bench, questions: list[Question], name: str | None, setting: Setting
) -> list[dict]:
    """The rows of one scene's questions, asked about the video of the scene `name`, or about none."""
    pixels = grid = None
    if name is not None:
        try:
            pixels, grid = patchify(_frames(bench, name, setting), setting.max_pixels)
        except VsrError as error:
            return [_row(question, "", video=name, missing=str(error)) for question in questions]
    tokenizer, end = loaded.tokenizer, models.end_id(loaded.tokenizer)
    chats = [prompts.messages(q, setting.mode, setting.stage, video=grid is not None) for q in questions]
    answers = answer_many(
        loaded.model,
        pixels,
        grid,
        [prompts.render(tokenizer, chat, grid) for chat in chats],
        setting.max_new_tokens,
        end,
        models.suppressed(tokenizer),
    )
    return [
        _row(question, models.read(tokenizer, answer), video=name, tokens=len(answer), truncated=end not in answer)
        for question, answer in zip(questions, answers, strict=True)
    ]


def _frames(bench: Bench, name: str, setting: Setting) -> np.ndarray:
    """The frames to show, uint8 (T, H, W, 3); errors name the video without the machine's folders."""
    path = bench.video_path(name)
    try:
        return decode(path, 3)[1:2] if setting.video == "one" else decode(path, setting.frames)
    except VsrError as error:
        raise VsrError(str(error).replace(str(path), path.name)) from None


def _row(question: Question, response: str, **more: object) -> dict:
    """One line of samples.jsonl: the question, the response, its official score, and how it came about."""
    row = {**asdict(question), "response": response, "score": scoring.score(question, response), **more}
    return {key: value for key, value in row.items() if key != "pruned" or value is not None}


def close(run: Run, profile: Profile, asked: Asked, **manifest: object) -> None:
    """Write the summary of a run whose samples.jsonl is whole, and mark it complete."""
    _close(run, profile, {"model": run.manifest["settings"]["model"], **asdict(asked.setting)}, **manifest)


def _close(run: Run, profile: Profile, facts: dict, **manifest: object) -> None:
    """Write the summary and mark the run complete."""
    rows = list(read_jsonl(run.path / "samples.jsonl"))
    missing = {row["video"]: row["missing"] for row in rows if row.get("missing")}
    if missing and all(row.get("missing") for row in rows):
        raise VsrError(f"no video could be read, e.g. {next(iter(missing.values()))}")
    summary = {
        **scoring.summarise(rows, resamples=profile.bootstrap, seed=profile.seed),
        **facts,
        "run": run.manifest["id"],
        "missing": {"questions": sum(bool(row.get("missing")) for row in rows), "videos": missing},
        "truncated": sum(bool(row.get("truncated")) for row in rows),
    }
    write_json(run.path / "summary.json", summary)
    run.finish(overall=summary["overall"], missing=summary["missing"]["questions"], **manifest)
