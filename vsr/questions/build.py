"""Scenes -> questions: chosen so that no constant answer scores well, in an order that only the seed decides."""

import io
import json
import zlib
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import DatasetCardData
from pyarrow import parquet

from vsr import markdown
from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint, hash_files, read_json, write_json
from vsr.progress import track
from vsr.questions import rules as rule_sets
from vsr.questions import tasks
from vsr.questions.held_out import BEYOND_BOXES, first_seen
from vsr.questions.question import FIELDS, FREE_DIRECTION, Draft, Question, Questions, write_questions
from vsr.questions.rules import Rules
from vsr.runs import come_back, differences, step_aside
from vsr.scenes.geometry import turn_angle
from vsr.scenes.scene import Box, Scene, save_scenes, to_row

if TYPE_CHECKING:
    from vsr.miniature.procedural import World

VERSION = 1  # of what a build makes: raise it when the same settings give other rooms, videos or questions
LETTERS = "ABCD"
SIZES = ((0, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K"), (100_000, "100K<n<1M"))  # as the hub says
POOL = 24  # candidates looked at for each question asked
# Questions on one room's video under `vsibench`: about VSI-Bench's own mean per scene. Its caps are the most it has.
PER_ROOM = {
    "object_counting": 1,
    "object_size_estimation": 3,
    "object_abs_distance": 3,
    "object_rel_distance": 2,
    "object_rel_direction_easy": 1,
    "object_rel_direction_medium": 1,
    "object_rel_direction_hard": 1,
}


def build(
    scenes: Sequence[Scene],
    rules: str | Rules = "vsibench",
    seed: int = 0,
    *,
    first_seen: Mapping[str, Mapping[str, float]] | None = None,
    per_scene: Mapping[str, int | None] | None = None,
) -> list[Question]:
    """The questions of all scenes, scene by scene, type by type.

    `per_scene` replaces the rule set's caps for some types; `first_seen` maps scene ids to the seconds at which
    categories come into view, without which no appearance order is asked. Among the candidates of a scene those are
    taken whose answers were rarest so far, and letters of right options are equally frequent.
    """
    rule_set = rule_sets.get(rules) if isinstance(rules, str) else rules
    caps = {**rule_set.caps, **(per_scene or {})}
    strange = set(caps) - set(rule_set.templates)
    if strange:
        raise VsrError(f"per_scene: {rule_set.name} has no questions of type '{min(strange)}'")
    for name, times in Counter(scene.id for scene in scenes).items():
        if times > 1:
            raise VsrError(f"scene {name} is given {times} times; question ids need each scene once")
    used: Counter = Counter()
    questions = []
    for scene in scenes:
        seen = (first_seen or {}).get(scene.id)
        for kind in rule_set.templates:
            # a generator for each scene and type: adding a scene or a task changes no other question's draws
            rng = np.random.default_rng([seed, zlib.crc32(f"{scene.id} {kind}".encode())])
            chosen = _choose(tasks.drafts(kind, scene, rule_set, rng, seen), caps[kind], used)
            for number, draft in enumerate(chosen):
                questions.append(_question(draft, scene, f"{scene.id}-{kind}-{number}", used, rng))
    return questions


def _choose(candidates: Iterator[Draft], cap: int | None, used: Counter) -> list[Draft]:
    """All candidates, or at most `cap` of them, those with the rarest answers first."""
    if cap is None:
        return list(candidates)
    # a pool, not all candidates: a room has thousands of triples, and looking for the rarest answer tests each
    pool, chosen = list(islice(candidates, cap * POOL)), []
    while pool and len(chosen) < cap:
        draft = min(pool, key=lambda draft: used[draft.question_type, draft.balance])
        pool = [other for other in pool if other.question != draft.question]  # a route may be drawn twice
        chosen.append(draft)
        used[draft.question_type, draft.balance] += 1
    return chosen


def _question(draft: Draft, scene: Scene, name: str, used: Counter, rng: np.random.Generator) -> Question:
    text, options, truth = draft.question, None, draft.answer
    if draft.choices:
        # the right option's letter is the one that was right least often, at random among equals
        kind, letters = draft.question_type, LETTERS[: len(draft.choices)]
        rarest = min(used[kind, len(letters), letter] for letter in letters)
        truth = str(rng.choice([letter for letter in letters if used[kind, len(letters), letter] == rarest]))
        used[kind, len(letters), truth] += 1
        choices = [choice for choice in rng.permutation(draft.choices) if choice != draft.answer]
        choices.insert(letters.index(truth), draft.answer)
        text = text.replace("{options}", ", ".join(choices))
        options = tuple(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return Question(name, scene.dataset, scene.id, draft.question_type, text, options, truth)


def rejected(scene: Scene, rules: Rules, questions: Iterable[Question]) -> Counter:
    """What a build did not ask: the candidates of one scene that its questions leave out, how many by (question type,
    reason)."""
    asked = Counter(question.question_type for question in questions)
    found = {*scene.counts, *(box.label for box in scene.objects)}
    once = tasks.once(scene, rules)
    number, labels, ignored = len(once), len(found - rules.ignored), len(found & rules.ignored)
    left: Counter = Counter()

    def leave(kind: str, why: str, candidates: int, capped: bool = False) -> None:
        if capped and rules.caps[kind] is not None:
            why += f", or more than {rules.caps[kind]} in the scene"
        left[kind, why] = candidates

    nothing, counts, sizes = "no object: wall, floor and the like", "object_counting", "object_size_estimation"
    leave(counts, nothing, ignored)
    leave(counts, "occurs once", labels - asked[counts])
    leave(sizes, nothing, ignored)
    leave(sizes, "occurs several times, or has no box", labels - asked[sizes])
    leave("room_size_estimation", "area unknown", 1 - asked["room_size_estimation"])
    kind, least = "object_abs_distance", tasks.LEAST_PAPER if rules.centres else tasks.LEAST
    leave(kind, f"nearer than {least} m", number * (number - 1) // 2 - asked[kind], capped=True)
    kind, sets = "object_rel_distance", (1 if rules.centres else tasks.ROUNDS) * number
    why = f"fewer than {tasks.OPTIONS} others at clearly different distances"
    leave(kind, why, sets - asked[kind], capped=True)
    for kind in set(tasks.DIRECTION_TYPES) & set(rules.templates):
        free = kind == FREE_DIRECTION
        unclear = _unclear(once) if free else 0
        leave(kind, f"within {tasks.MARGIN:g} degrees of straight ahead or behind", unclear)
        triples = number * (number - 1) * (number - 2)
        leave(kind, "not drawn" if free else "ambiguous", triples - unclear - asked[kind], capped=True)
    return +left


def _unclear(once: list[Box]) -> int:
    """Ordered triples where left or right could be argued about."""
    triples = np.array(list(permutations(range(len(once)), 3)), dtype=int).reshape(-1, 3)
    if not len(triples):
        return 0
    middles = np.array([box.middle for box in once])
    aside = turn_angle(*(middles[column] for column in triples.T)) % 180
    return int(np.count_nonzero(np.minimum(aside, 180 - aside) < tasks.MARGIN))


def write(folder: str | Path, questions: Sequence[Question], rules: str, seed: int, **facts: object) -> None:
    """questions.jsonl, the same as questions.parquet, the hub's card as README.md, and manifest.json with counts,
    hashes and further `facts`."""
    folder, table = Path(folder), io.BytesIO()
    if not questions:
        raise VsrError(f"{folder}: the scenes allow no question under {rules}; do labels occur once in them?")
    write_questions(folder / "questions.jsonl", questions)
    parquet.write_table(Questions.of(questions).table.select(list(FIELDS)), table)
    atomic_write(folder / "questions.parquet", table.getvalue())
    manifest = {
        "rules": rules,
        "seed": seed,
        "version": VERSION,
        "scenes": len({question.scene_name for question in questions}),
        "questions": len(questions),
        "tasks": dict(Counter(question.question_type for question in questions)),
        "hashes": {name: hash_files(folder / name) for name in ("questions.jsonl", "questions.parquet")},
        **facts,
    }
    atomic_write(folder / "README.md", card(manifest))
    write_json(folder / "manifest.json", manifest)


def card(manifest: Mapping) -> str:
    """A data set's card for the hub, by which `datasets.load_dataset(folder)` too finds table and split."""
    name, number, rooms = f"Questions under the rules {manifest['rules']}", manifest["questions"], "world" in manifest
    place = bisect([bound for bound, _ in SIZES], number)
    split = "train" if manifest.get("split", "train") == "train" else "test"
    data = DatasetCardData(
        pretty_name=name,
        language="en",
        license="apache-2.0" if rooms else "other",  # scans and videos of others stay under their terms
        task_categories=["video-text-to-text"],
        size_categories=SIZES[place - 1][1],
        configs=[{"config_name": "default", "data_files": [{"split": split, "path": "questions.parquet"}]}],
    )
    source = manifest.get("source") or ("rendered rooms" if rooms else "annotated scenes")
    caution = f"> **Warning:** {manifest['warning']}.\n\n" if manifest.get("warning") else ""
    about = f"{number} questions about {manifest['scenes']} scenes ({source}), seed {manifest['seed']}. The fields are "
    table = markdown.table(("question type", "questions"), manifest["tasks"].items())
    return f"---\n{data.to_yaml()}\n---\n# {name}\n\n{caution}{about}VSI-Bench's.\n\n{table}"


def build_rooms(
    folder: str | Path,
    split: str,
    number: int,
    rules: str = "vsibench",
    *,
    world: "World | None" = None,
    seed: int = 0,
    held_out: tuple[int, int] = (1, 2),
) -> Path:
    """The first `number` rooms of a split as scenes.jsonl, videos/<scene>.mp4 and questions.

    Nothing is done if the folder is complete and of these settings and this VERSION; an interrupted one is continued,
    one of other settings steps aside to `earlier/` and comes back when it is asked for again. `held_out` is the most of
    route planning and appearance order in a room of `bench` and `fresh`; `world` defaults to the study's rooms. Their
    videos last seconds where VSI-Bench's last minutes, so first appearances need to be one frame apart, not one second;
    closest points do not hang on rounding (`Rules.rim`).
    """
    from vsr.miniature import procedural

    folder, world = Path(folder), world or procedural.STUDY
    held_out = held_out if split in ("bench", "fresh") else (1, 2)
    per_scene = PER_ROOM | dict(zip(BEYOND_BOXES, held_out, strict=True)) if rules == "vsibench" else {}
    rule_set = replace(rule_sets.get(rules), order_gap=0.5 / world.fps, rim=True)
    settings = {"split": split, "rooms": number, "world": asdict(world), "per_scene": per_scene}
    numbers = procedural.seeds(split, number)
    about = {"rules": rules, "seed": seed, "version": VERSION, **settings}
    about["fingerprint"] = fingerprint(about)
    if _claimed(folder, about):
        return folder
    scenes, seen = [], {}
    for room in track(numbers, f"{split} rooms"):
        scene = procedural.make_room(room, world)
        scenes.append(scene)
        seen[scene.id] = _film(folder / "videos", scene, world)
    save_scenes(folder / "scenes.jsonl", scenes)
    write(folder, build(scenes, rule_set, seed, first_seen=seen, per_scene=per_scene), **about)
    return folder


def _claimed(folder: Path, about: dict) -> bool:
    """Make the folder that of `about`: what else is in it steps aside. Whether nothing is left to do."""
    manifest, mark = folder / "manifest.json", about["fingerprint"]
    found = read_json(manifest) if manifest.is_file() else {}
    if found and found.get("fingerprint") != mark:  # never deleted: an hour of filming may be in it
        now = json.loads(json.dumps(about))  # tuples become lists, as in the manifest
        settings = [{name: one.get(name) for name in about if name != "fingerprint"} for one in (found, now)]
        why = "; ".join(differences(*({"settings": one, **one} for one in settings)))
        step_aside(folder, str(found.get("fingerprint", "unnamed")), why)
    if not folder.exists():
        come_back(folder, mark)
    found = read_json(manifest) if manifest.is_file() else {}
    if not found:
        write_json(manifest, about)  # from now on the folder is known to be of these settings, finished or not
    if "hashes" not in found or not all((folder / name).is_file() for name in ("questions.jsonl", "scenes.jsonl")):
        return False
    videos = len(list((folder / "videos").glob("*.mp4")))
    return found["hashes"]["questions.jsonl"] == hash_files(folder / "questions.jsonl") and videos >= found["rooms"]


def _film(folder: Path, scene: Scene, world: "World") -> dict[str, float]:
    """Make the room's video unless it is there; returns when each category first comes into view."""
    from vsr.miniature.render import render_mp4

    video, note = folder / f"{scene.id}.mp4", folder / f"{scene.id}.json"
    mark = fingerprint([to_row(scene), world.width, world.height, world.fps, VERSION])
    if video.is_file() and note.is_file():
        known = read_json(note)
        if known.get("fingerprint") == mark and known.get("video") == hash_files(video):
            return known["first_seen"]
    frames = render_mp4(scene, video, world.width, world.height, world.fps)
    seen = first_seen(scene, frames.ids, world.fps)
    write_json(note, {"fingerprint": mark, "video": hash_files(video), "first_seen": seen})
    return seen


def describe(folder: str | Path) -> str:
    """One line on what a built folder holds."""
    if not (path := Path(folder) / "manifest.json").is_file():
        return f"{Path(folder).name}: as downloaded, not built here"
    manifest = read_json(path)
    tasks_ = ", ".join(f"{kind} {count}" for kind, count in sorted(manifest["tasks"].items()))
    return f"{manifest['questions']} questions on {manifest['scenes']} scenes under {manifest['rules']} ({tasks_})"
