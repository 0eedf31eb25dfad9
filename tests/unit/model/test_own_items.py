import numpy as np
import pytest
from support import Worker, event, same_state, small_settings

from consumer.events import key64
from model.own_items import BORDERS, PRIOR_EVENTS, OwnItems, lag_groups
from model.smoothing import Smoothing
from model.vocabulary import UNKNOWN, Vocabulary

NO_SMOOTHING = Smoothing(1e-9, 10, 0.0)


def setup(*histories, length=40, known=10):
    """One row per user; items are 1..known, others are not admitted. The last state of each user is what counts."""
    items = Vocabulary(64)
    items.observe(np.array([key64(n) for n in range(1, known + 1)]), list(range(1, known + 1)), 0)
    worker = Worker(small_settings(history={"length": length}))
    events = [event(f"u{user}", item) for user, history in enumerate(histories) for item in history]
    contexts = worker.histories.stage(events).contexts
    last = [int(contexts.after_B[np.flatnonzero(contexts.event_row_B == row)[-1]]) for row in range(len(histories))]
    return OwnItems(items), contexts, np.array(last)


def naive(history, credit, known=10):
    """p of each item, from the definition: groups present share, evenly over their lags with a known item."""
    groups = lag_groups(len(history)) if history else []
    lags = [(int(group), item) for group, item in zip(groups, reversed(history), strict=True) if item <= known]
    present = {group: sum(g == group for g, _ in lags) for group, _ in lags}
    total = sum(credit[group] for group in present)
    p = np.zeros(known + 1)
    for group, item in lags:
        p[item] += credit[group] / total / present[group]
    return p


def test_lag_groups():
    assert lag_groups(14).tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7]
    assert lag_groups(8192)[-1] == len(BORDERS) - 2


def test_probabilities_are_those_of_the_definition():
    histories = [[1, 2, 1, 3], [5], [1, 99, 2, 98, 2, 3, 4, 1, 1, 5, 6, 7, 2], [7, 7, 7]]
    own, contexts, last = setup(*histories)
    credit = own.state().arrays["credit"]
    view = own.view(contexts, NO_SMOOTHING)
    p = view.score(last, np.tile(np.arange(11, dtype=np.int32), (4, 1)))
    for row, history in enumerate(histories):
        assert p[row] == pytest.approx(naive(history, credit), abs=1e-6), history


def test_every_state_sums_to_one_with_unknown():
    own, contexts, _ = setup([1, 2, 99, 1], [98], [3])
    view = own.view(contexts, Smoothing(0.05, 10, 0.3))
    states = np.arange(contexts.states)
    p = view.score(states, np.tile(np.arange(11, dtype=np.int32), (contexts.states, 1)))
    assert p.sum(axis=1) == pytest.approx(np.ones(contexts.states), abs=1e-5)


def test_a_state_without_a_known_item_is_uniform():
    own, contexts, last = setup([98, 99], [1])
    before = np.array([contexts.before_B[-1], last[0]])
    p = own.view(contexts, NO_SMOOTHING).score(before, np.tile(np.arange(1, 11, dtype=np.int32), (2, 1)))
    assert p.flatten().tolist() == pytest.approx([0.1] * 20, abs=1e-6)


def test_own_items_are_proposed_best_first_and_nothing_else():
    own, contexts, last = setup([1, 2, 1, 3], [99])
    rows, p = own.view(contexts, NO_SMOOTHING).propose(5)
    assert rows[last[0]].tolist() == [3, 1, 2, UNKNOWN, UNKNOWN]
    assert (p[last[0], 3:] == 0.0).all()
    assert (p[last[0], :3] > 0.0).all()
    assert rows[last[1]].tolist() == [UNKNOWN] * 5
    few, _ = own.view(contexts, NO_SMOOTHING).propose(2)
    assert few[last[0]].tolist() == [3, 1]


def test_holds_is_the_history_of_that_state():
    own, contexts, _ = setup([1, 2], [3])
    view = own.view(contexts, NO_SMOOTHING)
    asked = np.tile(np.arange(4, dtype=np.int32), (2, 1))
    assert view.holds(contexts.before_B[:2], asked).tolist() == [[False] * 4, [False, True, False, False]]
    assert view.holds(contexts.after_B[1:], asked).tolist() == [[False, True, True, False], [False] * 3 + [True]]


def test_credit_goes_to_the_lags_that_held_the_item():
    own, contexts, last = setup([1, 2, 3, 2])
    before = own.state().arrays["credit"].copy()
    own.learn(own.view(contexts, NO_SMOOTHING), last, np.array([2], np.int32))
    gained = own.state().arrays["credit"] - before
    weight = {0: 1.0, 2: 0.25}  # the prior of lag groups falls by half
    assert gained[0] == pytest.approx(weight[0] / 1.25, rel=0.01)
    assert gained[2] == pytest.approx(weight[2] / 1.25, rel=0.01)
    assert abs(gained[1]) < 0.001


@pytest.mark.parametrize("target", [UNKNOWN, 9])
def test_what_is_no_repeat_teaches_nothing(target):
    own, contexts, last = setup([1, 99, 2])
    before = own.state()
    own.learn(own.view(contexts, NO_SMOOTHING), last, np.array([target], np.int32))
    assert same_state(before, own.state())


def test_the_weights_follow_the_stream():
    """Where everyone returns to the item three events ago, lag 2 comes to weigh most."""
    own, contexts, last = setup([1, 2, 3], [4, 5, 6], [7, 8, 9])
    for _ in range(100):
        own.learn(own.view(contexts, NO_SMOOTHING), last, np.array([1, 4, 7], np.int32))
    assert own.state().arrays["credit"].argmax() == 2
    assert own.view(contexts, NO_SMOOTHING).propose(1)[0][last].tolist() == [[1], [4], [7]]


def test_no_events_are_no_trouble():
    own = setup([1])[0]
    contexts = Worker().histories.stage([]).contexts
    view = own.view(contexts, NO_SMOOTHING)
    assert view.propose(3)[0].shape == (0, 3)
    assert view.score(np.zeros(0, np.int64), np.zeros((0, 2), np.int32)).shape == (0, 2)


def test_the_state_goes_on():
    own, contexts, last = setup([1, 2, 3, 2])
    own.learn(own.view(contexts, NO_SMOOTHING), last, np.array([2], np.int32))
    other = OwnItems(own.items)
    assert other.state().arrays["credit"][0] == PRIOR_EVENTS
    other.load(own.state())
    for one in (own, other):
        one.learn(one.view(contexts, NO_SMOOTHING), last, np.array([3], np.int32))
    assert same_state(own.state(), other.state())
