from dataclasses import replace

import numpy as np
import pytest
from support import Worker, event, same_state

from consumer.events import key64
from model.latest_items import GROUP_L, LENGTH, PRIOR_EVENTS, LatestItems
from model.smoothing import Smoothing
from model.vocabulary import UNKNOWN, Vocabulary

KNOWN = 40
NO_SMOOTHING = Smoothing(1e-9, KNOWN, 0.0)


def made(*pushed):
    items = Vocabulary(64)
    items.observe(np.array([key64(n) for n in range(1, KNOWN + 1)]), list(range(1, KNOWN + 1)), 0)
    latest = LatestItems(items)
    latest.push(np.array(pushed, np.int32))
    return latest


def listed(latest, *events, shown=False, n=8):
    """What is proposed after each event."""
    contexts = Worker().histories.stage(events).contexts
    contexts = replace(contexts, shown_B=contexts.learn_B & shown)
    rows = latest.view(contexts, NO_SMOOTHING).propose(n)[0]
    return [[row for row in rows[state].tolist() if row != UNKNOWN] for state in contexts.after_B]


def test_the_latest_come_first_and_none_twice():
    assert listed(made(1, 2, 3, 2, 0, 1), event("u", "new")) == [[1, 2, 3]]


def test_the_list_is_bounded():
    latest = made(*range(1, LENGTH + 10))
    rows = listed(latest, event("u", "new"), n=64)[0]
    assert rows[:4] == [LENGTH + 9, LENGTH + 8, LENGTH + 7, LENGTH + 6]
    assert sorted(rows) == list(range(10, LENGTH + 10))  # places of one group weigh the same
    assert len(latest.state().arrays["rows"]) == LENGTH


def test_what_the_user_had_is_left_out():
    assert listed(made(1, 2, 3), event("u", 2)) == [[3, 1]]


def test_a_state_sees_the_micro_batch_up_to_its_moment():
    events = [event("u", 4), event("v", 5), event("u", 6), event("w", 7)]
    latest = made(1)
    assert listed(latest, *events, shown=True) == [[1], [4, 1], [5, 1], [6, 5, 4, 1]]
    assert listed(latest, *events) == [[1]] * 4
    assert listed(latest, event("u", 2), shown=False) == [[1]]  # and nothing was pushed by looking


def test_weights_are_the_credit_of_the_places_that_are_taken():
    p = made(1, 2, 3).view(Worker().histories.stage([event("u", 9)]).contexts, NO_SMOOTHING)
    p = p.score(np.array([0]), np.array([[3, 2, 1, 9]], np.int32))[0]
    assert p == pytest.approx(np.array([4, 2, 1, 0]) / 7, abs=1e-6)


def test_a_place_where_targets_stand_gains_weight():
    latest = made(1, 2, 3)
    contexts = Worker().histories.stage([event("u", 9), event("v", 9)]).contexts
    before, view = latest.state().arrays["credit"], latest.view(contexts, NO_SMOOTHING)
    states = contexts.before_B.astype(np.int64)
    latest.learn(view, states, np.array([1, UNKNOWN], np.int32))
    latest.learn(view, states, np.array([9, 8], np.int32))
    gained = latest.state().arrays["credit"] - before
    assert gained[GROUP_L[2]] == pytest.approx(1.0, abs=0.01)
    assert abs(np.delete(gained, GROUP_L[2])).max() < 0.01
    assert before[0] == PRIOR_EVENTS


def test_an_evicted_row_leaves_the_list():
    latest = made(1, 2, 3)
    latest.evict([2, 30])
    assert listed(latest, event("u", "new")) == [[3, 1]]
    latest.push(np.array([2], np.int32))
    assert listed(latest, event("u", "new")) == [[2, 3, 1]]


def test_the_state_goes_on():
    latest = made(1, 2, 3)
    other = LatestItems(latest.items)
    other.load(latest.state())
    for one in (latest, other):
        one.push(np.array([5, 1], np.int32))
    assert same_state(latest.state(), other.state())
    latest.forget(key64("u"))
    assert same_state(latest.state(), other.state())
