import numpy as np
import pytest
from support import Worker, event, same_state

from consumer.events import key64
from model.item_statistics import HALF_LIFE_EVENTS, ItemStatistics
from model.vocabulary import Vocabulary


def learned(pairs, parts=1):
    items = Vocabulary(64)
    items.observe(np.array([key64(n) for n in range(1, 11)]), list(range(1, 11)), 0)
    statistics = ItemStatistics(items)
    for part in np.array_split(np.arange(len(pairs)), parts):
        more(statistics, [pairs[index] for index in part])
    return statistics


def more(statistics, pairs):
    contexts = Worker().histories.stage([event(user, item) for user, item in pairs]).contexts
    statistics.learn(contexts, np.arange(len(pairs)))


PAIRS = [("a", 1), ("b", 1), ("a", 2), ("b", 1), ("b", 99), ("a", 2), ("c", 3)]


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_counts_the_last_event_and_the_last_of_somebody_else(parts):
    count, user, last = learned(PAIRS, parts).read()
    assert count[1:4] == pytest.approx([3.0, 2.0, 1.0], rel=1e-3)
    assert user[1:4].tolist() == [key64("b"), key64("a"), key64("c")]
    assert last[1:4].tolist() == [[4, 1], [6, 0], [7, 0]]
    assert not last[0].any()


def test_counts_halve_after_the_half_life():
    statistics = learned([("a", 1)])
    statistics._increment *= 2.0 ** ((HALF_LIFE_EVENTS - 1) / HALF_LIFE_EVENTS)
    assert statistics.read()[0][1] == pytest.approx(0.5)


def test_an_evicted_row_starts_clean():
    statistics = learned(PAIRS)
    statistics.evict([1])
    count, user, last = statistics.read()
    assert (count[1], user[1], last[1].tolist()) == (0.0, 0, [0, 0])
    assert count[2] > 0.0


def test_a_forgotten_user_is_not_named():
    statistics = learned(PAIRS)
    statistics.forget(key64("b"))
    assert key64("b") not in statistics.state().arrays["user"].tolist()


def test_the_state_goes_on():
    statistics = learned(PAIRS)
    other = ItemStatistics(statistics.items)
    other.load(statistics.state())
    for one in (statistics, other):
        more(one, PAIRS[::-1])
    assert same_state(statistics.state(), other.state())
