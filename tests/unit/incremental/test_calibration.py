from __future__ import annotations

import numpy as np
import pytest

from incremental.calibration import BINS, calibration_error, coverage_sums, covered, guess_sums, reliability
from incremental.outcomes import Coverage, Guesses

ALL = np.ones(4, np.bool_)


def test_the_error_is_the_weighted_distance_in_bins_of_equal_width():
    guesses = Guesses(np.array([0.02, 0.04, 0.7, 1.0]), np.array([True, False, True, True]))
    sums = guess_sums(guesses, ALL)
    assert sums.shape == (BINS, 3)
    assert calibration_error(sums) == pytest.approx((2 * abs(0.03 - 0.5) + abs(0.7 - 1.0) + 0.0) / 4)
    found = reliability(sums)["bins"]
    assert found[0] == pytest.approx({"events": 2, "confidence": 0.03, "accuracy": 0.5})
    assert [one["events"] for one in found] == [2, 1, 1]


def test_of_what_is_right_as_often_as_it_says_the_error_is_small():
    draw = np.random.default_rng(0)
    p = draw.random(50_000)
    right = draw.random(50_000) < p
    everything = np.ones(50_000, np.bool_)
    assert calibration_error(guess_sums(Guesses(p, right), everything)) < 0.01
    assert calibration_error(guess_sums(Guesses(np.sqrt(p), right), everything)) > 0.1


def test_events_without_a_guess_or_not_chosen_do_not_count():
    guesses = Guesses(np.array([np.nan, 0.5, 0.5, 0.5]), np.array([False, True, False, True]))
    sums = guess_sums(guesses, np.array([True, True, True, False]))
    assert sums.sum(axis=0).tolist() == [2.0, 1.0, 1.0]


def test_coverage_is_the_share_below_and_of_equals_what_is_needed():
    below = np.array([[True, True, True], [False, True, True], [False, False, True], [False, False, False]])
    nothing = np.zeros((4, 3), np.bool_)
    assert covered(coverage_sums(Coverage(ALL, below, nothing), ALL)) == {"p10": 0.25, "p50": 0.5, "p90": 0.75}
    equal = np.ones((4, 3), np.bool_)
    assert covered(coverage_sums(Coverage(ALL, nothing, equal), ALL)) == {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def test_events_without_a_time_are_not_covered():
    known = np.array([True, False, True, False])
    below = np.tile(known[:, None], (1, 3))
    sums = coverage_sums(Coverage(known, below, ~below), ALL)
    assert sums.tolist() == [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
