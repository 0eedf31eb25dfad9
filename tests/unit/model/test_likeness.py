import numpy as np
import pytest

from model.likeness import DECAY, SESSION_ITEMS, likeness

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(12, 24)).astype(np.float32)


def cosine(one, two):
    return float(one @ two / np.sqrt((one @ one) * (two @ two)))


def unit(row):
    return WEIGHT[row] / np.sqrt(WEIGHT[row] @ WEIGHT[row])


def of(rows, opens, asked, position=None):
    rows_RT = np.array([rows], np.int32)
    position_Q = np.array([len(rows) - 1 if position is None else position], np.int32)
    lines = np.zeros(1, np.int32)
    return likeness(WEIGHT, rows_RT, np.array([opens], bool), lines, position_Q, np.array([asked], np.int32))[0]


def test_cosines_with_the_latest_item_and_with_the_mean_of_the_session():
    out = of([1, 2, 3], [True, False, False], [5, 6])
    mean = unit(3) + DECAY * unit(2) + DECAY**2 * unit(1)
    for line, item in zip(out, (5, 6), strict=True):
        assert line == pytest.approx([cosine(WEIGHT[item], WEIGHT[3]), cosine(WEIGHT[item], mean)], abs=1e-5)


def test_earlier_sessions_and_what_lies_too_far_back_do_not_count():
    one = of([1, 2, 3], [True, True, False], [5])[0, 1]
    assert one == pytest.approx(cosine(WEIGHT[5], unit(3) + DECAY * unit(2)), abs=1e-5)
    long = [9, 8, *range(1, SESSION_ITEMS + 1)]
    kept = sum(DECAY**lag * unit(SESSION_ITEMS - lag) for lag in range(SESSION_ITEMS))
    assert of(long, [True] + [False] * (len(long) - 1), [7])[0, 1] == pytest.approx(cosine(WEIGHT[7], kept), abs=1e-5)


def test_what_is_not_known_is_like_nothing():
    assert of([1, 0], [True, False], [5, 0])[:, 0].tolist() == [0.0, 0.0]
    assert of([1, 0], [True, False], [5])[0, 1] == pytest.approx(cosine(WEIGHT[5], WEIGHT[1]), abs=1e-5)
    assert of([1, 2], [True, False], [5, 6], position=-1).tolist() == [[0.0, 0.0]] * 2
    assert of([1, 2], [True, False], [2, 5])[0, 0] == 0.0  # the latest item itself


def test_a_cleared_row_is_like_nothing():
    weight = WEIGHT.copy()
    weight[5] = 0.0
    rows, opens = np.array([[1, 2]], np.int32), np.array([[True, False]])
    one = np.zeros(1, np.int32)
    out = likeness(weight, rows, opens, one, one + 1, np.array([[5]], np.int32))
    assert out[0, 0].tolist() == [0.0, 0.0]
