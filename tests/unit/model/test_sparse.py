import numpy as np
import pytest

from model.smoothing import Smoothing
from model.sparse import SparseView, gather, heaviest, look_up

START = np.array([0, 3, 3, 5])
ROWS = np.array([4, 2, 9, 7, 1], np.int32)
Q = np.array([0.2, 0.5, 0.3, 0.25, 0.25], np.float32)


def view():
    return SparseView(START, ROWS, Q, 10, Smoothing(1e-9, 9, 0.0))


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_the_heaviest_come_first_ties_by_row(n):
    draw = np.random.default_rng(n)
    sizes = draw.integers(0, 30, 8)
    start = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.concatenate([draw.permutation(np.arange(1, 60))[:size] for size in sizes]).astype(np.int32)
    q = draw.integers(0, 6, start[-1]).astype(np.float32)
    got_rows, got_q = heaviest(start, rows, q, n)
    for state in range(8):
        part = range(start[state], start[state + 1])
        expected = sorted((-q[index], rows[index]) for index in part if q[index] > 0)[:n]
        filled = len(expected)
        assert got_rows[state, :filled].tolist() == [row for _, row in expected]
        assert got_q[state, :filled].tolist() == [-weight for weight, _ in expected]
        assert not got_rows[state, filled:].any()
        assert not got_q[state, filled:].any()


def test_weights_are_found_by_state_and_row():
    asked = np.array([[2, 4, 7, 0], [2, 4, 7, 0]], np.int32)
    found = gather(START, ROWS, Q, np.array([2, 0]), asked, 10)
    assert found == pytest.approx(np.array([[0.0, 0.0, 0.25, 0.0], [0.5, 0.2, 0.0, 0.0]]))


@pytest.mark.parametrize("row", range(10))
def test_one_row_alone_is_found_as_among_others(row):
    states, asked = np.array([2, 0, 1, 0]), np.full(4, row, np.int32)
    among_others = gather(START, ROWS, Q, states, asked[:, None], 10)
    assert look_up(START, ROWS, Q, states, asked).tolist() == among_others[:, 0].tolist()


def test_what_a_state_leaves_is_spread_evenly():
    p = view().score(np.arange(3), np.tile(np.arange(1, 10, dtype=np.int32), (3, 1)))
    assert p.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert p[1] == pytest.approx(np.full(9, 1 / 9), abs=1e-6)
    assert p[2, 2] == pytest.approx(0.5 / 9, abs=1e-6)


def test_proposals_have_the_probabilities_that_scores_have():
    rows, p = view().propose(4)
    assert rows.tolist() == [[2, 9, 4, 0], [0, 0, 0, 0], [1, 7, 0, 0]]
    scores = view().score(np.arange(3), rows)
    assert p[rows > 0] == pytest.approx(scores[rows > 0])
    assert not p[rows == 0].any()


def test_holds():
    assert view().holds(np.array([0, 1]), np.array([[4, 7], [4, 7]], np.int32)).tolist() == [[True, False], [False] * 2]
