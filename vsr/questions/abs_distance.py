"""Absolute distance in metres between two objects whose categories occur once."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from vsr.questions.distance import between
from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "object_abs_distance"
LEAST = 0.4  # metres, rounded: VSI-Bench asks none below it; the paper states no bound, we ask none of 0.0


def answer(scene: Scene, rules: Rules, one: str, other: str) -> str:
    """Metres, one decimal."""
    return f"{between(scene, rules, one, other):.1f}"


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """Every pair in random order, each pair once."""
    pairs = list(combinations([box.label for box in scene.once() if box.label not in rules.ignored], 2))
    for i in rng.permutation(len(pairs)):
        one, other = pairs[i] if rng.random() < 0.5 else pairs[i][::-1]
        metres = answer(scene, rules, one, other)
        if float(metres) >= (0.1 if rules.centres else LEAST):
            yield Draft(TYPE, rules.templates[TYPE].fill(one=one, other=other), metres)
