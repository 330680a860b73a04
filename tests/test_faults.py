"""A study killed at random moments ends, run again, with the bytes of an unbroken one: see `faults`."""

import faults
import pytest


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_tables_figures_and_summaries():
    assert faults.check(kills=3, seed=1) > 20
