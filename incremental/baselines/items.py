"""The item methods: ranked lists and probabilities.

Names: n is the weight of all that a list was counted from, T the number of its distinct items, r(i) an item's share
of recent popularity (half-life 10,000 events), c(i) its count in the list. Probabilities before the share ε that all
methods spread evenly:

    popularity, recent_popularity@H   q(i) = share of the (decayed) counts
    markov, own_frequent              q(i) = (c(i) + T·r(i)) / (n + T)
    own_recent                        q(i) = (n·w(i) + T·r(i)) / (n + T),  w(i) ∝ 1 / (1 + position), latest 20 only

Counts are whole numbers and often equal, which counts against the first two. markov_latest and own_frequent_latest are
the same, but of equal counts the one that came latest stands first.

The last three are Witten-Bell smoothing (Witten & Bell 1991): a list that saw many different items trusts itself
less. Without a list q = r. `exclude_seen` changes ranks, never probabilities.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf, log
from typing import TYPE_CHECKING

from incremental.baselines.counts import LEFT, RANKS, CountedItems, DecayedCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HALF_LIVES = {"popularity": inf} | {f"recent_popularity@{events}": float(events) for events in (1000, 10_000, 100_000)}
BACK_OFF = "recent_popularity@10000"
OWN_METHODS = ("markov", "markov_latest", "own_recent", "own_frequent", "own_frequent_latest")
ITEM_METHODS = (*HALF_LIVES, *OWN_METHODS)

_NOTHING: Mapping[int, int] = {}
_HARMONIC = [sum(1.0 / (1 + position) for position in range(count)) for count in range(RANKS + 1)]


class KeptItems:
    """The items of a user's latest `length` events."""

    __slots__ = ("counts", "events")

    def __init__(self) -> None:
        self.events: list[int] = []
        self.counts = CountedItems()

    def add(self, item: int, length: int) -> None:
        """Keep one more event; beyond `length` the oldest goes."""
        self.events.append(item)
        self.counts.add(item)
        if len(self.events) > length:
            self.counts.remove(self.events.pop(0))


class ItemBaselines:
    """Popularity (cumulative and recent), the previous item's successors, and the user's own kept items.

    Bounded: beyond `max_items` the item unseen for longest is forgotten, with its successors; an item that reaches
    `max_successors` of them loses the half with the smallest counts, among equals those seen longest ago.
    """

    def __init__(self, history_length: int, epsilon: float, max_items: int, max_successors: int) -> None:
        exact = 2 * RANKS + history_length  # a target below rank 20 has so many items before it, hidden ones included
        self._popularity = [DecayedCounts(half_life, exact) for half_life in HALF_LIVES.values()]
        self._recent = self._popularity[list(HALF_LIVES).index(BACK_OFF)]
        self._successors: dict[int, CountedItems] = {}
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._epsilon = epsilon
        self._max_items = max_items
        self._max_successors = max_successors

    def ranks(self, item: int, kept: KeptItems | None, *, exclude_seen: bool) -> list[int]:
        """Return the target's rank by each of ITEM_METHODS."""
        own = kept.counts if kept is not None else None
        hidden: Mapping[int, int] = own.of if own is not None and exclude_seen else _NOTHING
        if item in hidden or item not in self._seen:
            return [LEFT] * len(ITEM_METHODS)
        ranks = [counts.rank(item, hidden) for counts in self._popularity]
        ranks += self._markov_ranks(item, kept, hidden)
        if own is None or hidden:
            ranks += [self._recent.rank(item, hidden)] * 3
        elif item in own.of:
            ranks += (own.position(item), *map(_or_left, own.ranks(item, ())))
        else:
            ranks += [self._after(len(own.of), item, own.of)] * 3
        return ranks

    def log_probs(self, item: int, kept: KeptItems | None, support: int) -> list[float]:
        """Return the natural log-probability of an admitted target by each of ITEM_METHODS."""
        rest, floor = 1.0 - self._epsilon, self._epsilon / (support + 1)
        shares = [counts.share(item) for counts in self._popularity]
        recent = self._recent.share(item)
        if kept is None:
            shares += [recent] * len(OWN_METHODS)
        else:
            successors = self._successors.get(kept.events[-1])
            after = recent if successors is None else _smoothed_count(successors, item, recent)
            own = _smoothed_count(kept.counts, item, recent)
            shares += (after, after, _smoothed_position(kept.counts, item, recent), own, own)
        return [log(floor + rest * share) for share in shares]

    def learn(self, item: int, kept: KeptItems | None) -> None:
        """Count one event of a user whose items before it are `kept`."""
        for counts in self._popularity:
            counts.learn(item)
        if kept is not None and kept.events[-1] in self._seen:
            self._follow(kept.events[-1], item)
        self._seen[item] = None
        self._seen.move_to_end(item)
        if len(self._seen) > self._max_items:
            self._forget_stalest()

    def _markov_ranks(self, item: int, kept: KeptItems | None, hidden: Mapping[int, int]) -> list[int]:
        """Return the target's rank by `markov` and `markov_latest`."""
        successors = self._successors.get(kept.events[-1]) if kept is not None else None
        if successors is None:
            return [self._recent.rank(item, hidden)] * 2
        if item in successors.of:
            return [_or_left(rank) for rank in successors.ranks(item, hidden)]
        if not hidden:
            return [self._after(len(successors.of), item, successors.of)] * 2
        if self._recent.raw_rank(item) >= 2 * RANKS + len(hidden):
            return [LEFT] * 2
        listed = [other for other in successors.of if other not in hidden]
        return [self._after(len(listed), item, [*listed, *hidden])] * 2

    def _after(self, listed: int, item: int, before: Collection[int]) -> int:
        """Return the rank in recent popularity behind a list of `listed` items; `before`: those and the hidden ones."""
        return LEFT if listed >= RANKS else _or_left(listed + self._recent.rank(item, before))

    def _follow(self, previous: int, item: int) -> None:
        successors = self._successors.get(previous)
        if successors is None:
            successors = self._successors[previous] = CountedItems()
        successors.add(item)
        if len(successors.of) > self._max_successors:
            successors.halve()

    def _forget_stalest(self) -> None:
        item, _ = self._seen.popitem(last=False)
        self._successors.pop(item, None)
        for counts in self._popularity:
            counts.drop(item)


def _or_left(rank: int) -> int:
    return rank if rank < RANKS else LEFT


def _smoothed_count(counts: CountedItems, item: int, recent: float) -> float:
    distinct = len(counts.of)
    return (counts.of.get(item, 0) + distinct * recent) / (counts.total + distinct)


def _smoothed_position(counts: CountedItems, item: int, recent: float) -> float:
    distinct = len(counts.of)
    position = counts.position(item) if item in counts.of else LEFT
    weight = 1.0 / (1 + position) / _HARMONIC[min(distinct, RANKS)] if position < RANKS else 0.0
    return (counts.total * weight + distinct * recent) / (counts.total + distinct)
