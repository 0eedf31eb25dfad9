import numpy as np
import pytest

from model.smoothing import HALF_LIFE_EVENTS, Smoothing, UnknownRate


def test_probabilities_sum_to_one_with_unknown():
    q = np.array([0.0, 0.5, 0.3, 0.2])
    p = Smoothing(0.01, 3, 0.2)(q[None], np.arange(4, dtype=np.int32)[None])[0]
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    assert p == pytest.approx([0.99 * 0.2 + 0.0025, *(0.99 * 0.8 * q[1:] + 0.0025)], abs=1e-6)


def test_what_a_component_says_of_unknown_does_not_count():
    smoothing, rows = Smoothing(0.01, 3, 0.2), np.zeros((1, 2), np.int32)
    assert smoothing(np.array([[0.0, 0.9]]), rows).tolist() == smoothing(np.array([[0.5, 0.1]]), rows).tolist()


def test_a_state_shares_out_what_is_known_to_it():
    smoothing = Smoothing(0.01, 3, 0.2, np.array([0, 2]))
    rows = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.int32)
    p = smoothing(np.zeros((2, 4)), rows)
    assert p.sum(axis=1) + (1.0 - 0.01) * 0.8 == pytest.approx([1.0, 1.0 - 2 * 0.01 / 6], abs=1e-6)  # two guests
    assert smoothing(np.zeros((1, 4)), rows[1:], np.array([1])).tolist() == p[1:].tolist()


def test_a_state_that_knows_nothing_says_unknown():
    p = Smoothing(0.01, 0, 0.2, np.array([0, 1]))(np.zeros((2, 1)), np.zeros((2, 1), np.int32))
    assert p[:, 0] == pytest.approx([1.0, 0.99 * 0.2 + 0.005], abs=1e-6)


def test_the_unknown_rate_is_the_share_of_late():
    rate = UnknownRate()
    assert rate.rate == 0.5
    for _ in range(100):
        rate.learn(np.array([0, 1, 2, 3] * 64, np.int32))
    assert rate.rate == pytest.approx(0.25, abs=0.001)
    for _ in range(100):
        rate.learn(np.full(256, 7, np.int32))
    assert rate.rate == pytest.approx(0.25 * 0.5 ** (25600 / HALF_LIFE_EVENTS), rel=0.1)


@pytest.mark.parametrize("rows", [[0] * 50, [1] * 50])
def test_the_rate_never_reaches_zero_or_one(rows):
    rate = UnknownRate()
    for _ in range(50):
        rate.learn(np.array(rows, np.int32))
    assert 0.0 < rate.rate < 1.0


def test_the_state_goes_on():
    one, other = UnknownRate(), UnknownRate()
    one.learn(np.array([0, 0, 1], np.int32))
    other.load(one.state())
    for rate in (one, other):
        rate.learn(np.array([2, 0], np.int32))
    assert one.rate == other.rate
