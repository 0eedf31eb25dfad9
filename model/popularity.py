"""Recency popularity: how often each item was seen of late, with an exponential decay counted in events."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from model.decay import parts_within
from model.state import State
from model.vocabulary import UNKNOWN, Rows, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Float64, Int64
    from model.smoothing import Probability, Smoothing

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
        self._half_life = half_life
        self._increment = 1.0
        self._count = np.zeros(1024)  # by row; row 0 stays 0

    def view(self, contexts: Contexts, smoothing: Smoothing) -> PopularityView:
        """Look at a micro-batch: every state sees the same distribution."""
        rows = self.items.height
        if rows > len(self._count):
            self._reserve(rows)
        count = self._count[:rows]  # not the room behind it, whose size would decide in which order is summed
        q = count / max(count.sum(), 1e-300)
        return PopularityView(q, contexts.states, smoothing)

    def learn(self, rows: Rows, longest_half_life: float = inf) -> None:
        """Count events in stream order, by the row of each item (0: not admitted).

        While these are counted the half-life is at most `longest_half_life`.
        """
        if self.items.rows > len(self._count):
            self._reserve(self.items.rows)
        half_life = min(self._half_life, longest_half_life)
        for part in parts_within(half_life, len(rows)):
            self._learn(rows[part], 2.0 ** (1.0 / half_life))

    def _learn(self, rows: Rows, growth: float) -> None:
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
    """The shared distribution q [N]; where it is 0 throughout, a state is uniform."""

    def __init__(self, q: Float64, states: int, smoothing: Smoothing) -> None:
        self._q, self._states, self._smooth = q, states, smoothing
        self._rest = 0.0 if q.any() else 1.0

    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the most popular items, the same for every state; MOST of them at most."""
        width, n = n, min(n, MOST)
        q = self._q[1:]
        best = np.argpartition(-q, n)[: n + 1] if len(q) > n + 1 else np.arange(len(q))
        best = best[q[best] > 0.0]  # a row that is free, or not counted yet, is nobody's guess
        top = (best[np.lexsort((best, -q[best]))][:n] + 1).astype(np.int32)
        rows_QK, p_QK = np.zeros((self._states, width), np.int32), np.zeros((self._states, width), np.float32)
        rows_QK[:, : len(top)] = top
        p_QK[:, : len(top)] = self._smooth(self._q[top][None], top[None])
        return rows_QK, p_QK

    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of rows [S, C]."""
        return self._smooth(self._q[rows] + self._rest / np.maximum(1, self._smooth.size(states)), rows, states)
