"""What a build asked and what it did not: candidates of each task in a scene, and why some were left out."""

from collections import Counter
from collections.abc import Iterable
from itertools import permutations

import numpy as np

from vsr.questions import abs_distance, counting, rel_direction, rel_distance, room_size, size
from vsr.questions.question import Question
from vsr.questions.rules import Rules
from vsr.scenes.geometry import turn_angle
from vsr.scenes.scene import Box, Scene


def rejected(scene: Scene, rules: Rules, questions: Iterable[Question]) -> Counter:
    """The candidates of one scene that its questions leave out: how many by (question type, reason)."""
    asked = Counter(question.question_type for question in questions)
    found = {*scene.counts, *(box.label for box in scene.objects)}
    once = [box for box in scene.once() if box.label not in rules.ignored]
    number, labels, ignored = len(once), len(found - rules.ignored), len(found & rules.ignored)
    nearest = f"nearer than {0.1 if rules.centres else abs_distance.LEAST} m"
    alike = f"fewer than {rel_distance.OPTIONS} others at clearly different distances"
    rounds = 1 if rules.centres else rel_distance.ROUNDS
    left = {
        (counting.TYPE, "no object: wall, floor and the like"): ignored,
        (counting.TYPE, "occurs once"): labels - asked[counting.TYPE],
        (size.TYPE, "no object: wall, floor and the like"): ignored,
        (size.TYPE, "occurs several times, or has no box"): labels - asked[size.TYPE],
        (room_size.TYPE, "area unknown"): 1 - asked[room_size.TYPE],
        (abs_distance.TYPE, _or_cap(nearest, rules, abs_distance.TYPE)): number * (number - 1) // 2,
        (rel_distance.TYPE, _or_cap(alike, rules, rel_distance.TYPE)): rounds * number,
    }
    for kind, why in list(left)[-2:]:
        left[kind, why] -= asked[kind]
    for kind in set(rel_direction.TYPES) & set(rules.templates):
        unclear = _unclear(once) if kind == rel_direction.FREE else 0
        left[kind, f"within {rel_direction.MARGIN:g} degrees of straight ahead or behind"] = unclear
        why = "not drawn" if kind == rel_direction.FREE else "ambiguous"
        left[kind, _or_cap(why, rules, kind)] = number * (number - 1) * (number - 2) - unclear - asked[kind]
    return +Counter(left)


def _or_cap(why: str, rules: Rules, kind: str) -> str:
    return why if rules.caps[kind] is None else f"{why}, or more than {rules.caps[kind]} in the scene"


def _unclear(once: list[Box]) -> int:
    """Ordered triples where left or right could be argued about."""
    triples = np.array(list(permutations(range(len(once)), 3)), dtype=int).reshape(-1, 3)
    if not len(triples):
        return 0
    middles = np.array([box.middle for box in once])
    aside = turn_angle(*(middles[column] for column in triples.T)) % 180
    return int(np.count_nonzero(np.minimum(aside, 180 - aside) < rel_direction.MARGIN))
