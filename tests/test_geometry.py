"""Geometry against naive implementations and values from other programs."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from vsr.errors import VsrError
from vsr.scenes import geometry
from vsr.scenes.geometry import alpha_area, box_distance, box_points, turn_angle
from vsr.scenes.scene import Box


def random_box(rng: np.random.Generator, spread: float = 3.0) -> Box:
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Box("box", rng.uniform(-spread, spread, 3), rng.uniform(0.02, 0.8, 3), axes)


@pytest.mark.parametrize(
    ("query", "degrees"), [((0, 2), 0), ((-1, 1), 45), ((-3, 0), 90), ((0, -1), 180), ((2, 0), 270), ((1, 1), 315)]
)
def test_turn_angle_is_counter_clockwise_from_ahead(query, degrees):
    shift = np.array([5.0, -2.0])
    assert turn_angle(shift, shift + np.array([0, 1]), shift + query) == pytest.approx(degrees)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_box_distance_equals_all_pairs(seed):
    rng = np.random.default_rng(seed)
    one, other = random_box(rng, spread=rng.choice([0.3, 3.0])), random_box(rng)
    naive = cdist(box_points(one), box_points(other)).min()
    assert box_distance(one, other) == pytest.approx(naive, abs=1e-12)
    assert box_distance(other, one) == pytest.approx(naive, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_box_points_fill_the_box_without_its_core(seed):
    box = random_box(np.random.default_rng(seed))
    local = (box_points(box) - box.center) @ box.axes.T / box.size
    assert (np.abs(local) <= 0.5 + 1e-9).all()
    assert (np.abs(local).max(axis=1) > 0.25 - 1e-9).all()


def test_axis_aligned_boxes_have_exact_gaps():
    cube = Box("a", np.zeros(3), np.ones(3), np.eye(3))
    other = Box("b", np.array([2.5, 0, 0]), np.ones(3), np.eye(3))
    assert len(box_points(cube)) == 20**3 - 10**3
    assert box_distance(cube, other) == 1.5


def test_a_tiny_box_is_sampled_at_a_finer_step():
    speck = Box("speck", np.array([1.0, 2.0, 3.0]), np.array([0.01, 0.02, 0.01]), np.eye(3))
    # at 0.05 m it has one point, a corner that rounding puts outside
    assert len(box_points(speck)) > 1
    assert (np.abs(box_points(speck) - speck.center) <= speck.size / 2 + 1e-12).all()


@given(*[st.floats(-100, 100, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6)] * 3)
def test_fused_multiply_add_rounds_once(x, y, add):
    exact = Fraction(x) * Fraction(y) + Fraction(add)
    assert geometry._fused(np.array([x]), y, np.array([add]))[0] == float(exact)


@pytest.mark.parametrize(
    ("alpha", "area"), [(5, 20.306225247708145), (1, 21.11817342880138), (0.1, 22.049367642362615)]
)
def test_alpha_area_equals_the_alphashape_package(alpha, area):
    """Golden values of alphashape 1.3.1 on an L-shaped floor with a hole, which it fills."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (4000, 2)) * [6, 4]
    points = points[~((points[:, 0] > 4) & (points[:, 1] > 2.5))]
    points = points[np.hypot(points[:, 0] - 2, points[:, 1] - 2) > 0.6]
    assert alpha_area(points, alpha) == pytest.approx(area, rel=1e-12)


def test_alpha_area_ignores_repetitions_order_and_place():
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 3, (800, 2))
    area = alpha_area(points, 2.0)
    again = np.concatenate([points, points[:100]])
    assert alpha_area(rng.permutation(again), 2.0) == pytest.approx(area)
    assert alpha_area(points + 1e4, 2.0) == pytest.approx(area, rel=1e-6)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((5, 2)), np.outer(np.arange(5.0), [1, 2])])
def test_points_without_area_are_an_error(points):
    with pytest.raises(VsrError, match="span no area"):
        alpha_area(points, 1.0)
