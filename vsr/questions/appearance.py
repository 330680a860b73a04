"""Appearance order: in which order do four categories first come into view?

A held-out task: questions are made under `vsibench` only, from what the frames show.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, permutations

import numpy as np

from vsr.questions.draft import Draft
from vsr.questions.rules import Rules
from vsr.scenes.scene import Scene

TYPE = "obj_appearance_order"
CATEGORIES = 4
OPTIONS = 4
SHARE = 0.003  # of a frame's pixels that show an object before it counts as seen
GLIMPSE = 0.0006  # of a frame's pixels: fewer show nothing to a viewer; between the two it is anybody's guess


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


def questions(
    scene: Scene, rules: Rules, rng: np.random.Generator, seen: Mapping[str, float] | None
) -> Iterator[Draft]:
    """Four categories that appear more than the rule set's gap apart; none where nobody looked at the frames."""
    labels = sorted(seen or {}, key=lambda label: (seen[label], label))
    fours = [four for four in combinations(labels, CATEGORIES) if _apart(four, seen, rules.order_gap)]
    for i in rng.permutation(len(fours)):
        order = fours[i]
        listed = ", ".join(order[k] for k in rng.permutation(CATEGORIES))
        others = [words for words in permutations(order) if words != order]
        wrong = [", ".join(others[k]) for k in rng.permutation(len(others))[: OPTIONS - 1]]
        answer = ", ".join(order)
        yield Draft(TYPE, rules.templates[TYPE].fill(labels=listed), answer, (answer, *wrong))


def _apart(four: tuple[str, ...], seen: Mapping[str, float], gap: float) -> bool:
    return all(seen[after] - seen[before] > gap for before, after in pairwise(four))
