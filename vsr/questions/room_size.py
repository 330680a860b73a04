"""Room size: the scene's floor area in square metres."""

from collections.abc import Iterator

import numpy as np

from vsr.errors import VsrError
from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "room_size_estimation"


def answer(scene: Scene, rules: Rules) -> str:
    """Square metres, one decimal. A scene of unknown size is an error."""
    if scene.room_size is None:
        raise VsrError(f"scene {scene.id}: its room size is unknown; a scan's door computes it from the points")
    return f"{scene.room_size:.1f}"


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """One, if the size is known."""
    if scene.room_size is not None:
        yield Draft(TYPE, rules.templates[TYPE].fill(), answer(scene, rules))
