"""Object size: the longest side of the oriented box in whole centimetres."""

from collections.abc import Iterator

import numpy as np

from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "object_size_estimation"


def answer(scene: Scene, rules: Rules, label: str) -> str:
    """Centimetres of the longest side."""
    return str(round(100 * max(box.size.max() for box in scene.labelled(label))))


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """One per object whose category occurs once."""
    for label in rng.permutation([box.label for box in scene.once() if box.label not in rules.ignored]):
        yield Draft(TYPE, rules.templates[TYPE].fill(label=label), answer(scene, rules, label))
