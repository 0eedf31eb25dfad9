"""Recency popularity: how often each item was seen of late, with an exponential decay counted in events.

A state sees the counts as of its moment (`model.stream`).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled
from model.state import State
from model.stream import Stream, stream_of
from model.vocabulary import UNKNOWN, Rows, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Float64, Int64
    from model.smoothing import Probability, Smoothing

Shares = npt.NDArray[np.float32]

RENORMALISE_ABOVE = 1e100
MOST = 32
"""Proposals: what is less popular than these is seldom next for nothing but its popularity."""


class Popularity:
    """Counts in which an event weighs half after `half_life` further events.

    Instead of shrinking all counts at each event the increment grows, which keeps learning independent of the
    catalogue; counts are rescaled long before they could overflow.
    """

    def __init__(self, items: Vocabulary, half_life: float, name: str = "recency_popularity") -> None:
        self.name = name
        self.items = items
        self._growth = 2.0 ** (1.0 / half_life)
        self._increment = 1.0
        self._count = np.zeros(1024)  # by row; row 0 stays 0

    def view(self, contexts: Contexts, smoothing: Smoothing) -> PopularityView:
        """Look at a micro-batch."""
        if self.items.rows > len(self._count):
            self._reserve(self.items.rows)
        count = self._count[: self.items.rows] / self._increment
        return PopularityView(count, self._growth, stream_of(contexts, self.items), smoothing)

    def learn(self, rows: Rows, longest_half_life: float = inf) -> None:
        """Count events in stream order, by the row of each item (0: not admitted).

        While these are counted the half-life is at most `longest_half_life`.
        """
        if self.items.rows > len(self._count):
            self._reserve(self.items.rows)
        growth = max(self._growth, 2.0 ** (1.0 / longest_half_life))
        weight = self._increment * growth ** np.arange(len(rows))
        known = rows != UNKNOWN
        np.add.at(self._count, rows[known], weight[known])
        self._increment = float(self._increment * growth ** len(rows))
        if self._increment > RENORMALISE_ABOVE:
            self._count /= self._increment
            self._increment = 1.0

    def _reserve(self, rows: int) -> None:
        self._count = np.concatenate([self._count, np.zeros(max(rows, 2 * len(self._count)) - len(self._count))])

    def evict(self, rows: Sequence[int]) -> None:
        """Drop the counts of evicted rows."""
        self._count[[row for row in rows if row < len(self._count)]] = 0.0

    def forget(self, user: int) -> None:
        """Nothing here is kept by user; counts decay."""

    def state(self) -> State:
        """Return counts and the growing increment."""
        count = np.zeros(self.items.rows)
        have = min(len(count), len(self._count))
        count[:have] = self._count[:have]
        return State({"count": count}, {"increment": self._increment})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._count = state.arrays["count"].copy()
        self._increment = float(state.values["increment"])


class PopularityView:
    """The counts [N] before the micro-batch, and what its events add to them."""

    def __init__(self, count: Float64, growth: float, stream: Stream, smoothing: Smoothing) -> None:
        self._count, self._growth, self._stream, self._smooth = count, growth, stream, smoothing

    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the most popular items of every state; MOST of them at most."""
        counted = np.concatenate([self._top(min(n, MOST)), self._stream.rows_V])
        pool = np.unique(counted[counted != UNKNOWN]).astype(np.int32)
        pool = pool[np.lexsort((pool, -self._count[pool]))]
        rows_QK, q_QK = most_popular(pool, self._count, self._growth, self._stream, min(n, MOST))
        p_QK = np.where(rows_QK != UNKNOWN, self._smooth(q_QK, rows_QK), np.float32(0.0))
        padding = ((0, 0), (0, n - rows_QK.shape[1]))
        return np.pad(rows_QK, padding), np.pad(p_QK, padding)

    def _top(self, n: int) -> Rows:
        """Return the most popular items before the micro-batch: a row that is free, or not counted yet, is none."""
        count = self._count[1:]
        best = np.argpartition(-count, n)[: n + 1] if len(count) > n + 1 else np.arange(len(count))
        best = best[count[best] > 0.0]
        return (best[np.lexsort((best, -count[best]))][:n] + 1).astype(np.int32)

    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of rows [S, C]."""
        return self._smooth(shares(self._count.copy(), self._growth, self._stream.of(states), rows), rows)


@compiled
def most_popular(pool: Rows, count: Float64, growth: float, stream: Stream, n: int) -> tuple[Rows, Shares]:
    """Return the n most popular of the pool in every state, ties by row, and their shares of all counts.

    The pool is in order, and holds the n most popular items and all that the stream adds to.
    """
    states, total = len(stream.known_Q), max(count.sum(), 1e-300)
    rows_QK, q_QK = np.zeros((states, n), np.int32), np.zeros((states, n), np.float32)
    pool, weight = pool.copy(), count[pool]
    known, increment = 0, 1.0
    for state in stream.order_Q:
        while known < stream.known_Q[state]:
            if stream.rows_V[known] != 0:
                raise_one(pool, weight, stream.rows_V[known], increment)
                total += increment
            increment *= growth
            known += 1
        for place in range(min(n, len(pool))):
            if weight[place] > 0.0:
                rows_QK[state, place] = pool[place]
                q_QK[state, place] = weight[place] / total
    return rows_QK, q_QK


@compiled
def raise_one(pool: Rows, weight: Float64, row: int, amount: float) -> None:
    """Add to the weight of an item of an ordered pool, and move it to its place."""
    place = 0
    while pool[place] != row:
        place += 1
    raised = weight[place] + amount
    while place > 0 and (weight[place - 1] < raised or (weight[place - 1] == raised and pool[place - 1] > row)):
        pool[place], weight[place] = pool[place - 1], weight[place - 1]
        place -= 1
    pool[place], weight[place] = row, raised


@compiled
def shares(count: Float64, growth: float, stream: Stream, rows_SC: Rows) -> Shares:
    """Return the share of rows [S, C] in all counts; `count` is changed."""
    q_SC = np.zeros(rows_SC.shape, np.float32)
    total, known, increment = max(count.sum(), 1e-300), 0, 1.0
    for state in stream.order_Q:
        while known < stream.known_Q[state]:
            if stream.rows_V[known] != 0:
                count[stream.rows_V[known]] += increment
                total += increment
            increment *= growth
            known += 1
        for column in range(rows_SC.shape[1]):
            q_SC[state, column] = count[rows_SC[state, column]] / total
    return q_SC
