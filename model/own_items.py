"""The user's own items: what was had before comes again, by how long ago and how often it was had.

p(item) is the sum, over the lags at which the user's history holds the item, of the weight of that lag. The weights
belong to groups of lags (1, 2, 3, 4, 5-6, 7-8, 9-12, ...) and are learned online by expectation maximisation: when an
event repeats, each lag that holds the item takes its share of the credit. Steep weights mean recency, flat ones
frequency; the stream decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.components import best_first
from model.state import State
from model.vocabulary import UNKNOWN, Rows, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Contexts, Float64, Int64
    from model.smoothing import Probability, Smoothing

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

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        groups = len(BORDERS) - 1
        self._credit = (PRIOR_EVENTS * 2.0 ** -np.arange(groups)).astype(np.float64)

    def view(self, contexts: Contexts, smoothing: Smoothing) -> OwnItemsView:
        """Look at a micro-batch."""
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


class OwnItemsView:
    """The distinct items of every state's history with their weights, in one sorted list of (state, row) codes."""

    def __init__(self, contexts: Contexts, items: Vocabulary, credit: Float64, smoothing: Smoothing) -> None:
        self._smooth, self._states = smoothing, contexts.states
        row_Q, position_Q = contexts.state_row_Q, contexts.state_position_Q
        length = contexts.items_RT.shape[1]
        self._group_T = lag_groups(length)
        items_RT = items.lookup(contexts.items_RT)
        lag_QT = position_Q[:, None] - np.arange(length)
        self._items_QT = np.where(lag_QT >= 0, items_RT[row_Q], UNKNOWN)
        self._lag_QT = np.where(lag_QT >= 0, lag_QT, 0)
        self._weight_QT = self._weights(credit)
        self._stride = np.int64(items.rows)
        self._code, self._q = self._distinct()

    def _weights(self, credit: Float64) -> npt.NDArray[np.float64]:
        """Spread each group's share over the lags of the group that this state's history holds with a known item."""
        known = self._items_QT != UNKNOWN
        group_QT = self._group_T[self._lag_QT]
        line = np.arange(self._states)[:, None] * len(BORDERS) + group_QT
        held = np.bincount(line[known], minlength=self._states * len(BORDERS)).reshape(self._states, len(BORDERS))
        share = (credit / credit.sum())[None, :] * (held[:, : len(credit)] > 0)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        per_lag = share / np.maximum(held[:, : len(credit)], 1)
        return np.where(known, np.take_along_axis(per_lag, group_QT, axis=1), 0.0)

    def _distinct(self) -> tuple[Int64, Float64]:
        known = np.flatnonzero(self._items_QT != UNKNOWN)
        state = known // self._items_QT.shape[1]
        code = state * self._stride + self._items_QT.reshape(-1)[known]
        order = np.argsort(code, kind="stable")
        code, weight = code[order], self._weight_QT.reshape(-1)[known][order]
        first = np.flatnonzero(np.diff(code, prepend=-1))
        return code[first], np.add.reduceat(weight, first) if len(first) else weight

    def _find(self, states: Int64, rows: Rows) -> tuple[Int64, Bool]:
        code = states.astype(np.int64)[:, None] * self._stride + rows
        place = np.minimum(np.searchsorted(self._code, code), max(0, len(self._code) - 1))
        return place, (self._code[place] == code) if len(self._code) else np.zeros(rows.shape, np.bool_)

    def holds(self, states: Int64, rows: Rows) -> Bool:
        """Whether the history of each state [S] holds each of `rows` [S, C]."""
        return self._find(states, rows)[1]

    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the user's own items, most probable first."""
        state, row = self._code // self._stride, (self._code % self._stride).astype(np.int32)
        start = np.searchsorted(state, np.arange(self._states))
        place = np.arange(len(state)) - start[state]
        width = max(1, int(place.max(initial=0)) + 1)
        rows, q = np.zeros((self._states, width), np.int32), np.zeros((self._states, width), np.float32)
        rows[state, place], q[state, place] = row, self._q
        rows, q = best_first(rows, q, n)
        return rows, np.where(rows != UNKNOWN, self._smooth(q, rows), np.float32(0.0))

    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of rows [S, C]; a state without history is uniform."""
        place, held = self._find(states, rows)
        q = np.where(held, self._q[place] if len(self._q) else 0.0, 0.0)
        empty = ~(self._items_QT[states] != UNKNOWN).any(axis=1)
        q[empty] = 1.0 / max(1, self._smooth.size)
        return self._smooth(q, rows)

    def credit(self, states: Int64, target_rows: Rows) -> Float64:
        """Return each lag group's share of the repeats among these targets [S]."""
        match = (self._items_QT[states] == target_rows[:, None]) & (target_rows != UNKNOWN)[:, None]
        weight = np.where(match, self._weight_QT[states], 0.0)
        total = weight.sum(axis=1, keepdims=True)
        share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        group = self._group_T[self._lag_QT[states]]
        credit = np.bincount(group.reshape(-1), share.reshape(-1), minlength=len(BORDERS) - 1)
        return credit[: len(BORDERS) - 1].astype(np.float64)
