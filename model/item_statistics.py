"""What is known of each item by itself: how often it was seen, when last, and by whom.

The ranker reads counts and ages with the current session's own contribution left out. Otherwise what the user just
had looks fresh while learning, and not where the state is frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from model.arrays import fit
from model.compiled import compiled
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Float64, Int64
    from model.vocabulary import Rows, Vocabulary

HALF_LIFE_EVENTS = 500_000.0
RENORMALISE_ABOVE = 1e100


GROWTH = 2.0 ** (1.0 / HALF_LIFE_EVENTS)


class Statistics(NamedTuple):
    """What is known of each item, by vocabulary row."""

    counted: Float64  # [N], times the increment
    user: Int64  # [N]: who had it last
    last: Int64  # [N, 2]: number of that event; of the latest by somebody else; 0: never


class ItemStatistics:
    """Decayed counts and the latest events of every item, by vocabulary row."""

    name = "item_statistics"

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        self.events = 0
        self._increment = 1.0
        self._count = np.zeros(1024)  # times the increment
        self._user = np.zeros(1024, np.int64)  # who had it last
        self._last = np.zeros((1024, 2), np.int64)  # number of that event; of the latest by somebody else; 0: never

    def read(self) -> Statistics:
        """Return a copy of what is known now."""
        height = self.items.height
        count = fit(self._count, height) / self._increment
        return Statistics(count, fit(self._user, height).copy(), fit(self._last, height).copy())

    def learn(self, contexts: Contexts, kept: Int64) -> None:
        """Count some events of a micro-batch, in stream order."""
        height = self.items.rows
        self._count, self._user, self._last = fit(self._count, height), fit(self._user, height), fit(self._last, height)
        rows, users = self.items.lookup(contexts.event_item_B[kept]), contexts.event_user_B[kept]
        known = Statistics(self._count, self._user, self._last)
        self._increment = note(rows, users, self.events, self._increment, known)
        self.events += len(kept)
        if self._increment > RENORMALISE_ABOVE:
            self._count /= self._increment
            self._increment = 1.0

    def evict(self, rows: Sequence[int]) -> None:
        """Clear evicted rows."""
        index = [row for row in rows if row < len(self._count)]
        self._count[index], self._user[index], self._last[index] = 0.0, 0, 0

    def forget(self, user: int) -> None:
        """Remove the user's key; the counts decay."""
        self._user[self._user == user] = 0

    def state(self) -> State:
        """Return everything."""
        rows = self.items.rows
        arrays = {"count": self._count, "user": self._user, "last": self._last}
        return State(
            {name: fit(array, rows)[:rows].copy() for name, array in arrays.items()},
            {"events": self.events, "increment": self._increment},
        )

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._count, self._user, self._last = (state.arrays[name].copy() for name in ("count", "user", "last"))
        self.events, self._increment = int(state.values["events"]), float(state.values["increment"])


@compiled
def note(rows: Rows, users: Int64, events: int, increment: float, known: Statistics) -> float:
    """Count events, `events` of which came before; returns the increment after the last."""
    for index in range(len(rows)):
        row = rows[index]
        if row != 0:
            known.counted[row] += increment
            if known.user[row] != users[index]:
                known.last[row, 1], known.user[row] = known.last[row, 0], users[index]
            known.last[row, 0] = events + index + 1
        increment *= GROWTH
    return increment
