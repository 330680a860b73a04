"""Relative distance: which of four categories is the closest to a target that occurs once."""

from collections.abc import Iterator

import numpy as np

from vsr.questions.distance import between
from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "object_rel_distance"
OPTIONS = 4
# Metres: the closest is not nearer than this, and no two options are closer to a tie. VSI-Bench's; the paper states
# none, we take the same.
LEAST = 0.15
ROUNDS = 3  # sets of options tried for one target under `vsibench`


def answer(scene: Scene, rules: Rules, options: str, target: str) -> str:
    """The closest of the comma-separated options."""
    labels = options.split(", ")
    return min(labels, key=lambda label: between(scene, rules, label, target))


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """Targets in random order with random options whose distances differ clearly. Under `vsibench` options may occur
    several times and a target may come back with other options; under `vsi100k` all occur once, each target once."""
    once = [box.label for box in scene.once() if box.label not in rules.ignored]
    pool = once if rules.centres else sorted({box.label for box in scene.objects})
    asked = set()
    for _ in range(1 if rules.centres else ROUNDS):
        for target in rng.permutation(once):
            labels = _spread(scene, rules, target, [label for label in pool if label != target], rng)
            if labels and (target, frozenset(labels)) not in asked:
                asked.add((target, frozenset(labels)))
                yield _draft(scene, rules, target, labels)


def _spread(scene: Scene, rules: Rules, target: str, pool: list[str], rng: np.random.Generator) -> list[str] | None:
    """Four labels in random order, any two of them at clearly different distances; None if there are none."""
    chosen: dict[str, float] = {}
    for label in rng.permutation(pool):
        metres = between(scene, rules, label, target)
        if metres >= LEAST and all(abs(metres - other) > LEAST for other in chosen.values()):
            chosen[str(label)] = metres
            if len(chosen) == OPTIONS:
                return list(chosen)
    return None


def _draft(scene: Scene, rules: Rules, target: str, labels: list[str]) -> Draft:
    listed = ", ".join(labels)
    text = rules.templates[TYPE].fill(options="{options}" if rules.options else listed, target=target)
    return Draft(TYPE, text, answer(scene, rules, listed, target), tuple(labels) if rules.options else ())
