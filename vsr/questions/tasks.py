"""The eight tasks by question type: reads a question and answers it from the scene."""

from collections.abc import Callable

from vsr.errors import VsrError, unknown
from vsr.questions import abs_distance, counting, rel_direction, rel_distance, room_size, size
from vsr.questions.question import Question
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

MODULES = {module.TYPE: module for module in (counting, size, room_size, abs_distance, rel_distance)}
FROM_FRAMES = {
    "route_planning": "its route names places that the boxes do not have",
    "obj_appearance_order": "it needs the frames",
}


def truth(scene: Scene, rules: Rules, question: Question) -> str:
    """The answer's text that the scene gives: a number, or the words of the right option.

    A wording that the rule set lacks, a missing label and a task that boxes cannot decide are errors that say so.
    """
    kind = question.question_type
    if kind in FROM_FRAMES:
        raise VsrError(f"question {question.id}: {kind} has no answer in a scene's boxes: {FROM_FRAMES[kind]}")
    if kind not in rules.templates:
        raise unknown("question type under " + rules.name, kind, rules.templates)
    fields = rules.templates[kind].read(question.question)
    if fields is None:
        raise VsrError(
            f"question {question.id}: '{question.question}' is not worded as {rules.name} words {kind} "
            f"('{rules.templates[kind].text}'); try the other rules"
        )
    return _answer(kind)(scene, rules, **fields)


def _answer(kind: str) -> Callable[..., str]:
    if kind in MODULES:
        return MODULES[kind].answer
    level = rel_direction.level_of(kind)
    return lambda scene, rules, **fields: rel_direction.answer(scene, rules, **fields, level=level)


def right_option(question: Question) -> str:
    """The text of the truth: the options' words behind the letter, or the ground truth itself without options."""
    if not question.options:
        return question.ground_truth
    for option in question.options:
        letter, _, text = option.partition(". ")
        if letter == question.ground_truth:
            return text
    raise VsrError(f"question {question.id}: ground_truth '{question.ground_truth}' is none of its options' letters")
