"""The user's own items: what was had before comes again, by how long ago and how often it was had.

p(item) is the sum, over the lags at which the user's history holds the item, of the weight of that lag. The weights
belong to groups of lags (1, 2, 3, 4, 5-6, 7-8, 9-12, ...) and are learned online by expectation maximisation: when an
event repeats, each lag that holds the item takes its share of the credit. Steep weights mean recency, flat ones
frequency; the stream decides. A second sight of the same histories goes by plain counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.compiled import compiled
from model.guests import rows_of
from model.sparse import SparseView
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Float64, Int32, Int64
    from model.smoothing import Smoothing
    from model.sparse import Weights
    from model.vocabulary import Rows, Vocabulary

BORDERS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192])
"""Lag group g holds lags BORDERS[g] .. BORDERS[g + 1] - 1, where lag 0 is the latest event."""
PRIOR_EVENTS = 50.0
MEMORY_EVENTS = 50_000.0
"""Half-life, in repeats, of what the weights were learned from."""


def lag_groups(length: int) -> Int64:
    """Return the group of each lag 0 .. length - 1."""
    return np.searchsorted(BORDERS, np.arange(length), side="right").astype(np.int64) - 1


class OwnItems:
    """Learned weights of lag groups; the histories themselves come with the contexts."""

    name = "own_items"
    names = ("own_items", "own_counts")

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        groups = len(BORDERS) - 1
        self._credit = (PRIOR_EVENTS * 2.0 ** -np.arange(groups)).astype(np.float64)

    def views(self, contexts: Contexts, smoothing: Smoothing) -> tuple[OwnItemsView, SparseView]:
        """Look at a micro-batch in two ways, in the order of `names`."""
        view = self.view(contexts, smoothing)
        return view, view.counts

    def view(self, contexts: Contexts, smoothing: Smoothing) -> OwnItemsView:
        """Look at a micro-batch by the weights of lags."""
        return OwnItemsView(contexts, self.items, self._credit, smoothing)

    def learn(self, view: OwnItemsView, states: Int64, target_rows: Rows) -> None:
        """Credit the lags that held each event's item, as seen from the state before it."""
        credit = view.credit(states, target_rows)
        self._credit *= 0.5 ** (credit.sum() / MEMORY_EVENTS)
        self._credit += credit

    def evict(self, rows: Sequence[int]) -> None:
        """Nothing here is kept by row: an evicted item is no longer found in the histories."""

    def forget(self, user: int) -> None:
        """Nothing here is kept by user beyond the histories."""

    def state(self) -> State:
        """Return the credit of each lag group."""
        return State({"credit": self._credit.copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._credit = state.arrays["credit"].copy()


class OwnItemsView(SparseView):
    """The distinct items of every state's history with the weights of their lags; `counts`: with their counts."""

    def __init__(self, contexts: Contexts, items: Vocabulary, credit: Float64, smoothing: Smoothing) -> None:
        rows_RT = rows_of(contexts, items)
        self._at = (rows_RT, contexts.state_row_Q, contexts.state_position_Q)
        self._credit, self._group_T = credit.copy(), lag_groups(rows_RT.shape[1])
        start_Q, rows, q, counts = own_weights(*self._at, self._group_T, self._credit, items.height)
        super().__init__(start_Q, rows, q, items.height, smoothing)
        self.counts = SparseView(start_Q, rows, counts, items.height, smoothing)

    def credit(self, states: Int64, target_rows: Rows) -> Float64:
        """Return each lag group's share of the repeats among these targets [S]."""
        rows_RT, row_Q, position_Q = self._at
        row_S, position_S = row_Q[states], position_Q[states]
        return credit_lags(rows_RT, row_S, position_S, target_rows, self._group_T, self._credit)


@compiled
def own_weights(
    rows_RT: Rows, row_Q: Int32, position_Q: Int32, group_T: Int64, credit: Float64, height: int
) -> tuple[Int64, Rows, Weights, Weights]:
    """Return every state's own items as in `model.sparse`: by the credit of their lags, and by their counts.

    A group's share is spread over the lags of the group that the history holds with a known item.
    """
    states = len(row_Q)
    start_Q = np.zeros(states + 1, np.int64)
    most = 0
    for state in range(states):
        most += position_Q[state] + 1
    rows, q, counts = np.empty(most, np.int32), np.empty(most, np.float32), np.empty(most, np.float32)
    by_credit, by_count = np.zeros(height), np.zeros(height)
    held = np.zeros(len(credit))
    size = 0
    for state in range(states):
        line, latest, begin = row_Q[state], position_Q[state], size
        total = holdings(rows_RT[line], latest, group_T, credit, held)
        known = held.sum()
        for lag in range(latest + 1):
            item, group = rows_RT[line, latest - lag], group_T[lag]
            if item == 0:
                continue
            if by_count[item] == 0.0:
                rows[size] = item
                size += 1
            by_count[item] += 1.0 / known
            by_credit[item] += credit[group] / total / held[group]
        for index in range(begin, size):
            item = rows[index]
            q[index], counts[index] = by_credit[item], by_count[item]
            by_credit[item], by_count[item] = 0.0, 0.0
        start_Q[state + 1] = size
    return start_Q, rows[:size], q[:size], counts[:size]


@compiled
def holdings(rows_T: Rows, latest: int, group_T: Int64, credit: Float64, held: Float64) -> float:
    """Count into `held` the lags of each group that hold a known item; return the credit of the groups that do."""
    held[:] = 0.0
    for lag in range(latest + 1):
        if rows_T[latest - lag] != 0:
            held[group_T[lag]] += 1.0
    total = 0.0
    for group in range(len(credit)):
        if held[group] > 0.0:
            total += credit[group]
    return max(total, 1e-300)


@compiled
def credit_lags(
    rows_RT: Rows, row_S: Int32, position_S: Int32, target_S: Rows, group_T: Int64, credit: Float64
) -> Float64:
    """Return what each group of lags earns from targets that the histories hold."""
    earned, held = np.zeros(len(credit)), np.zeros(len(credit))
    share = np.zeros(len(credit))
    for state in range(len(row_S)):
        line, latest, target = row_S[state], position_S[state], target_S[state]
        if target == 0:
            continue
        holdings(rows_RT[line], latest, group_T, credit, held)
        share[:] = 0.0
        for lag in range(latest + 1):
            if rows_RT[line, latest - lag] == target:
                share[group_T[lag]] += credit[group_T[lag]] / held[group_T[lag]]
        total = share.sum()
        if total > 0.0:
            earned += share / total
    return earned
