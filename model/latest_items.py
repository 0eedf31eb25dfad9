"""The latest items of the whole stream: what somebody just had, somebody else has next.

The LENGTH most recent distinct items stand in a list, the latest first. A state sees the list as of its moment,
without the items of its user's own history. The weight of a place is how often the target stood there of late; places
are taken together in groups that grow (1, 2, 3, 4, 5-6, 7-8, 9-12, ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.compiled import compiled
from model.guests import rows_of
from model.own_items import lag_groups
from model.sparse import SparseView
from model.state import State
from model.stream import stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Float64, Int32, Int64
    from model.smoothing import Smoothing
    from model.sparse import Weights
    from model.stream import Stream
    from model.vocabulary import Rows, Vocabulary

LENGTH = 16
GROUP_L = lag_groups(LENGTH)
PRIOR_EVENTS = 50.0
MEMORY_EVENTS = 10_000.0
"""Half-life, in targets found in the list, of what the weights were learned from."""


class LatestItems:
    """The list and the weights of its places."""

    name = "latest_items"

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        self._rows_L = np.zeros(LENGTH, np.int32)  # 0 behind the last
        self._credit = PRIOR_EVENTS * 2.0 ** -np.arange(GROUP_L[-1] + 1.0)

    def view(self, contexts: Contexts, smoothing: Smoothing) -> LatestItemsView:
        """Look at a micro-batch."""
        stream, rows_RT = stream_of(contexts, self.items), rows_of(contexts, self.items)
        places = contexts.state_row_Q, contexts.state_position_Q
        rows_QL, q_QL = latest(self._rows_L, stream, rows_RT, *places, self._credit, GROUP_L, self.items.height)
        return LatestItemsView(rows_QL, q_QL, self.items.height, smoothing)

    def learn(self, view: LatestItemsView, states: Int64, target_rows: Rows) -> None:
        """Credit the places at which the targets stood, as seen from the states before them."""
        gained = view.found(states, target_rows)
        self._credit *= 0.5 ** (gained.sum() / MEMORY_EVENTS)
        self._credit += gained

    def push(self, rows: Rows) -> None:
        """Let events be the latest, in stream order."""
        for row in rows[rows != 0].tolist():
            to_front(self._rows_L, row)

    def evict(self, rows: Sequence[int]) -> None:
        """Take evicted rows out of the list."""
        left = self._rows_L[~np.isin(self._rows_L, list(rows))]
        self._rows_L = np.concatenate([left, np.zeros(LENGTH - len(left), np.int32)])

    def forget(self, user: int) -> None:
        """Nothing here is kept by user."""

    def state(self) -> State:
        """Return the list and the credit of each group of places."""
        return State({"rows": self._rows_L.copy(), "credit": self._credit.copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._rows_L, self._credit = state.arrays["rows"].copy(), state.arrays["credit"].copy()


class LatestItemsView(SparseView):
    """The list of every state with the weights of its places."""

    def __init__(self, rows_QL: Rows, q_QL: Weights, height: int, smoothing: Smoothing) -> None:
        self._rows_QL = rows_QL
        start_Q = np.arange(len(rows_QL) + 1) * LENGTH
        super().__init__(start_Q, rows_QL.reshape(-1), q_QL.reshape(-1), height, smoothing)

    def found(self, states: Int64, target_rows: Rows) -> Float64:
        """Return how many of these targets [S] stood in each group of places."""
        at_SL = (self._rows_QL[states] == target_rows[:, None]) & (target_rows != 0)[:, None]
        groups = GROUP_L[at_SL.argmax(axis=1)[at_SL.any(axis=1)]]
        return np.bincount(groups, minlength=GROUP_L[-1] + 1).astype(np.float64)


@compiled
def to_front(rows_L: Rows, row: int) -> None:
    """Make an item the first of a list of distinct items; the last falls out where it is full."""
    place = 0
    while place < len(rows_L) - 1 and rows_L[place] != row and rows_L[place] != 0:
        place += 1
    rows_L[1 : place + 1] = rows_L[:place].copy()
    rows_L[0] = row


@compiled
def latest(
    rows_L: Rows,
    stream: Stream,
    rows_RT: Rows,
    row_Q: Int32,
    position_Q: Int32,
    credit: Float64,
    group_L: Int64,
    height: int,
) -> tuple[Rows, Weights]:
    """Return the list of every state and the weights of its places [Q, L], padded with 0."""
    states, rows_L, known = len(row_Q), rows_L.copy(), 0
    rows_QL, q_QL = np.zeros((states, len(rows_L)), np.int32), np.zeros((states, len(rows_L)), np.float32)
    own = np.zeros(height, np.bool_)
    for state in stream.order_Q:
        while known < stream.known_Q[state]:
            if stream.rows_V[known] != 0:
                to_front(rows_L, stream.rows_V[known])
            known += 1
        history = rows_RT[row_Q[state], : position_Q[state] + 1]
        for item in history:
            own[item] = True
        size = 0
        for item in rows_L:
            if item != 0 and not own[item]:
                rows_QL[state, size] = item
                size += 1
        for item in history:
            own[item] = False
        weigh(credit, group_L[:size], q_QL[state])
    return rows_QL, q_QL


@compiled
def weigh(credit: Float64, group_L: Int64, q_L: Weights) -> None:
    """Fill in the weights of the first places of a list: those of their groups, spread evenly, so that they sum to 1."""
    held = np.zeros(len(credit))
    for group in group_L:
        held[group] += 1.0
    total = 1e-300
    for group in range(len(credit)):
        if held[group] > 0.0:
            total += credit[group]
    for place in range(len(group_L)):
        q_L[place] = credit[group_L[place]] / total / held[group_L[place]]
