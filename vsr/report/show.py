"""What the notebooks display: settings, questions, answers, scores, verdicts and where numbers come from."""

import base64
import dataclasses
import inspect
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from math import exp, isnan
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from huggingface_hub import ModelCard
from IPython.display import HTML, Markdown, display

from vsr import markdown, profiles, runs, video
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl
from vsr.paper import TASKS
from vsr.profiles import Profile
from vsr.questions import dataset
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import FREE_DIRECTION, TYPES, Question
from vsr.report import claims, styled, tables, training_logs
from vsr.report.declared import DECLARED
from vsr.report.styled import Scores
from vsr.scoring import task_of
from vsr.scoring.intervals import Value

if TYPE_CHECKING:
    from vsr.train.one_group import OneGroup


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Any rows as a table: fractions with four digits, labels on one line, intervals in small type."""
    return Markdown(markdown.table(header, [map(styled.small, (styled.label(first), *rest)) for first, *rest in rows]))


def from_markdown(text: str) -> Markdown:
    """What the command line prints as Markdown, its tables for eyes."""
    parts = []
    for in_table, group in groupby(text.splitlines(), key=lambda line: line.startswith("| ")):
        lines = list(group)
        if in_table:
            header, _, *rows = ([cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")] for line in lines)
            if len(header) > 10:  # a page is not wider: rows become columns
                header, *rows = zip(header, *rows, strict=True)
            lines = table(header, rows).data.splitlines()
        parts += lines
    return Markdown("\n".join(parts))


def report(made: tables.Table) -> None:
    """A table of the report: scores by task as a heat map, differences apart; its notes, its runs on a click."""
    for view in styled.views(made):
        display(view)
    sources = "".join(f"- {row.label}{', ' * bool(row.mode)}{row.mode}: `{row.source}`\n" for row in made.rows)
    notes = "Bold: the highest of its block, however wide its interval. " + " ".join(made.notes)
    display(Markdown(f"<small>{notes}</small>\n\n{markdown.folded('Rows come from', sources)}"))


def ledger(results: Path, *numbers: int) -> Markdown:
    """The ledger's lines (all, or some claims): the verdict and what was found; on a click what was declared."""
    rows, runs = [], []
    for entry in (entry for entry in claims.ledger(results) if not numbers or entry.claim.number in numbers):
        number, plan = entry.claim.number, DECLARED[entry.claim.number]
        told = [plan.outcome, f"worth having: {plan.least}", *([f"gate: {plan.gate}"] if plan.gate else [])]
        printed = f"{entry.claim.figure} ({entry.claim.where})".replace("<", "&lt;")
        claim = f"{entry.claim.text}<br><small>paper: {printed}</small><br>**{entry.verdict}**"
        claim += f"<br><small>{entry.note}</small>" * bool(entry.note)
        claim += f"<details><summary>declared before the runs</summary>{'<br>'.join(told)}</details>"
        found = []
        for one in entry.findings:
            power = "" if isnan(one.effect.detectable) else f" <small>detectable {one.effect.detectable:.1f}</small>"
            found.append(f"• {styled.small(claims.describe(one))}{power}")
        rows.append((number, claim, "<br>".join(found) or "–"))
        runs += [f"- claim {number}: {', '.join(f'`{run}`' for run in entry.runs)}\n"] * bool(entry.runs)
    body = markdown.table(("", "claim and verdict", "ours"), rows)
    return Markdown(f"{body}\n{claims.scope(results.name)}\n\n{claims.HOW}\n{markdown.folded('Runs', ''.join(runs))}")


def anchors() -> Scores:
    """The paper's rows beside what needs no video."""
    heads = {"overall": "avg"} | TASKS
    blind, gemini, *printed = claims.anchored()
    rows = []
    for row in (blind, gemini, *printed):
        under = sum(score < least for score, least in zip(row.scores, blind.scores, strict=True))
        values = dict(zip(heads, map(Value, (row.average, *row.scores)), strict=True))
        rows.append((f"{row.backbone} {row.method} <small>{under} below the first</small>", values))
    return Scores("The paper's rows beside what needs no video", heads, {"": rows}, heads)


def _quoted(text: str) -> str:
    """Text as a model wrote it; that it wrote nothing is said."""
    return f"`{text}`" if text.strip() else "*empty*"


def settings(profile: Profile, *names: str) -> Markdown:
    """The profile's settings (all, or some by name) with the source of each."""
    sources = profiles.sources(profile.name)
    chosen = names or [field.name for field in dataclasses.fields(profile)]
    rows = table(("setting", "value", "source"), [(f"`{n}`", getattr(profile, n), sources[n]) for n in chosen])
    return rows if names else Markdown(markdown.folded(f"All {len(chosen)} settings", rows.data))


def one_of_each(questions: Iterable[Question]) -> list[Question]:
    """The first question of every type, in the official order of types."""
    first = {question.question_type: question for question in reversed(list(questions))}
    return [first[kind] for kind in (*TYPES, FREE_DIRECTION) if kind in first]


