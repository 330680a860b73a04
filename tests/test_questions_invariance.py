"""Moving a scene changes exactly the answers that it should."""

from dataclasses import replace

import numpy as np
import pytest

from vsr.errors import VsrError
from vsr.miniature.procedural import make_room, seeds
from vsr.questions import held_out, rules, tasks
from vsr.questions.build import build
from vsr.questions.question import NUMERICAL
from vsr.scenes.scene import Box, Scene

RULES = ("vsibench", "vsi100k")
MIRRORED = {"left": "right", "right": "left", "back": "back", "front-left": "front-right", "front-right": "front-left"}
MIRRORED.update({"back-left": "back-right", "back-right": "back-left"})
TURNED = {"Turn Left": "Turn Right", "Turn Right": "Turn Left", "Turn Back": "Turn Back"}


@pytest.fixture(scope="module")
def rooms() -> list[Scene]:
    return [make_room(seed) for seed in seeds("probe", 8)]


@pytest.fixture(scope="module", params=RULES)
def asked(request, rooms):
    """Rooms' questions, with closest points as rooms have them: on whole boxes."""
    rule_set = replace(rules.get(request.param), rim=True)
    return rooms, rule_set, build(rooms, rule_set)


def moved(scene: Scene, linear: np.ndarray, shift=(0.0, 0.0, 0.0)) -> Scene:
    """Every point p becomes linear @ p + shift; `linear` is orthogonal."""
    boxes = [replace(b, center=linear @ b.center + shift, axes=b.axes @ linear.T) for b in scene.objects]
    return replace(scene, objects=tuple(boxes), floor=scene.floor @ linear[:2, :2].T + shift[:2])


