"""Our ground truth against given questions: does the scene, under a rule set, give the answers it should?"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vsr import markdown
from vsr.errors import VsrError
from vsr.questions import rules as rule_sets
from vsr.questions.question import NUMERICAL, TYPES, Question
from vsr.questions.tasks import right_option, truth
from vsr.scenes.scene import Scene
from vsr.scoring.answers import mean_relative_accuracy


def agree(scenes: Iterable[Scene], questions: Sequence[Question], rules: str = "vsibench") -> dict:
    """Per question type the questions compared (`n`), how many agree exactly and, for numbers, within 0.1 of their
    unit, the mean relative accuracy of ours, and every question that could not be compared with the reason.

    Questions in VSI-Bench's words are answered under any rules. Under the paper's, exact shares (options) and mean
    relative accuracy (numbers) are what a perfect learner of VSI-100k would score: it measures between centres."""
    known = {scene.id: scene for scene in scenes}
    rule_set = rule_sets.get(rules)
    translated = replace(rule_set, templates=rule_sets.VSIBENCH.templates)
    tasks: dict[str, dict] = {}
    for question in questions:
        kind = question.question_type
        task = tasks.setdefault(kind, {"n": 0, "exact": 0, "within_0.1": 0, "mra": 0.0, "skipped": []})
        try:
            if question.scene_name not in known:
                raise VsrError(f"scene {question.scene_name} is not in the scenes file")
            theirs = rule_sets.VSIBENCH.templates.get(kind)
            asked = translated if theirs and theirs.read(question.question) is not None else rule_set
            ours, given = truth(known[question.scene_name], asked, question), right_option(question)
        except VsrError as error:
            task["skipped"].append({"id": question.id, "why": str(error)})
            continue
        _compare(task, kind, ours, given)
    if not any(task["n"] for task in tasks.values()):
        first = next((task["skipped"][0]["why"] for task in tasks.values()), "there are no questions")
        raise VsrError(f"none of the {len(questions)} questions could be compared; the first: {first}")
    for kind, task in tasks.items():
        numerical = kind in NUMERICAL and task["n"]
        task["mra"] = task["mra"] / task["n"] if numerical else None
        task["within_0.1"] = task["within_0.1"] if numerical else None
    return {"tasks": tasks}


def _compare(task: dict, kind: str, ours: str, given: str) -> None:
    task["n"] += 1
    if kind not in NUMERICAL:
        task["exact"] += ours == given
        return
    truth = float(given)
    task["exact"] += float(ours) == truth
    task["within_0.1"] += abs(float(ours) - truth) <= 0.1 + 1e-9
    task["mra"] += mean_relative_accuracy(float(ours), truth)


def table(result: dict) -> str:
    """The result in Markdown: one line a task, then the reasons for what was not compared."""
    order, rows = [*TYPES, *result["tasks"]], []
    reasons: dict[str, list[str]] = {}
    for kind, task in sorted(result["tasks"].items(), key=lambda item: order.index(item[0])):
        share = f"{100 * task['exact'] / task['n']:.1f}" if task["n"] else "-"
        within = "-" if task["within_0.1"] is None else task["within_0.1"]
        mra = "-" if task["mra"] is None else f"{100 * task['mra']:.1f}"
        rows.append((kind, task["n"], task["exact"], share, within, mra, len(task["skipped"])))
        for row in task["skipped"]:
            reasons.setdefault(row["why"].removeprefix(f"question {row['id']}: "), []).append(row["id"])
    text = markdown.table(("task", "compared", "exact", "exact %", "within 0.1", "MRA", "skipped"), rows)
    text += "\nnot compared:\n\n" if reasons else ""
    for why, ids in reasons.items():
        some = ", ".join(ids[:5]) + (", ..." if ids[5:] else "")
        text += f"- {len(ids)} x {why} (id {some})\n"
    return text.rstrip()
