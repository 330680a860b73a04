"""The distance between two categories, shared by the two distance tasks."""

import numpy as np

from vsr.questions.rules import Rules
from vsr.scenes.geometry import box_distance
from vsr.scenes.scene import Box, Scene


def between(scene: Scene, rules: Rules, one: str, other: str) -> float:
    """Metres, smallest over the objects of the two categories: between closest points under `vsibench`, between
    point-cloud centres under `vsi100k`."""
    return min(_metres(rules, a, b) for a in scene.labelled(one) for b in scene.labelled(other))


def _metres(rules: Rules, a: Box, b: Box) -> float:
    return float(np.linalg.norm(a.middle - b.middle)) if rules.centres else box_distance(a, b, rules.rim)
