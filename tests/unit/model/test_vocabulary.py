import numpy as np
import pytest

from consumer.events import key64
from model.vocabulary import UNKNOWN, KeyTable, Vocabulary


def keys(*names):
    return np.array([key64(name) for name in names], np.int64)


def observe(vocabulary, names, event):
    return vocabulary.observe(keys(*names), names, event)


def test_rows_are_given_in_stream_order_from_one():
    vocabulary = Vocabulary(16)
    assert observe(vocabulary, ["b", "a", "b", "c"], 0) == ([0, 1, 3], [])
    assert vocabulary.lookup(keys("a", "b", "c", "d")).tolist() == [2, 1, 3, UNKNOWN]
    assert vocabulary.names == [None, "b", "a", "c"]
    assert (vocabulary.size, vocabulary.rows) == (3, 4)
    assert vocabulary.keys(np.array([[0, 1], [2, 3]], np.int32)).tolist() == [
        [0, key64("b")],
        [key64("a"), key64("c")],
    ]


def test_an_item_is_admitted_where_it_reaches_the_minimum_count():
    vocabulary = Vocabulary(16, min_count=3)
    assert observe(vocabulary, ["a", "b", "a"], 0) == ([], [])
    assert observe(vocabulary, ["b", "a", "a"], 3) == ([1], [])
    assert observe(vocabulary, ["b"], 6) == ([0], [])
    assert vocabulary.lookup(keys("a", "b")).tolist() == [1, 2]


def test_counts_below_the_minimum_are_bounded_the_oldest_is_forgotten():
    vocabulary = Vocabulary(4, min_count=2)
    observe(vocabulary, ["a", "b", "c", "d", "e"], 0)
    assert observe(vocabulary, ["a"], 5)[0] == []
    assert observe(vocabulary, ["e"], 6)[0] == [0]


def test_the_item_unseen_for_longest_makes_room_and_its_row_is_reused():
    vocabulary = Vocabulary(3)
    observe(vocabulary, ["a", "b", "c"], 0)
    observe(vocabulary, ["a"], 3)
    assert observe(vocabulary, ["d"], 4) == ([0], [2])
    assert vocabulary.lookup(keys("a", "b", "c", "d")).tolist() == [1, UNKNOWN, 3, 2]
    assert vocabulary.names == [None, "a", "d", "c"]


def test_what_the_micro_batch_itself_uses_is_not_evicted():
    vocabulary = Vocabulary(3)
    observe(vocabulary, ["a", "b", "c"], 0)
    admitted, evicted = observe(vocabulary, ["d", "a", "e", "b", "f"], 3)
    assert (admitted, evicted) == ([0], [3])
    assert vocabulary.lookup(keys("a", "b", "d")).tolist() == [1, 2, 3]


def test_more_new_items_than_places_fills_the_vocabulary_and_no_more():
    vocabulary = Vocabulary(4)
    assert observe(vocabulary, list("abcdefgh"), 0) == ([0, 1, 2, 3], [])
    assert vocabulary.size == 4


def test_without_eviction_a_full_vocabulary_stays_as_it_is():
    vocabulary = Vocabulary(2, evict=False)
    observe(vocabulary, ["a", "b", "c"], 0)
    assert observe(vocabulary, ["d"], 3) == ([], [])
    assert vocabulary.lookup(keys("a", "b", "c", "d")).tolist() == [1, 2, 0, 0]


def test_admitted_rows_leave_out_free_ones():
    vocabulary = Vocabulary(1024)
    observe(vocabulary, [f"i{n}" for n in range(1024)], 0)
    _, evicted = observe(vocabulary, ["new"], 1024)
    assert len(evicted) == 4
    free = set(evicted) - {int(vocabulary.lookup(keys("new"))[0])}
    assert set(vocabulary.admitted_rows().tolist()) == set(range(1, 1025)) - free
    assert vocabulary.size == 1021


def test_the_state_goes_on_where_it_was_taken():
    one, other = Vocabulary(6, min_count=2), Vocabulary(6, min_count=2)
    draw = np.random.default_rng(3)
    for step in range(20):
        observe(one, [f"i{n}" for n in draw.integers(12, size=7)], 7 * step)
    other.load(one.state())
    for step in range(20, 60):
        names = [f"i{n}" for n in draw.integers(20, size=7)]
        assert observe(one, names, 7 * step) == observe(other, names, 7 * step)
    assert one.names == other.names
    assert one.state().arrays["last_seen"].tolist() == other.state().arrays["last_seen"].tolist()


@pytest.mark.parametrize("key", [0, -1])
def test_the_two_reserved_keys_are_unknown(key):
    vocabulary = Vocabulary(16)
    observe(vocabulary, ["a"], 0)
    assert vocabulary.lookup(np.array([key], np.int64)).tolist() == [UNKNOWN]
    table = KeyTable()
    table.insert(5, 1)
    table.remove(5)
    assert table.lookup(np.array([5, key], np.int64)).tolist() == [UNKNOWN, UNKNOWN]


def test_the_reserved_key_is_never_admitted():
    vocabulary = Vocabulary(16)
    assert vocabulary.observe(np.array([-1], np.int64), ["odd"], 0) == ([], [])


def test_colliding_keys_are_told_apart_also_after_removals():
    table = KeyTable(8)
    for row, key in enumerate((8, 16, 24), start=1):  # all begin at slot 0
        table.insert(key, row)
    table.remove(16)
    assert table.lookup(np.array([[8, 16], [24, 32]])).tolist() == [[1, 0], [3, 0]]


def test_churn_does_not_make_the_table_grow():
    table = KeyTable(64)
    for key in range(1, 5001):
        table.insert(key, key)
        if key > 10:
            table.remove(key - 10)
    assert table.lookup(np.arange(4985, 5001)).tolist() == [0] * 6 + list(range(4991, 5001))
    assert len(table._keys) == 64
