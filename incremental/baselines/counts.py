"""Exact ranks from counts at a cost that does not grow with the number of items."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING

from incremental.outcomes import MISS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

RANKS = 20
"""Ranks are exact below this; from here on a target is a miss."""
LEFT = int(MISS)

_RENORMALISE_AT = 2.0**512


class CountedItems:
    """Whole counts of a bounded set of items, in order of their latest occurrence, and ranks by count.

    Beside the counts stands their sorted list. Raising the last of a run of equal counts by one, or lowering the
    first, leaves the list sorted: both take one bisection.
    """

    __slots__ = ("_ascending", "of", "total")

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.total = 0
        self._ascending: list[int] = []

    def add(self, item: int) -> None:
        """Count one more; the item becomes the latest."""
        count = self.of.pop(item, 0)
        self.of[item] = count + 1
        self.total += 1
        if count:
            self._ascending[bisect_right(self._ascending, count) - 1] = count + 1
        else:
            self._ascending.insert(0, 1)

    def remove(self, item: int) -> None:
        """Count one less; an item that falls to zero is gone. The order of the others stays."""
        count = self.of[item]
        self.total -= 1
        if count == 1:
            del self.of[item]
            del self._ascending[0]
        else:
            self.of[item] = count - 1
            self._ascending[bisect_left(self._ascending, count)] = count - 1

    def ranks(self, item: int, hidden: Collection[int]) -> tuple[int, int]:
        """Return how many other items, those in `hidden` left out, stand before one that is counted and not hidden.

        First where all that are counted as often do, then where only those of them do that occurred later. A rank of 20
        or more may be a larger one.
        """
        count = self.of[item]
        at_least = len(self._ascending) - bisect_left(self._ascending, count) - 1
        more = len(self._ascending) - bisect_right(self._ascending, count)
        if more >= RANKS + len(hidden):
            return at_least, more
        if hidden:
            counts = [self.of.get(other, 0) for other in hidden]
            at_least -= sum(other >= count for other in counts)
            more -= sum(other > count for other in counts)
        return at_least, more if at_least == more else more + self._later(item, count, hidden)

    def _later(self, item: int, count: int, hidden: Collection[int]) -> int:
        """Return how many others of the same count occurred later, RANKS at most."""
        later = 0
        for other, times in reversed(self.of.items()):
            if other == item or later == RANKS:
                break
            later += times == count and other not in hidden
        return later

    def position(self, item: int) -> int:
        """Return how many other items occurred later, LEFT where there are 20 or more."""
        for position, other in enumerate(islice(reversed(self.of), RANKS)):
            if other == item:
                return position
        return LEFT

    def halve(self) -> None:
        """Drop the half of the items with the smallest counts; among equals the one seen longest ago goes first."""
        order = sorted(enumerate(self.of.items()), key=lambda entry: (entry[1][1], entry[0]))
        kept = sorted(order[len(order) // 2 :])
        self.of = dict(pair for _, pair in kept)
        self.total = sum(self.of.values())
        self._ascending = sorted(self.of.values())


class DecayedCounts:
    """Counts that lose half their weight in `half_life` events (never, where it is infinite).

    Instead of shrinking all counts, each new event weighs more than the one before it. Weights only grow, so an item
    enters the sorted list of the largest ones at its own events alone, and that list is exact. `exact` is how many
    ranks it must answer, hidden items counted.
    """

    __slots__ = ("_exact", "_growth", "_increment", "_largest", "of", "total")

    def __init__(self, half_life: float, exact: int) -> None:
        self.of: dict[int, float] = {}
        self.total = 0.0
        self._growth = 2.0 ** (1.0 / half_life)
        self._increment = 1.0
        self._exact = exact
        self._largest: list[float] = []  # ascending

    def learn(self, item: int) -> None:
        """Count one event."""
        largest, increment = self._largest, self._increment
        old = self.of.get(item)
        weight = increment if old is None else old + increment
        self.of[item] = weight
        self.total += increment
        if len(self.of) <= self._exact:
            if old is not None:
                del largest[bisect_left(largest, old)]
            insort(largest, weight)
        elif weight > largest[0]:
            del largest[0 if old is None else bisect_left(largest, old)]  # the smallest, where it was not listed
            insort(largest, weight)
        self._increment = increment * self._growth
        if self._increment > _RENORMALISE_AT:
            self._renormalise()

    def raw_rank(self, item: int) -> int:
        """Return how many other items weigh at least as much; at least `exact - 1` where they are not all known."""
        weight = self.of.get(item)
        if weight is None:
            return LEFT
        return len(self._largest) - bisect_left(self._largest, weight) - 1

    def rank(self, item: int, hidden: Collection[int]) -> int:
        """Return the rank with the items in `hidden` (distinct, the item not among them) left out, LEFT from 20 on."""
        rank = self.raw_rank(item)
        if rank >= RANKS + len(hidden):
            return LEFT
        rank -= self._at_least(self.of[item], hidden) if hidden else 0
        return rank if rank < RANKS else LEFT

    def share(self, item: int) -> float:
        """Return the item's share of all weight."""
        return self.of.get(item, 0.0) / self.total if self.total else 0.0

    def drop(self, item: int) -> None:
        """Forget an item. Its weight stays in the total: nobody inherits its share."""
        weight = self.of.pop(item, None)
        if weight is not None and weight >= self._largest[0]:
            self._largest = nlargest(self._exact, self.of.values())[::-1]

    def _at_least(self, weight: float, items: Iterable[int]) -> int:
        get = self.of.get
        return sum(get(item, -1.0) >= weight for item in items)

    def _renormalise(self) -> None:
        scale = 1.0 / _RENORMALISE_AT  # a power of two: the ratios stay exact
        self.of = {item: weight * scale for item, weight in self.of.items()}
        self._largest = [weight * scale for weight in self._largest]
        self.total *= scale
        self._increment *= scale
