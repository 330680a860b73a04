"""A copy of ScanNet -> VSI-100k (paper, section 3.1), or VSI-Bench's tasks on other scans: `vsr build scannet`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsr import paper
from vsr.errors import VsrError
from vsr.files import fingerprint, read_text
from vsr.questions import leak
from vsr.questions import rules as rule_sets
from vsr.questions.build import build, rejected, write
from vsr.questions.question import Question
from vsr.scannet.files import NAME, TABLE, Labels, find_scans, read_labels, scan_files
from vsr.scannet.scans import KEPT, as_scene, errors_of, load, read_all
from vsr.scannet.sens import export_video
from vsr.scenes.scene import save_scenes


@dataclass(frozen=True)
class Plan:
    """What a build will read."""

    root: Path
    folders: dict[str, Path]  # the scans by id, sorted
    left_out: tuple[str, ...]  # kept out of training by the leak guard
    warning: str | None  # set if such scans were let in
    split: str


def plan(
    root: str | Path, listed: str | Path | None = None, *, split: str = "train", paper_scenes: bool = False
) -> Plan:
    """The scans of a ScanNet copy that a build reads: all of them, or those of a list of ids.

    For training (`split` 'train') rooms of VSI-Bench are left out of "all of them", and a list that names one is
    refused; `paper_scenes` lets them in with a warning. For a bench anything goes.
    """
    root = Path(root)
    folders = find_scans(root)
    if listed is not None:
        names = _read_list(Path(listed))
        folders = {name: folders.get(name, root / "scans" / name) for name in sorted(names)}
    if split != "train":
        return Plan(root, folders, (), None, split)
    left_out: tuple[str, ...] = ()
    if listed is None and not paper_scenes:
        left_out = tuple(leak.leaked(folders))
        folders = {name: folder for name, folder in folders.items() if name not in set(left_out)}
        if not folders:
            raise VsrError(f"{root}: all its scans show rooms of VSI-Bench; {leak.REMEDY}")
    warning = leak.check(folders, listed or root, allowed=paper_scenes)
    return Plan(root, folders, left_out, warning, split)


def _read_list(path: Path) -> list[str]:
    """The ids of a split file, one a line."""
    text = read_text(path, "ScanNet's splits are scannetv2_train.txt and scannetv2_val.txt")
    seen: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, text.split("\n")), 1):
        if name and not NAME.fullmatch(name):
            raise VsrError(f"{path}, line {number}: '{name}' is no scan id such as scene0000_00")
        if name and seen.setdefault(name, number) != number:
            raise VsrError(f"{path}, line {number}: {name} is also in line {seen[name]}; list each scan once")
    if not seen:
        raise VsrError(f"{path}: lists no scans")
    return list(seen)


def dry_run(chosen: Plan, labels: str | Path | None = None) -> str:
    """What a build would read and what is missing for it, as text; nothing is read or written."""

    def some(names: Sequence[str]) -> str:
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

    lacking, unaligned, silent = [], [], []
    for name, folder in chosen.folders.items():
        files = scan_files(folder)
        missing = files.missing() if folder.is_dir() else ["the folder"]
        if missing:
            lacking.append(f"  {name}: {', '.join(missing)} missing")
        unaligned += [name] * (files.info is None)
        silent += [name] * (files.video is None)
    table = Path(labels) if labels else chosen.root / TABLE
    lines = [f"{chosen.root}: {len(chosen.folders)} scans to read, {len(lacking)} of them incomplete"]
    lines += lacking
    if chosen.left_out:
        lines.append(f"left out, rooms of VSI-Bench: {len(chosen.left_out)} scans ({some(chosen.left_out)})")
    if unaligned:
        lines.append(f"without <id>.txt, will be left as scanned: {len(unaligned)} ({some(unaligned)})")
    if silent:
        lines.append(f"without a video (.sens, .mp4, .avi or color/): {len(silent)} ({some(silent)})")
    lines += [f"label table {table}: {'there' if table.is_file() else 'missing; --rules vsibench needs it'}"]
    return "\n".join([*lines, *([f"warning: {chosen.warning}"] if chosen.warning else [])])


def build_scans(
    out: str | Path,
    chosen: Plan,
    rules: str = "vsi100k",
    *,
    seed: int = 0,
    labels: str | Path | None = None,
    workers: int = 1,
    paper_counts: bool = False,
    videos: bool = False,
    strict: bool = False,
) -> dict[str, str]:
    """questions.jsonl and .parquet, scenes.jsonl, manifest.json and a dataset card in the folder `out`, from the scans
    of a plan; the errors by scan id of those that could not be read.

    Every scan that was read is kept, so that a killed build goes on, to the same bytes as without the break.
    `paper_counts` keeps a random part of each task, as many as the paper counts. An error if no scan could be read,
    or, if `strict`, any could not.
    """
    out = Path(out)
    for leftover in out.rglob(".*.tmp") if out.is_dir() else ():
        leftover.unlink()
    # the paper's rules keep the annotators' words and need no table
    table = read_labels(labels or chosen.root / TABLE) if labels or rules != "vsi100k" else {}
    failed = read_all(chosen.folders, out / KEPT, workers)
    failed = {name: error.replace(f"{chosen.root}/", "") for name, error in failed.items()}
    good = [name for name in chosen.folders if name not in failed]
    if videos:
        films = [(name, chosen.folders[name], out / "videos" / f"{name}.mp4") for name in good]
        films = [film for film in films if not film[2].is_file()]
        failed |= errors_of(_export, films, workers, "videos")
    if not good or (strict and failed):
        raise VsrError(f"{len(failed)} of {len(chosen.folders)} scans could not be read:\n{summary(failed)}")
    ask(out, chosen, good, failed, rules, table, seed, paper_counts)
    return failed


def ask(
    out: Path,
    chosen: Plan,
    good: Sequence[str],
    failed: dict[str, str],
    rules: str,
    table: Labels,
    seed: int,
    paper_counts: bool,
) -> None:
    """The second half of a build: questions, scenes, manifest and card from the scans kept in `out`."""
    scenes, hashes, notes = [], [], {}
    for name in good:
        scan, content = load(out / KEPT, name)
        scenes.append(as_scene(scan, rules, table))
        hashes.append([name, content])
        unknown = sorted({*scan.scene.counts} - {*table}) if table else []
        if remarks := [*scan.notes, *(f"label '{label}' is not in the label table" for label in unknown)]:
            notes[name] = remarks
    questions = build(scenes, rules, seed)
    by_scene: dict[str, list[Question]] = {scene.id: [] for scene in scenes}
    for question in questions:
        by_scene[question.scene_name].append(question)
    rule_set, left_out = rule_sets.get(rules), Counter()
    for scene in scenes:
        left_out += rejected(scene, rule_set, by_scene[scene.id])
    reasons: dict[str, dict[str, int]] = {}
    for (kind, why), number in sorted(left_out.items()):
        reasons.setdefault(kind, {})[why] = number
    available = Counter(question.question_type for question in questions)
    if paper_counts:
        questions = _thin(questions, seed)
    save_scenes(out / "scenes.jsonl", scenes)
    write(
        out,
        questions,
        rules,
        seed,
        source="ScanNet v2, raw scans",
        split=chosen.split,
        warning=chosen.warning,
        inputs=fingerprint(hashes),
        left_out=list(chosen.left_out),
        failed=failed,
        notes=notes,
        available=dict(available),
        rejected=reasons,
    )


def summary(failed: dict[str, str]) -> str:
    """One line a scan that could not be read."""
    return "\n".join(f"  {name}: {error}" for name, error in failed.items())


def _thin(questions: Sequence[Question], seed: int) -> list[Question]:
    """At most the paper's number of questions a task, drawn at random; their order stays."""
    kept: set[int] = set()
    for number, part in enumerate(paper.VSI_100K):
        places = [i for i, question in enumerate(questions) if question.question_type == part.task]
        limit = round(1000 * float(part.samples.removesuffix("k")))
        drawn = np.random.default_rng([seed, number]).permutation(len(places))[:limit]
        kept.update(places[i] for i in drawn)
    return [question for i, question in enumerate(questions) if i in kept]


def _export(task: tuple[str, Path, Path]) -> tuple[str, str]:
    name, folder, target = task
    files = scan_files(folder)
    try:
        if files.video is None:
            raise VsrError(f"no video: none of {name}.sens, {name}.mp4, {name}.avi and color/ is there")
        export_video(files.video, target)
    except (VsrError, OSError) as error:
        return name, str(error).replace(f"{folder}/", f"{name}/")
    return name, ""
