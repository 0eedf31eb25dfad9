import numpy as np
import pytest
from support import Worker, event, same_state

from consumer.events import key64
from model.replies import DECAY, LENGTH, Replies
from model.smoothing import Smoothing
from model.vocabulary import Vocabulary

NO_SMOOTHING = Smoothing(1e-9, 40, 0.0)


def learned(pairs):
    items = Vocabulary(64)
    items.observe(np.array([key64(n) for n in range(1, 41)]), list(range(1, 41)), 0)
    replies = Replies(items)
    more(replies, pairs)
    return replies


def more(replies, pairs):
    contexts = Worker().histories.stage([event(user, item) for user, item in pairs]).contexts
    replies.learn(contexts, np.arange(len(pairs)))


def weights_of(replies, user):
    contexts = Worker().histories.stage([event(user, 1)]).contexts
    return replies.view(contexts, NO_SMOOTHING).score(contexts.before_B[:1], np.arange(1, 41, dtype=np.int32)[None])[0]


def test_who_acted_on_me_lately_comes_next_the_latest_first():
    q = weights_of(learned([(7, 5), (8, 5), (7, 5), (9, 6)]), 5)
    expected = np.zeros(41)
    expected[7], expected[8] = 1.0 + DECAY**2, DECAY
    assert q == pytest.approx(expected[1:] / expected.sum(), abs=1e-6)


def test_only_the_latest_are_kept():
    q = weights_of(learned([(1 + n % 40, 5) for n in range(4, 4 + LENGTH + 3)]), 5)
    assert (q > 1e-6).sum() == LENGTH


def test_users_that_are_no_items_hold_nothing():
    replies = learned([("somebody", 5), (99, 5)])
    assert weights_of(replies, 5) == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert weights_of(replies, "somebody") == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert not len(replies.state().arrays["rows"])


@pytest.mark.parametrize("remove", [lambda r: r.evict([7]), lambda r: r.forget(key64(7))])
def test_what_is_evicted_or_forgotten_is_gone_on_both_sides(remove):
    replies = learned([(7, 5), (8, 5), (3, 7)])
    remove(replies)
    q = weights_of(replies, 5)
    assert q[6] == pytest.approx(0.0, abs=1e-6)
    assert q[7] == pytest.approx(1.0)
    assert weights_of(replies, 7) == pytest.approx(np.full(40, 1 / 40), abs=1e-6)


def test_forgetting_a_stranger_changes_nothing():
    replies = learned([(7, 5)])
    before = replies.state()
    replies.forget(key64("stranger"))
    assert same_state(before, replies.state())


def test_the_state_goes_on():
    replies = learned([(7, 5), (8, 5), (3, 7)])
    other = Replies(replies.items)
    other.load(replies.state())
    for one in (replies, other):
        more(one, [(2, 5), (7, 39), (39, 7)])
    assert same_state(replies.state(), other.state())
    assert weights_of(replies, 7).tolist() == weights_of(other, 7).tolist()
