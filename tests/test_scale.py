"""`vsr bench scale` on paper: what must hold whatever the rates."""

import numpy as np
import pytest

from vsr.bench import scale
from vsr.estimate import workload
from vsr.profiles import PROFILES

MEASURED = {"scans": 100, "read": {"cpu_s": 66.0}, "ask": {"wall_s": 12.0}}


def test_a_build_is_its_serial_part_on_many_cores():
    assert scale.build(MEASURED, 1513, 10**9) == pytest.approx(12.0)
    assert scale.build(MEASURED, 1513, 1) == pytest.approx(15.13 * 66 + 12)


def test_where_a_part_stops():
    assert scale.stops_at({1: 8.0, 2: 4.0, 4: 3.5, 8: 3.4}) == 2
    assert scale.stops_at({1: 8.0, 2: 4.0}) == 2  # no more can be used
    assert scale.stops_at({1: 1.0}) == 1


def test_one_device_waits_for_nobody_and_more_wait_longer():
    work = workload.of(PROFILES["paper-2b"], "think")
    waits = [scale.slowest(work, 8 // gpus, 14, gpus) for gpus in (1, 2, 4, 8)]
    assert waits[0] == 1
    assert list(np.sort(waits)) == waits
    assert waits[-1] < 2


def test_gradients_cost_nothing_alone():
    assert scale.reduction(1e8, 392, 1) == 0
    assert 0 < scale.reduction(1e8, 392, 2) < scale.reduction(1e8, 392, 8) < 0.1
