"""The eight tasks by question type: proposes questions, and answers given ones from the scene."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vsr.errors import VsrError, unknown
from vsr.questions import (
    abs_distance,
    appearance,
    counting,
    rel_direction,
    rel_distance,
    room_size,
    route,
    size,
)
from vsr.questions.draft import Draft
from vsr.questions.question import Question
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

MODULES = {module.TYPE: module for module in (counting, size, room_size, abs_distance, rel_distance)}
BEYOND_BOXES = {
    route.TYPE: "its route names places that the boxes do not have",
    appearance.TYPE: "it needs the frames",
}


def drafts(
    kind: str, scene: Scene, rules: Rules, rng: np.random.Generator, seen: Mapping[str, float] | None
) -> Iterator[Draft]:
    """The questions of one type that a scene can be asked; `seen` is when each category first comes into view."""
    if kind in MODULES:
        return MODULES[kind].questions(scene, rules, rng)
    if kind == route.TYPE:
        return route.questions(scene, rules, rng)
    if kind == appearance.TYPE:
        return appearance.questions(scene, rules, rng, seen)
    return rel_direction.questions(scene, rules, rng, kind)


def truth(scene: Scene, rules: Rules, question: Question) -> str:
    """The answer's text that the scene gives: a number, or the words of the right option.

    A wording that the rule set lacks, a missing label and a task that boxes cannot decide are errors that say so.
    """
    kind = question.question_type
    if kind in BEYOND_BOXES:
        raise VsrError(f"question {question.id}: {kind} has no answer in a scene's boxes: {BEYOND_BOXES[kind]}")
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
