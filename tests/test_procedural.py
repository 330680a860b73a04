"""Rooms: the same per seed, physically possible, seen by their camera, and of the sizes real rooms have."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import shapely

from vsr.errors import VsrError
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.procedural import SPLIT_SIZE, SPLITS, STUDY, make_room, seeds
from vsr.miniature.render import render

# medians of the longest three sides over VSI-Bench's 288 scenes, and the quartiles of their room sizes
REAL_SIDES = {
    "chair": (0.83, 0.55, 0.45), "table": (1.21, 0.77, 0.61), "door": (2.01, 0.96, 0.10), "sofa": (1.82, 0.98, 0.79),
    "monitor": (0.58, 0.48, 0.18), "bed": (2.15, 1.56, 0.66), "stool": (0.49, 0.41, 0.35),
    "refrigerator": (1.66, 0.70, 0.59), "toilet": (0.75, 0.58, 0.38), "bookshelf": (1.99, 0.99, 0.38),
    "tv": (0.93, 0.56, 0.06), "trash bin": (0.45, 0.39, 0.29), "plant": (0.44, 0.31, 0.21), "lamp": (0.62, 0.32, 0.25),
    "bathtub": (1.65, 0.71, 0.57), "washer": (0.86, 0.64, 0.60),
}  # fmt: skip
REAL_AREAS = (11.2, 17.5, 26.9)
OTHER = dataclasses.replace(  # crowded and empty rooms of other shapes, filmed from lower down
    STUDY, unique=(4, 7), areas=(10.0, 13.0, 20.0, 34.0, 75.0), aspect=1.9, scales=(0.5, 0.9, 1.6), camera_height=1.2
)


@pytest.fixture(scope="module")
def study_rooms():
    return [make_room(seed) for seed in seeds("train", 200)]


def footprint(box):
    return shapely.MultiPoint(box.corners()[:, :2]).convex_hull


def test_same_seed_same_room():
    for world in (STUDY, OTHER):
        first, second = make_room(7, world), make_room(7, world)
        assert first.id == second.id == "room-000007"
        assert first.room_size == second.room_size
        for a, b in zip(first.objects, second.objects, strict=True):
            assert a.label == b.label
            for name in ("center", "size", "axes"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_different_seeds_different_rooms():
    assert len({make_room(seed).room_size for seed in range(20)}) == 20


@pytest.mark.parametrize("world", [STUDY, OTHER])
def test_rooms_are_possible(world):
    for seed in seeds("probe", 12):
        room = make_room(seed, world)
        inside = shapely.Polygon(room.floor)
        assert inside.area == pytest.approx(room.room_size)
        shapes = [footprint(box) for box in room.objects]
        path = shapely.MultiPoint(room.camera.position[:, :2])
        for index, (box, shape) in enumerate(zip(room.objects, shapes, strict=True)):
            np.testing.assert_allclose(box.axes @ box.axes.T, np.eye(3), atol=1e-12)
            heights = box.corners()[:, 2]
            assert heights.min() >= -1e-9
            assert heights.max() <= room.height
            assert inside.contains(shape)
            assert shape.distance(path) >= world.clearance
            assert all(shape.distance(other) >= world.gap - 1e-9 for other in shapes[:index])


@pytest.mark.parametrize("world", [STUDY, OTHER])
def test_every_object_is_seen_and_kept_apart(world):
    for seed in seeds("probe", 8):
        room = make_room(seed, world)
        ids = render(room, world.width, world.height, samples=1).ids
        assert set(np.unique(ids)) - {-1} == set(range(len(room.objects)))
        offsets = np.array([box.center[:2] for box in room.objects]) - room.camera.position[0, :2]
        bearings = np.sort(np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0])))
        gaps = np.diff(np.append(bearings, bearings[0] + 360))
        assert gaps.min() >= world.separation - 1e-9


def test_labels_are_as_the_world_says(study_rooms):
    for room in study_rooms:
        many = [label for label, count in room.counts.items() if count > 1]
        assert len(many) == 1
        assert 2 <= room.counts[many[0]] <= 5
        assert len(room.once()) == 6
        assert room.counts == {label: len(room.labelled(label)) for label in room.counts}
    assert {label for room in study_rooms for label in room.counts} == set(CATALOGUE) == set(REAL_SIDES)


def test_sizes_follow_the_real_medians(study_rooms):
    """Within 15 %: the largest beds fit few rooms, the smallest plants are too small to be seen from afar."""
    sides = {label: [] for label in REAL_SIDES}
    for room in study_rooms:
        for box in room.objects:
            sides[box.label].append(np.sort(box.size)[::-1])
    for label, real in REAL_SIDES.items():
        np.testing.assert_allclose(np.median(sides[label], axis=0), real, rtol=0.15, err_msg=label)


def test_room_sizes_follow_the_real_quartiles():
    areas = [make_room(seed, dataclasses.replace(STUDY, unique=(0, 0), min_pixels=0)).room_size for seed in range(400)]
    np.testing.assert_allclose(np.percentile(areas, [25, 50, 75]), REAL_AREAS, rtol=0.1)


def test_no_constant_counts_well(study_rooms):
    """Mean relative accuracy of the best constant answer to 'how many', uniform counts from 2 to 5 would give 0.50."""
    counts = np.array([max(room.counts.values()) for room in study_rooms])
    thresholds = 1 - np.linspace(0.5, 0.95, 10)
    best = max(np.mean(np.abs(c - counts) / counts <= thresholds[:, None]) for c in range(1, 9))
    assert best < 0.47


def test_category_does_not_tell_size(study_rooms):
    """Answering each object's size by its category's real median scores well below a reader of the picture."""
    sizes = np.array(
        [(box.size.max(), max(CATALOGUE[box.label].extents)) for room in study_rooms for box in room.once()]
    )
    error = np.abs(sizes[:, 1] - sizes[:, 0]) / sizes[:, 0]
    assert np.mean(error[:, None] <= 1 - np.linspace(0.5, 0.95, 10)) < 0.7


def test_spin_turns_left_and_covers_everything():
    camera = make_room(3).camera
    assert np.ptp(camera.position, axis=0).max() == 0
    turns = np.degrees(np.unique(np.round(camera.yaw - math.pi / 2, 9)))
    np.testing.assert_allclose(turns, np.arange(0, 360, 45), atol=1e-6)
    assert camera.yaw[0] == math.pi / 2
    assert math.degrees(camera.fov) > 45


def test_splits_are_disjoint():
    ranges = [seeds(split, SPLIT_SIZE) for split in SPLITS]
    assert len(set().union(*map(set, (r[::1000] for r in ranges)))) == sum(len(r[::1000]) for r in ranges)
    edges = sorted((r[0], r[-1]) for r in ranges)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(edges))


def test_bad_requests_are_named():
    with pytest.raises(VsrError, match="did you mean 'train'"):
        seeds("trian", 3)
    with pytest.raises(VsrError, match=r"room 0: no furnishing found"):
        make_room(0, dataclasses.replace(STUDY, fill=0.0))