def questions(asked: Iterable[Question]) -> Markdown:
    """Questions with their options and true answers."""
    rows = [(q.question_type, q.question, " · ".join(q.options or ()), q.ground_truth) for q in asked]
    return table(("task", "question", "options", "truth"), rows)


def counts(rows: Iterable[Question]) -> Counter[str]:
    """How many questions there are of each type."""
    return Counter(question.question_type for question in rows)


def answers(samples: dict[str, Iterable[dict]], number: int = 8) -> Markdown:
    """The same questions under several conditions side by side: the first of each type, up to `number`."""
    by_id = [{row["id"]: row for row in rows} for rows in samples.values()]
    first: dict[str, tuple] = {}
    for name, row in by_id[0].items():
        if all(name in rows for rows in by_id):
            said = (_quoted(rows[name]["response"]) for rows in by_id)
            first.setdefault(row["question_type"], (row["question_type"], row["ground_truth"], *said))
    return table(("task", "truth", *samples), list(first.values())[:number])


def completions(runs_: dict[str, list[dict]]) -> Markdown:
    """The kept rollouts of the first and last step of each run, with what they earned."""
    rows = []
    for name, kept in runs_.items():
        ends = {min(row["step"] for row in kept), max(row["step"] for row in kept)}
        for r in (row for row in kept if row["step"] in ends):
            earned = f"{r['reward']:.2f}", f"{r['advantage']:+.2f}"
            rows.append((name, r["step"], r["truth"], _quoted(r["completion"]), *earned))
    return table(("run", "step", "truth", "rollout", "reward", "advantage"), rows)


def source(*functions: object) -> Markdown:
    """The package's own code, as it runs."""
    return Markdown("\n".join(f"```python\n{inspect.getsource(one)}```\n" for one in functions))


def group(made: "OneGroup") -> Markdown:
    """A group's rollouts, the most rewarded first: rewards, advantage, log-probability before and after the update."""
    before, after = (((logps * made.mask).sum(1)).tolist() for logps in (made.before, made.after))
    rows = []
    for i in sorted(range(len(made.texts)), key=lambda i: -made.advantages[i]):
        earned = [f"{part:.2f}" for part in (*made.rewards[i].tolist(), made.total[i].item())]
        numbers = f"{made.advantages[i].item():+.2f}", f"{before[i]:.2f}", f"{after[i]:.2f}"
        rows.append(
            (_quoted(made.texts[i]), len(made.tokens[i]), *earned, *numbers, f"× {exp(after[i] - before[i]):.2f}")
        )
    names = [name.removesuffix("_reward") for name in made.names]
    head = ("rollout", "tokens", *names, "reward", "advantage", "log p before", "after", "probability")
    return table(head, rows)


CONDITIONS = {  # of a base's diagnosis, in the order they are shown
    "true": "true video",
    "think": "true video, think prompt",
    "observe": "true video, observe prompt",
    "one": "one frame",
    "shuffled": "shuffled video",
    "none": "no video",
    "constant": "best constant answer",
    "lookup": "best answer by category",
    "sft": "after SFT on the study's training data",
    "solver": "geometric solver on its video tokens",
}


def diagnosis(results: Path) -> Scores | Markdown:
    """A base's scores by condition and task, in percent, from the run that `vsr diagnose` left."""
    path = results / "diagnosis" / "diagnosis.json"
    if not path.is_file():
        return Markdown("The diagnosis of the base: *not run* (`vsr diagnose`).")
    said, rows = read_json(path), []
    for key, name in CONDITIONS.items():
        scores = {task: Value(score) for task, score in said["tasks"][key].items()}
        rows.append((name, dict.fromkeys(TASKS) | scores | {"trained": Value(**said["trained"][key])}))
    spread = said["samples"]["spread"]  # of answers at temperature 1, to a part of the questions
    for name in spread["trained"]:
        scores = {task: Value(found[name]) for task, found in spread.items()}
        rows.append((f"{name}, temperature 1", dict.fromkeys(TASKS) | scores))
    heads = {"trained": "trained six"} | TASKS
    return Scores(f"The base on {said['scenes']} rooms that nothing else uses", heads, {"": rows}, heads)


def ceiling(asked: dict[str, tuple[dict, dict]]) -> Markdown:
    """By task and set of questions (agreement under the paper's rules, best constants): what a perfect learner of
    VSI-100k would score, beside the best constant answer; percent."""
    rows = []
    for task, name in list(TASKS.items())[:6]:
        cells = []
        for found, constants in asked.values():
            parts = [part for kind, part in found["tasks"].items() if task_of(kind) == task and part["n"]]
            shares = [part["exact"] / part["n"] if part["mra"] is None else part["mra"] for part in parts]
            cells += [sum(part["n"] for part in parts), f"{100 * sum(shares) / len(shares):.1f}" if shares else "–"]
            cells.append(f"{constants[task][1]:.1f}" if task in constants else "–")
        rows.append((name, *cells))
    heads = [f"{name}: {head}" for name in asked for head in ("questions", "perfect learner", "best constant")]
    return table(("task", *heads), rows)


