import numpy as np
import pytest

from consumer.history_pool import Sequence, SequencePool


def seq(*items):
    keys = np.array(items, np.int64)
    return Sequence(keys, keys * 10, keys * 0.5, keys % 2 == 0)


def items(pool, place, length):
    return pool.read(place, length).items.tolist()


@pytest.mark.parametrize("limit", [2, 8, 10, 32, 33, 128, 130])
def test_a_sequence_keeps_its_latest_events_through_every_size(limit):
    pool = SequencePool(limit)
    place, length, all_items = pool.add(seq(1)), 1, [1]
    neighbour = pool.add(seq(-1, -2))
    for step in range(2, 120):
        more = list(range(1000 * step, 1000 * step + step % 7))
        place, length = pool.append(place, length, seq(*more))
        all_items += more
        kept = all_items[-limit:]
        assert length == len(kept)
        stored = pool.read(place, length)
        assert stored.items.tolist() == kept
        assert stored.types.tolist() == [10 * key for key in kept]
        assert stored.times.tolist() == [0.5 * key for key in kept]
        assert stored.opens.tolist() == [key % 2 == 0 for key in kept]
    assert items(pool, neighbour, 2) == [-1, -2]


def test_more_events_than_the_limit_at_once():
    pool = SequencePool(4)
    place = pool.add(seq(1, 2))
    place, length = pool.append(place, 2, seq(*range(10, 30)))
    assert items(pool, place, length) == [26, 27, 28, 29]


def test_an_empty_sequence_can_be_kept_and_grow():
    pool = SequencePool(8)
    place = pool.add(Sequence.empty())
    assert pool.append(place, 0, Sequence.empty()) == (place, 0)
    place, length = pool.append(place, 0, seq(5))
    assert items(pool, place, length) == [5]


def test_freed_rows_are_used_again():
    pool = SequencePool(8)
    places = [pool.add(seq(n)) for n in range(100)]
    for place in places[:50]:
        pool.remove(place)
    again = [pool.add(seq(1000 + n)) for n in range(50)]
    assert set(again) == set(places[:50])
    assert [items(pool, place, 1) for place in places[50:]] == [[n] for n in range(50, 100)]
    assert len(pool._classes[0]._columns.items) == 128


def test_a_sequence_that_outgrows_its_row_gives_it_back():
    pool = SequencePool(32)
    for n in range(100):
        place = pool.add(seq(n))
        place, length = pool.append(place, 1, seq(*range(20)))
        assert items(pool, place, length) == [n, *range(20)]
    assert len(pool._classes[0]._columns.items) == 16
