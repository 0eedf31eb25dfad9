"""Which events are among the first of their item: how new items fare is reported apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from model.contexts import Bool, Int64

NEW_UNTIL = 10
"""Appearances during which an item counts as new."""


class Appearances:
    """Counts each item up to NEW_UNTIL, since the process began; beyond `max_items` the first one counted is forgotten."""

    def __init__(self, max_items: int = 1_000_000) -> None:
        self._max_items = max_items
        self._times: dict[int, int] = {}

    def observe(self, item_B: Int64, counted_B: Bool) -> Bool:
        """Count a micro-batch in stream order; return whether each event is one of the first of its item."""
        new_B = np.zeros(len(item_B), np.bool_)
        for index in np.flatnonzero(counted_B).tolist():
            item = int(item_B[index])
            times = self._times.get(item, 0)
            if times < NEW_UNTIL:
                self._times[item] = times + 1
                new_B[index] = True
        while len(self._times) > self._max_items:
            del self._times[next(iter(self._times))]
        return new_B