def hacks(results: str | Path) -> Markdown:
    """Of all rollouts of the runs with tags, by third of training: the share with the form, empty shells, repeated
    tags; percent. Runs with a length reward lie in the folder `length`."""
    rows, parts = [], ("tagged", "shells", "repeats")
    for folder in (Path(results), Path(results) / "length"):
        for run in (run for run in training_logs.find(folder) if run.counts("tagged").size):
            for third, when in enumerate(("first", "middle", "last")):
                counted = [run.part(part, third / 3, (third + 1) / 3) for part in parts]
                shares = (100 * counts.mean() / run.size for counts in counted)
                name = f"{'length reward, ' * (folder.name == 'length')}{run.name}"
                rows.append((name, when, f"{counted[0].size * run.size:,}", *(f"{share:.1f} %" for share in shares)))
    return table(("run", "third", "rollouts", "whole form", "empty shells", "repeated tags"), rows)


def scores(summaries: Mapping[str, dict]) -> Scores:
    """Score with interval by task, one row a summary."""
    asked = next(iter(summaries.values()))["tasks"]
    heads = {"overall": "avg"} | {task: name for task, name in TASKS.items() if task in asked}
    rows = [(name, {over: Value.read(one, over) for over in heads}) for name, one in summaries.items()]
    return Scores("Scores, percent", heads, {"": rows}, heads)


def card(run: Path) -> Markdown:
    """The model card of a run's adapter, its front matter left out."""
    return from_markdown(ModelCard.load(Path(run) / "adapter" / "README.md").text)


def provenance(results: Path, *names: str) -> Markdown:
    """The runs that a notebook's numbers come from: id, seed, code and versions."""
    rows = []
    for name in names:
        path = Path(results) / name / "manifest.json"
        if not path.is_file():
            rows.append((name, "not run", "", "", ""))
            continue
        run = read_json(path)
        code = (run["git"]["sha"] or "no git")[:8] + " + changes" * bool(run["git"]["dirty"])
        rows.append((f"`{run['id']}`", run["seed"], code, f"{run['seconds']} s", run["versions"]["transformers"]))
    return table(("run", "seed", "code", "took", "transformers"), rows)


# --- a training's rollouts beside their video ---
def rollouts(run: str | Path, step: int) -> HTML:
    """The kept rollouts of one step of a GRPO run, beside frames of the video they are about. VsrError for a step of
    which it kept none; where the questions or the video are not on this machine, that is said."""
    path = Path(run) / "completions.jsonl"
    rows = [row for row in read_jsonl(path) if row["step"] == step] if path.is_file() else []
    if not rows:
        raise VsrError(f"{path}: no rollouts of step {step}; GRPO keeps some of every step that it takes")
    asked, film = rows[0]["id"], "<i>Its video is not on this machine.</i>"
    if data := _trained_on(runs.Run.read(run)):
        question = next(question for question in data.questions if question.id == asked)
        asked, video_path = question.question, data.video_path(question.scene_name)
        film = _frames(video_path) if video_path.is_file() else film
    lines = [
        (row["completion"].strip() or "(empty)", f"{row['reward']:.2f}", f"{row['advantage']:+.2f}") for row in rows
    ]
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    said = f"<b>Step {step}</b>: {escape(asked)} True answer: <b>{escape(str(rows[0]['truth']))}</b>"
    beside = f"<table><tr><th>rollout</th><th>reward</th><th>advantage</th></tr>{cells}</table>"
    return HTML(f'<p>{said}</p><div style="display:flex;flex-wrap:wrap;gap:1em">{film}<div>{beside}</div></div>')


def _trained_on(run: runs.Run) -> QuestionSet | None:
    """The questions that a run was trained on, found by their fingerprint in its data set or among the rooms."""
    folders = [Path(run.manifest.get("data", "")) / "train", *sorted(runs.data_folder().glob("train-*"))]
    found = (dataset.load(folder) for folder in folders if (folder / "questions.jsonl").is_file())
    return next((one for one in found if one.questions.fingerprint() == run.manifest["inputs"]["questions"]), None)


def _frames(path: Path, number: int = 8, columns: int = 4, width: int = 160) -> str:
    """`number` frames of a video, evenly spread, in rows of `columns` from left to right, as an HTML image."""
    frames = video.decode(path, number)
    height = width * frames.shape[1] // frames.shape[2]
    sheet = PIL.Image.new("RGB", (columns * width, -(-number // columns) * height))
    for place, frame in enumerate(frames):
        small = PIL.Image.fromarray(frame).resize((width, height))
        sheet.paste(small, (place % columns * width, place // columns * height))
    sheet.save(kept := io.BytesIO(), "PNG")
    code = base64.b64encode(kept.getvalue()).decode()
    return f'<img alt="{number} frames of {escape(path.name)}" src="data:image/png;base64,{code}">'
