from __future__ import annotations

import numpy as np

from incremental.appearances import NEW_UNTIL, Appearances


def test_the_first_appearances_of_an_item_are_told_from_later_ones():
    appearances = Appearances()
    items = np.array([7] * (NEW_UNTIL + 3) + [8])
    new = appearances.observe(items, np.ones(len(items), np.bool_))
    assert new.tolist() == [True] * NEW_UNTIL + [False] * 3 + [True]
    assert appearances.observe(np.array([7, 8]), np.ones(2, np.bool_)).tolist() == [False, True]


def test_events_that_do_not_count_are_no_appearances():
    appearances = Appearances()
    items = np.full(NEW_UNTIL, 7)
    assert not appearances.observe(items, np.zeros(NEW_UNTIL, np.bool_)).any()
    assert appearances.observe(items, np.ones(NEW_UNTIL, np.bool_)).all()


def test_it_is_bounded():
    appearances = Appearances(max_items=2)
    for item in (1, 2, 3):
        appearances.observe(np.full(NEW_UNTIL, item), np.ones(NEW_UNTIL, np.bool_))
    counted = np.ones(1, np.bool_)
    assert not appearances.observe(np.array([3]), counted)[0]
    assert appearances.observe(np.array([1]), counted)[0]  # forgotten when 3 came, so it is new again
