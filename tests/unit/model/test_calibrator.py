from __future__ import annotations

import numpy as np
import pytest
from support import Worker, random_events, same_state

from model.calibrator import Calibrator

FIRST, SECOND, COVERED = np.array([0.1, 0.2, 0.4]), np.array([0.05, 0.01, 0.01]), np.full(3, 0.9)


def taught(ratio, events=40_000, batch=200, seed=0):
    """A calibrator whose first items came `ratio` times as often as they were given."""
    draw = np.random.default_rng(seed)
    calibrator = Calibrator()
    for _ in range(events // batch):
        given = draw.choice(FIRST, batch)
        calibrator.learn(given, draw.random(batch) < ratio * given)
    return calibrator


def test_it_begins_by_changing_nothing():
    given, factor = Calibrator().correct(FIRST, SECOND, COVERED)
    assert given == pytest.approx(FIRST)
    assert factor == pytest.approx(np.ones(3))


@pytest.mark.parametrize("ratio", [0.6, 1.5])
def test_it_gives_what_comes(ratio):
    given, factor = taught(ratio).correct(FIRST, SECOND, COVERED)
    assert given == pytest.approx(ratio * FIRST, rel=0.15)
    assert given + factor * (COVERED - FIRST) == pytest.approx(COVERED)


def test_the_first_stays_the_first():
    first, second = np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.19, 0.3])
    given, factor = taught(0.3).correct(first, second, COVERED)
    assert (given >= factor * second - 1e-9).all()
    assert (given < first).any()


def test_a_list_of_nothing_or_of_one_is_left_alone():
    given, factor = taught(1.5).correct(np.array([0.0, 0.3]), np.zeros(2), np.array([0.0, 0.3]))
    assert given.tolist() == [0.0, 0.3]
    assert factor.tolist() == [1.0, 1.0]


def test_empty_lists_teach_nothing_and_what_was_long_ago_fades():
    calibrator = taught(0.5)
    before = calibrator.state()
    calibrator.learn(np.zeros(100), np.zeros(100, np.bool_))
    assert same_state(before, calibrator.state())
    draw = np.random.default_rng(1)
    for _ in range(100):
        calibrator.learn(np.full(200, 0.2), draw.random(200) < 0.3)
    assert calibrator.correct(FIRST[1:2], SECOND[1:2], COVERED[1:2])[0] == pytest.approx(0.3, rel=0.1)


def test_it_comes_back_as_it_was():
    calibrator, again = taught(0.7), Calibrator()
    again.load(calibrator.state())
    assert same_state(calibrator.state(), again.state())


def test_rankings_stay_and_probabilities_still_sum_to_one():
    """Only the probabilities of a list change, and only inside what the candidates have together."""
    worker = Worker()
    worker.run(random_events(160), batch=16)
    events = random_events(20, seed=1)
    _, plain, listed = worker.look(events)
    given = np.tile(listed.p_BK[:, 0].astype(float), 200)
    each = np.arange(len(given))
    worker.model.calibrator.learn(given, each % 20 == each // 20 % 20)  # 0.05 of every list, where less was given
    _, scores, calibrated = worker.look(events)
    assert scores.rank_B.tolist() == plain.rank_B.tolist()
    assert calibrated.rows_BK.tolist() == listed.rows_BK.tolist()
    assert (calibrated.p_BK[:, 0] > listed.p_BK[:, 0]).all()
    assert (np.diff(calibrated.p_BK, axis=1) <= 1e-7).all()
    assert scores.top_raw_B == pytest.approx(plain.top_raw_B)
    first = scores.rank_B == 0
    assert (scores.log_prob_B[first] > plain.log_prob_B[first]).all()
