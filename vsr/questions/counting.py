"""Object counting: how many objects of a category the annotation lists; categories with one object are not asked."""

from collections.abc import Iterator

import numpy as np

from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "object_counting"


def answer(scene: Scene, rules: Rules, label: str) -> str:
    """The annotated number of objects; the number of boxes where the scene has no counts."""
    return str(scene.counts[label] if label in scene.counts else len(scene.labelled(label)))


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """One per category with at least two objects."""
    for label in rng.permutation(sorted({*scene.counts, *(box.label for box in scene.objects)} - rules.ignored)):
        count = answer(scene, rules, label)
        if int(count) > 1:
            yield Draft(TYPE, rules.templates[TYPE].fill(label=label), count, balance=count)
