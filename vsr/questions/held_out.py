"""The two tasks that are never trained on, asked under `vsibench` only: route planning and appearance order.

A route leads from landmark to landmark, worded as VSI-Bench's. Landmarks occur once; every leg is a straight walk that
no other object blocks; every turn is clearly to the left, to the right or back. Appearance order asks in which order
four categories first come into view, from what the frames show.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, permutations, product

import numpy as np
import shapely

from vsr.questions.question import Draft
from vsr.questions.rules import Rules
from vsr.scenes.geometry import turn_angle
from vsr.scenes.scene import Box, Scene

ROUTE, ORDER = "route_planning", "obj_appearance_order"
BEYOND_BOXES = {ROUTE: "its route names places that the boxes do not have", ORDER: "it needs the frames"}
OPTIONS = 4  # of an order, and of a route with two blanks and more; all three turns for one blank
TURNS = ("Turn Left", "Turn Back", "Turn Right")
BLANKS = (76, 81, 33)  # questions with 1, 2 and 3 blanks in VSI-Bench (4 more have 4)
MARGIN = 15.0  # degrees that a turn keeps from the boundaries of its sector
LEG = 0.8  # metres from landmark to landmark, at least
WIDTH = 0.3  # metres that the robot needs to pass
TRIES = 200
CATEGORIES = 4
SHARE = 0.003  # of a frame's pixels that show an object before it counts as seen
GLIMPSE = 0.0006  # of a frame's pixels: fewer show nothing to a viewer; between the two it is anybody's guess


# --- route planning ---
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
        found.append(turn(turn_angle(here, 2 * here - before, after)))  # facing on in the direction of the last leg
    return found


def walkable(scene: Scene, one: Box, other: Box) -> bool:
    """Whether the straight walk between two objects is long enough, inside the room and free of other objects."""
    way = shapely.LineString([one.center[:2], other.center[:2]])
    if way.length < LEG or not shapely.Polygon(scene.floor).covers(way):
        return False
    others = (box for box in scene.objects if box is not one and box is not other)
    return all(way.distance(shapely.MultiPoint(box.corners()[:, :2]).convex_hull) >= WIDTH / 2 for box in others)


def routes(scene: Scene, rules: Rules, rng: np.random.Generator) -> Iterator[Draft]:
    """Random walkable routes with one number of turns, drawn as VSI-Bench's are distributed; none where the floor plan
    is unknown."""
    once = scene.once()
    if scene.floor is None:
        return
    for blanks in 1 + rng.choice(len(BLANKS), len(BLANKS), replace=False, p=np.array(BLANKS) / sum(BLANKS)):
        found = False
        for _ in range(TRIES if blanks + 2 <= len(once) else 0):
            landmarks = [once[i] for i in rng.permutation(len(once))[: blanks + 2]]
            draft = _route(scene, rules, landmarks, bool(rng.integers(2)), rng)
            if draft:
                found = True
                yield draft
        if found:
            return


def _route(scene: Scene, rules: Rules, landmarks: list[Box], straight: bool, rng: np.random.Generator) -> Draft | None:
    """The route from the first landmark, facing the second, by the others; `straight` walks to the second first."""
    start, face, *rest = landmarks
    stops = landmarks if straight else [start, *rest]
    found = turns(stops, face)[straight:]
    if not all(found) or not all(walkable(scene, a, b) for a, b in pairwise(stops)):
        return None
    steps = [] if straight else ["[please fill in]"]
    for stop in stops[1:]:
        steps += [f"Go forward until the {stop.label}", "[please fill in]"]
    actions = " ".join(f"{i}. {step}" for i, step in enumerate(steps[:-1], 1))  # no turn at the goal
    answer = ", ".join(found)
    others = [words for words in map(", ".join, product(TURNS, repeat=len(found))) if words != answer]
    wrong = [others[i] for i in rng.permutation(len(others))[: OPTIONS - 1]]
    fields = {"start": start.label, "face": face.label, "goal": stops[-1].label, "actions": actions}
    return rules.draft(ROUTE, answer, (answer, *wrong), answer, **fields)


# --- appearance order ---
def first_seen(scene: Scene, ids: np.ndarray, fps: float) -> dict[str, float]:
    """Seconds at which each category first comes into view, from rendered object ids (T, H, W), -1 for none.

    A category that an earlier frame shows a little of has no clear first appearance and is left out.
    """
    shares = np.zeros((len(ids), len(scene.objects)))
    for frame, picture in enumerate(ids):
        shares[frame] = np.bincount(picture[picture >= 0], minlength=len(scene.objects)) / picture.size
    return clear_times([box.label for box in scene.objects], shares, fps)


def clear_times(labels: Sequence[str], shares: np.ndarray, fps: float) -> dict[str, float]:
    """The same from the shares of the frames' pixels that show each object, (T, objects), with the objects' labels."""
    times = {}
    for label in dict.fromkeys(labels):
        best = shares[:, [other == label for other in labels]].max(axis=1)
        clear = np.flatnonzero(best >= SHARE)
        if len(clear) and not (best[: clear[0]] > GLIMPSE).any():
            times[label] = float(clear[0] / fps)
    return times


def orders(scene: Scene, rules: Rules, rng: np.random.Generator, seen: Mapping[str, float] | None) -> Iterator[Draft]:
    """Four categories that appear more than the rule set's gap apart; none where nobody looked at the frames."""
    seen = seen or {}
    labels = sorted(seen, key=lambda label: (seen[label], label))
    fours = [
        four
        for four in combinations(labels, CATEGORIES)
        if all(seen[after] - seen[before] > rules.order_gap for before, after in pairwise(four))
    ]
    for i in rng.permutation(len(fours)):
        order = fours[i]
        listed = ", ".join(order[k] for k in rng.permutation(CATEGORIES))
        others = [words for words in permutations(order) if words != order]
        wrong = [", ".join(others[k]) for k in rng.permutation(len(others))[: OPTIONS - 1]]
        answer = ", ".join(order)
        yield rules.draft(ORDER, answer, (answer, *wrong), labels=listed)
