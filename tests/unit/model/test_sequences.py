import numpy as np
import pytest
from support import Worker, event, small_settings

from consumer.events import key64
from model.sequences import WIDTHS, cut, gaps, groups


def test_gaps_are_never_negative_and_unknown_where_a_time_is():
    times = np.array([[10.0, 15.0, 12.0, np.nan, 20.0]])
    assert gaps(times)[0].tolist() == pytest.approx([np.nan, 5.0, 0.0, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_every_row_once_in_rising_width(seed):
    lengths = np.random.default_rng(seed).integers(0, 200, size=150).astype(np.int32)
    parts = groups(lengths)
    assert sorted(np.concatenate(parts).tolist()) == list(range(150))
    widest = [int(lengths[part].max()) for part in parts]
    assert widest == sorted(widest)
    assert all(len(part) >= 16 for part in parts[:-1])


def test_groups_of_nothing_and_of_the_longest():
    assert groups(np.zeros(0, np.int32)) == []
    assert [part.tolist() for part in groups(np.array([WIDTHS[-1], 0], np.int32))] == [[1, 0]]


def contexts_of(history, new, window):
    worker = Worker(small_settings(history={"length": 12}, model={"context": window}))
    events = [event("u", n, 100.0 * n) for n in range(history + new)]
    if history:
        worker.step(events[:history])
    contexts = worker.histories.stage(events[history:]).contexts
    worker.model.items.observe(
        np.array([key64(n) for n in range(history + new)], np.int64), list(range(history + new)), 1000
    )
    return contexts, cut(contexts, window, worker.model.items, worker.model.types), worker


@pytest.mark.parametrize(("history", "new", "window"), [(0, 3, 4), (3, 2, 4), (10, 3, 4), (10, 1, 1)])
def test_a_window_is_the_new_events_and_what_fits_before_them(history, new, window):
    _, sequences, worker = contexts_of(history, new, window)
    kept = min(history, window)
    assert sequences.length_R.tolist() == [kept + new]
    assert sequences.first_target_R.tolist() == [kept]
    assert sequences.start_R.tolist() == [history - kept]
    expected = [key64(n) for n in range(history - kept, history + new)]
    assert worker.model.items.keys(sequences.items_RL[0]).tolist() == expected
    gap = [np.nan if n == 0 else 100.0 for n in range(history - kept, history + new)]
    assert sequences.gaps_RL[0].tolist() == pytest.approx(gap, nan_ok=True)


def test_shorter_rows_are_padded_with_unknown():
    worker = Worker()
    events = [event("a", 1, 0.0), event("b", 2, 0.0), event("b", 3, 5.0), event("b", 4, 9.0)]
    worker.step(events)
    sequences = cut(
        worker.histories.stage([*events[:1], *events[1:]]).contexts, 8, worker.model.items, worker.model.types
    )
    assert sequences.length_R.tolist() == [2, 6]
    assert sequences.items_RL[0, 2:].tolist() == [0] * 4
    assert sequences.types_RL[0, 2:].tolist() == [0] * 4
    laid = sequences.laid()
    assert laid.begin_R.tolist() == [0, 3]
    assert laid.tokens.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
