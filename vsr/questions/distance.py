"""The distance between two categories, shared by the two distance tasks."""

import numpy as np

from vsr.questions.rules import Rules
from vsr.scenes.geometry import box_distance
from vsr.scenes.scene import Scene


def between(scene: Scene, rules: Rules, one: str, other: str) -> float:
    """Metres, smallest over the objects of the two categories: between closest points under `vsibench`, between
    point-cloud centres under `vsi100k`."""
    measure = _centres if rules.centres else box_distance
    return min(measure(a, b) for a in scene.labelled(one) for b in scene.labelled(other))


def _centres(a, b) -> float:
    return float(np.linalg.norm(a.middle - b.middle))
