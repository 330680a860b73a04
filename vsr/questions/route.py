"""Route planning in procedural rooms, worded as VSI-Bench's: which turns lead from landmark to landmark?

A held-out task: questions are made under `vsibench` only. Landmarks occur once; every leg is a straight walk that no
other object blocks; every turn is clearly to the left, to the right or back.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import shapely

from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.geometry import turn_angle
from vsr.scenes.scene import Box, Scene

TYPE = "route_planning"
TURNS = ("Turn Left", "Turn Back", "Turn Right")
BLANKS = (76, 81, 33)  # questions with 1, 2 and 3 blanks in VSI-Bench (4 more have 4)
OPTIONS = 4  # for two blanks and more; all three turns for one
MARGIN = 15.0  # degrees that a turn keeps from the boundaries of its sector
LEG = 0.8  # metres from landmark to landmark, at least
WIDTH = 0.3  # metres that the robot needs to pass
TRIES = 200


def turn(angle: float) -> str | None:
    """The turn by `angle` degrees counter-clockwise; None if ahead or less than 15 degrees from a boundary."""
    sector = int((angle - 45) % 360 // 90)
    clear = MARGIN <= (angle - 45) % 90 <= 90 - MARGIN
    return TURNS[sector] if sector < 3 and clear else None


def turns(stops: list[Box], face: Box) -> list[str | None]:
    """The turn at each stop but the last, starting at the first one and facing `face`."""
    points = [box.center for box in stops]
    found = [turn(turn_angle(points[0], face.center, points[1]))]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        found.append(turn(turn_angle(here, 2 * here - before, after)))
    return found


def questions(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """Random walkable routes with one number of turns, drawn as VSI-Bench's are distributed; none where the floor plan
    is unknown."""
    once = scene.once()
    if scene.floor is None:
        return
    for blanks in 1 + rng.choice(len(BLANKS), len(BLANKS), replace=False, p=np.array(BLANKS) / sum(BLANKS)):
        found = False
        for _ in range(TRIES if blanks + 2 <= len(once) else 0):
            landmarks = [once[i] for i in rng.permutation(len(once))[: blanks + 2]]
            draft = _try(scene, rules, landmarks, bool(rng.integers(2)), rng)
            if draft:
                found = True
                yield draft
        if found:
            return


def _try(scene: Scene, rules: Rules, landmarks: list[Box], straight: bool, rng: np.random.Generator) -> Draft | None:
    """The route from the first landmark, facing the second, by the others; `straight` walks to the second first."""
    start, face, *rest = landmarks
    stops = [start, face, *rest] if straight else [start, *rest]
    found = turns(stops, face)[1:] if straight else turns(stops, face)
    if not all(found) or not all(_walkable(scene, a, b) for a, b in pairwise(stops)):
        return None
    return _draft(rules, stops, face, found, straight, rng)


def _draft(rules: Rules, stops: list[Box], face: Box, found: list, straight: bool, rng: np.random.Generator) -> Draft:
    steps = [] if straight else ["[please fill in]"]
    for stop in stops[1:-1]:
        steps += [f"Go forward until the {stop.label}", "[please fill in]"]
    steps.append(f"Go forward until the {stops[-1].label}")
    text = rules.templates[TYPE].fill(
        start=stops[0].label,
        face=face.label,
        goal=stops[-1].label,
        actions=" ".join(f"{i}. {step}" for i, step in enumerate(steps, 1)),
    )
    answer = ", ".join(found)
    others = [", ".join(words) for words in product(TURNS, repeat=len(found)) if ", ".join(words) != answer]
    wrong = [others[i] for i in rng.permutation(len(others))[: OPTIONS - 1]]
    return Draft(TYPE, text, answer, (answer, *wrong), balance=answer)


def _walkable(scene: Scene, one: Box, other: Box) -> bool:
    """Whether the straight walk between two objects is long enough, inside the room and free of other objects."""
    way = shapely.LineString([one.center[:2], other.center[:2]])
    if way.length < LEG or not shapely.Polygon(scene.floor).covers(way):
        return False
    others = (box for box in scene.objects if box is not one and box is not other)
    return all(way.distance(shapely.MultiPoint(box.corners()[:, :2]).convex_hull) >= WIDTH / 2 for box in others)