def about_z(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def permuted(box: Box, order: list[int], signs: list[int]) -> Box:
    """The same box with its axes in another order and direction."""
    return replace(box, size=box.size[order], axes=box.axes[order] * np.array(signs)[:, None])


def answers(scenes, rule_set, questions) -> list[tuple[str, str]]:
    known = {scene.id: scene for scene in scenes}
    boxed = [q for q in questions if q.question_type not in held_out.BEYOND_BOXES]
    return [(q.question_type, tasks.truth(known[q.scene_name], rule_set, q)) for q in boxed]


@pytest.mark.parametrize("degrees", [90, 33.3, 180, 271])
def test_turning_the_scene_changes_nothing(asked, degrees):
    scenes, rule_set, questions = asked
    turned = [moved(scene, about_z(degrees)) for scene in scenes]
    assert answers(scenes, rule_set, questions) == answers(turned, rule_set, questions)


@pytest.mark.parametrize("shift", [(5.0, -7.0, 0.0), (0.1, 0.2, 1.5)])
def test_shifting_the_scene_changes_nothing(asked, shift):
    scenes, rule_set, questions = asked
    there = [moved(scene, np.eye(3), shift) for scene in scenes]
    assert answers(scenes, rule_set, questions) == answers(there, rule_set, questions)


def test_mirroring_swaps_left_and_right_and_nothing_else(asked):
    scenes, rule_set, questions = asked
    mirrored = answers([moved(scene, np.diag([-1.0, 1, 1])) for scene in scenes], rule_set, questions)
    expected = [
        (kind, MIRRORED[word] if kind in tasks.DIRECTION_TYPES else word)
        for kind, word in answers(scenes, rule_set, questions)
    ]
    assert mirrored == expected
    assert {kind for kind, _ in expected} & set(tasks.DIRECTION_TYPES)


def test_the_order_of_boxes_and_of_their_axes_changes_nothing(asked):
    scenes, rule_set, questions = asked
    rng = np.random.default_rng(0)
    shuffled = []
    for scene in scenes:
        boxes = [permuted(b, [2, 0, 1], [1, -1, 1]) for b in scene.objects]
        shuffled.append(replace(scene, objects=tuple(boxes[i] for i in rng.permutation(len(boxes)))))
    assert answers(scenes, rule_set, questions) == answers(shuffled, rule_set, questions)


def test_renaming_labels_renames_the_answers(asked):
    scenes, rule_set, questions = asked

    def rename(scene: Scene) -> Scene:
        boxes = tuple(replace(b, label=f"new {b.label}") for b in scene.objects)
        return replace(scene, objects=boxes, counts={f"new {label}": n for label, n in scene.counts.items()})

    renamed = {scene.id: rename(scene) for scene in scenes}
    for question in questions:
        kind = question.question_type
        if kind in held_out.BEYOND_BOXES:
            continue
        fields = rule_set.templates[kind].read(question.question)
        fresh = {name: ", ".join(f"new {part}" for part in text.split(", ")) for name, text in fields.items()}
        asked_again = replace(question, question=rule_set.templates[kind].fill(**fresh))
        answer = tasks.truth(renamed[question.scene_name], rule_set, asked_again)
        is_label = kind == "object_rel_distance"
        assert answer == ("new " if is_label else "") + tasks.right_option(question)


def test_scaling_the_scene_scales_what_is_measured(asked):
    scenes, rule_set, questions = asked

    def double(scene: Scene) -> Scene:
        boxes = tuple(replace(b, center=2 * b.center, size=2 * b.size) for b in scene.objects)
        return replace(scene, objects=boxes, room_size=4 * scene.room_size)

    bigger = [double(scene) for scene in scenes]
    factor = {"object_counting": 1, "object_size_estimation": 2, "room_size_estimation": 4, "object_abs_distance": 2}
    pairs = zip(answers(scenes, rule_set, questions), answers(bigger, rule_set, questions), strict=True)
    for (kind, old), (_, new) in pairs:
        if kind in NUMERICAL:
            rounding = {"object_counting": 0, "object_size_estimation": 1.5, "room_size_estimation": 0.3}
            assert abs(float(new) - factor[kind] * float(old)) <= rounding.get(kind, 0.26), (kind, old, new)
        elif kind in tasks.DIRECTION_TYPES:
            assert old == new


def test_mirroring_a_route_swaps_its_turns(rooms):
    found = 0
    for scene in rooms:
        mirror = moved(scene, np.diag([-1.0, 1, 1]))
        stops, flipped = scene.once(), mirror.once()
        for i in range(len(stops) - 3):
            turns = held_out.turns(stops[i : i + 3], stops[i + 3])
            expected = [TURNED.get(turn) for turn in turns]
            assert held_out.turns(flipped[i : i + 3], flipped[i + 3]) == expected
            found += sum(turn is not None for turn in turns)
    assert found > 10


def test_first_appearances_follow_the_frames():
    scene = Scene("s", "test", tuple(Box(label, np.zeros(3), np.ones(3), np.eye(3)) for label in "abbcd"))
    ids = np.full((6, 40, 50), -1, np.int16)
    ids[2:, :10, :10] = 0  # a from frame 2
    ids[4:, 10:20, :10] = 1  # b: its second object comes first
    ids[1, 20:30, :10] = 2
    ids[5, 30:, :10] = 3  # c is glimpsed in frame 0 already
    ids[0, 30, :2] = 3
    assert held_out.first_seen(scene, ids, fps=2) == {"a": 1.0, "b": 0.5}
    assert held_out.first_seen(scene, ids[::-1], fps=2)["a"] == 0.0


def test_appearance_order_needs_the_gap():
    seen = {"a": 0.0, "b": 1.5, "c": 3.0, "d": 4.5, "e": 5.0}
    scene = Scene("s", "test", ())
    asked = build([scene], "vsibench", first_seen={"s": seen})
    assert [tasks.right_option(q) for q in asked] == ["a, b, c, d", "a, b, c, e"] or len(asked) == 2
    for question in asked:
        times = [seen[label] for label in tasks.right_option(question).split(", ")]
        assert (np.diff(times) > 1).all()
        assert len({option[3:] for option in question.options}) == 4


def test_official_distances_hang_on_rounding_by_little(rooms):
    """What `rim` is for: the released rule's answers move when a scene is turned, by a few layers at most."""
    questions = [q for q in build(rooms, "vsibench") if q.question_type == "object_abs_distance"]
    turned = [moved(scene, about_z(271)) for scene in rooms]
    pairs = zip(answers(rooms, rules.VSIBENCH, questions), answers(turned, rules.VSIBENCH, questions), strict=True)
    changes = [abs(float(old) - float(new)) for (_, old), (_, new) in pairs]
    assert 0 < max(changes) < 0.35
    assert np.mean(np.array(changes) > 0.01) < 0.5


def test_an_unknown_room_size_is_an_error(rooms):
    with pytest.raises(VsrError, match="its room size is unknown"):
        tasks.room_size(replace(rooms[0], room_size=None), rules.VSIBENCH)
