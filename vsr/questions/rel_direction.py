"""Relative direction: standing by one object and facing a second, where is a third? Seen from above, by centres."""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.geometry import box_distance, turn_angle
from vsr.scenes.scene import Box, Scene

FREE = "object_rel_direction"
TYPES = (FREE, f"{FREE}_easy", f"{FREE}_medium", f"{FREE}_hard")
MARGIN = 10.0  # degrees from a boundary, VSI-Bench; the paper states none, we take the same
APART = (0.30, 5.0)  # metres between any two of the three, VSI-Bench
STRAY = 2  # corners of the third object's box, of 8, that may lie in another sector, VSI-Bench

_BOUNDS = {
    "easy": (0, 135, 225, 360),
    "medium": (0, 135, 225, 360),
    "hard": (0, 90, 180, 270, 360),
    "free": (0, 180, 360),
}
_WORDS = {
    "easy": ("left", "back", "right"),
    "medium": ("left", "back", "right"),
    "hard": ("front-left", "back-left", "back-right", "front-right"),
    "free": ("left", "right"),
}
_CHOICES = {**_WORDS, "easy": ("left", "right")}


def answer(scene: Scene, rules: Rules, stand: str, face: str, query: str, level: str) -> str:
    """The direction's word at a level: 'easy', 'medium', 'hard' or 'free' (the paper's left or right)."""
    boxes = [scene.labelled(label)[0] for label in (stand, face, query)]
    return _word(_angle(rules, *boxes), level)


def level_of(question_type: str) -> str:
    """The level that a question type names."""
    return "free" if question_type == FREE else question_type.rsplit("_", 1)[1]


def questions(scene: Scene, rules: Rules, rng: np.random.Generator, question_type: str) -> Iterator[Draft]:
    """Unambiguous ordered triples of objects that occur once, in random order, at the level of one question type."""
    level, template = level_of(question_type), rules.templates[question_type]
    triples = list(permutations([box for box in scene.once() if box.label not in rules.ignored], 3))
    for i in rng.permutation(len(triples)):
        stand, face, query = triples[i]
        if _clear(rules, stand, face, query, level):
            text = template.fill(stand=stand.label, face=face.label, query=query.label)
            word = _word(_angle(rules, stand, face, query), level)
            yield Draft(question_type, text, word, _CHOICES[level] if rules.options else (), balance=word)


def _angle(rules: Rules, stand: Box, face: Box, query: Box) -> float:
    points = [box.middle if rules.centres else box.center for box in (stand, face, query)]
    return float(turn_angle(*points))


def _word(angle: float, level: str) -> str:
    return _WORDS[level][_sector(angle, level)]


def _sector(angle: np.ndarray, level: str) -> np.ndarray:
    return np.searchsorted(_BOUNDS[level], angle, side="right") - 1


def _clear(rules: Rules, stand: Box, face: Box, query: Box, level: str) -> bool:
    """Whether nobody could argue about the direction."""
    angle = _angle(rules, stand, face, query)
    if _margin(angle, level) < MARGIN or _word(angle, level) not in _CHOICES[level]:
        return False
    if level == "free":
        return True
    corners = turn_angle(stand.center, face.center, query.corners())
    if np.count_nonzero(_sector(corners, level) != _sector(angle, level)) > STRAY:
        return False
    pairs = ((stand, face), (stand, query), (face, query))
    return all(APART[0] <= box_distance(a, b, rules.rim) <= APART[1] for a, b in pairs)


def _margin(angle: float, level: str) -> float:
    """Degrees to the nearest boundary. VSI-Bench's hard questions keep away only from the next one ahead."""
    if level == "hard":
        return 90 - angle % 90
    return min(abs(angle - bound) for bound in _BOUNDS[level])
