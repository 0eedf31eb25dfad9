"""The stream inside a micro-batch: which of its events each state may look at, as rows of the vocabulary.

Memories change after the commit only. What the micro-batch adds to them up to the moment of a state is worked out
from its own events, anew for every view: states are gone through in the order of their moments, and the events that
are shown are counted on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from model.contexts import Contexts, Int64
    from model.vocabulary import Rows, Vocabulary


class Stream(NamedTuple):
    """The V events that are shown, in order. A state knows the first `known_Q` of them.

    `order_Q` are the states by what they know, the least first. Items that are not admitted have row 0.
    """

    rows_V: Rows
    users_V: Int64
    known_Q: Int64
    order_Q: Int64

    def of(self, states: Int64) -> Stream:
        """Return the same for some states [S]."""
        known_S = self.known_Q[states]
        return Stream(self.rows_V, self.users_V, known_S, np.argsort(known_S, kind="stable"))


def stream_of(contexts: Contexts, items: Vocabulary) -> Stream:
    """Return what the states of a micro-batch may look at."""
    shown = np.flatnonzero(contexts.shown_B)
    rows_V, users_V = items.lookup(contexts.event_item_B[shown]), contexts.event_user_B[shown]
    known_Q = np.searchsorted(shown, contexts.moment_Q).astype(np.int64)
    return Stream(rows_V, users_V, known_Q, np.argsort(known_Q, kind="stable"))
