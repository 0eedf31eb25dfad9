"""Guests: what first appears in a micro-batch is known to the states after it, before it is admitted.

An item is admitted after the commit. Until then it has a row behind all others (`Vocabulary.receive`), so that whoever
had it, or sees that somebody had it, can be told of it again: by own items, latest items, transitions and replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from model.contexts import Contexts, Int64
    from model.vocabulary import Rows, Vocabulary


def guests_of(contexts: Contexts, items: Vocabulary) -> Int64:
    """Return the events [G], rising, with which items appear that are not admitted, and will be after this event."""
    if items.min_count > 1:
        return np.zeros(0, np.int64)
    shown = np.flatnonzero(contexts.shown_B)
    shown = shown[items.lookup(contexts.event_item_B[shown]) == UNKNOWN]
    keys, first = np.unique(contexts.event_item_B[shown], return_index=True)
    return np.sort(shown[first[keys != -1]])


def rows_of(contexts: Contexts, items: Vocabulary) -> Rows:
    """Return the rows of all items of the micro-batch, [R, T].

    A guest is unknown where it stands for an event before the one with which it came: a state that knows only the
    former would know from it that the latter will come.
    """
    rows_RT = items.lookup(contexts.items_RT)
    line, place = np.nonzero(items.are_guests(rows_RT))
    if len(line):
        early = items.came(rows_RT[line, place]) > _numbers(contexts)[line, place]
        rows_RT[line[early], place[early]] = UNKNOWN
    return rows_RT


def _numbers(contexts: Contexts) -> Int64:
    """Return the number of the event of the micro-batch at each place of the rows, -1 where it is from before it."""
    number_RT = np.full(contexts.items_RT.shape, -1)
    inside = np.flatnonzero(contexts.before_B != contexts.after_B)
    place = contexts.state_position_Q[contexts.after_B[inside]]
    number_RT[contexts.event_row_B[inside], place] = inside
    for row in np.flatnonzero(contexts.earlier_R >= 0).tolist():  # it begins with what the row before it ends with
        before, stop = contexts.earlier_R[row], contexts.new_R[row]
        end = contexts.length_R[before]
        number_RT[row, :stop] = number_RT[before, end - stop : end]
    return number_RT
