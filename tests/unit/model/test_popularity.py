import numpy as np
import pytest
from support import Worker, event, same_state

from model.popularity import Popularity
from model.smoothing import Smoothing
from model.vocabulary import UNKNOWN, Vocabulary

HALF_LIFE = 20.0


def vocabulary(size, max_size=64):
    items = Vocabulary(max_size)
    items.observe(np.arange(1, size + 1, dtype=np.int64), list(range(1, size + 1)), 0)
    return items


def view_of(popularity, smoothing):
    contexts = Worker().histories.stage([event("u", 1)]).contexts
    return popularity.view(contexts, smoothing)


def naive(rows, size):
    counts = np.zeros(size + 1)
    for age, row in enumerate(reversed(rows)):
        if row != UNKNOWN:
            counts[row] += 0.5 ** (age / HALF_LIFE)
    return counts / counts.sum()


def test_counts_halve_after_the_half_life_however_the_stream_is_cut():
    draw = np.random.default_rng(0)
    stream = draw.integers(0, 6, size=200).astype(np.int32)
    popularity = Popularity(vocabulary(5), HALF_LIFE)
    for part in np.split(stream, [3, 4, 50, 51, 120]):
        popularity.learn(part)
    p = view_of(popularity, Smoothing(0.01, 5, 0.1)).score(np.array([0]), np.arange(6, dtype=np.int32)[None])
    expected = Smoothing(0.01, 5, 0.1)(naive(stream.tolist(), 5)[None], np.arange(6, dtype=np.int32)[None])
    assert p == pytest.approx(expected, abs=1e-6)
    assert p.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_long_stream_neither_overflows_nor_forgets_the_latest():
    popularity = Popularity(vocabulary(3), 1.0)
    for _ in range(100):
        popularity.learn(np.array([1, 2] * 10, np.int32))
    popularity.learn(np.array([3], np.int32))
    assert np.isfinite(popularity.state().arrays["count"]).all()
    proposed, _ = view_of(popularity, Smoothing(0.01, 3, 0.1)).propose(3)
    assert proposed[0].tolist() == [3, 2, 1]


def test_a_long_micro_batch_at_a_short_half_life_does_not_overflow():
    popularity = Popularity(vocabulary(3), 1000.0)
    popularity.learn(np.array([1, 2] * 2000, np.int32), 1.0)
    counts = popularity.state().arrays["count"]
    assert np.isfinite(counts).all()
    assert counts[2] == pytest.approx(2.0 * counts[1])


@pytest.mark.parametrize(("size", "n"), [(0, 4), (1, 4), (4, 4), (5, 4), (6, 4), (50, 4), (50, 20)])
def test_the_most_popular_come_first(size, n):
    items = vocabulary(size)
    popularity = Popularity(items, HALF_LIFE)
    stream = np.random.default_rng(1).integers(1, size + 1, size=300) if size else np.zeros(3)
    popularity.learn(np.concatenate([np.arange(1, size + 1), stream]).astype(np.int32))
    rows, p = view_of(popularity, Smoothing(0.01, size, 0.1)).propose(n)
    counts = popularity.state().arrays["count"]
    expected = sorted(range(1, size + 1), key=lambda row: (-counts[row], row))[:n]
    assert rows.shape == p.shape == (2, n)
    assert rows[0].tolist() == expected + [UNKNOWN] * (n - len(expected))
    assert (p[0, len(expected) :] == 0.0).all()
    assert (np.diff(p[0]) <= 0.0).all()


def test_rows_that_are_free_are_never_proposed():
    items = vocabulary(5)
    popularity = Popularity(items, HALF_LIFE)
    popularity.learn(np.array([1, 2, 3, 4, 5], np.int32))
    popularity.evict([2, 4])
    rows, p = view_of(popularity, Smoothing(0.01, 3, 0.1)).propose(5)
    assert rows[0].tolist() == [5, 3, 1, UNKNOWN, UNKNOWN]
    assert (p[0, 3:] == 0.0).all()


def test_an_evicted_row_starts_clean():
    popularity = Popularity(vocabulary(3), HALF_LIFE)
    popularity.learn(np.array([2] * 9 + [1, 3], np.int32))
    popularity.evict([2])
    assert popularity.state().arrays["count"][2] == 0.0
    popularity.evict([])
    popularity.learn(np.array([2], np.int32))
    counts = popularity.state().arrays["count"]
    assert counts[2] == pytest.approx(counts[3] * 2 ** (1 / HALF_LIFE))


def test_counts_grow_with_the_vocabulary():
    items = vocabulary(3, max_size=5000)
    popularity = Popularity(items, HALF_LIFE)
    popularity.learn(np.array([1], np.int32))
    items.observe(np.arange(10, 3010, dtype=np.int64), list(range(3000)), 10)
    assert view_of(popularity, Smoothing(0.01, items.size, 0.1)).propose(2)[0][0].tolist() == [1, UNKNOWN]
    popularity.learn(np.array([3003, 3003], np.int32))
    assert view_of(popularity, Smoothing(0.01, items.size, 0.1)).propose(2)[0][0].tolist() == [3003, 1]
    assert len(popularity.state().arrays["count"]) == items.rows


def test_the_state_goes_on_bit_for_bit():
    items = vocabulary(5)
    one, other = Popularity(items, HALF_LIFE), Popularity(items, HALF_LIFE)
    one.learn(np.array([1, 2, 5, 5], np.int32))
    other.load(one.state())
    for popularity in (one, other):
        popularity.learn(np.array([3, 1], np.int32))
    assert same_state(one.state(), other.state())
