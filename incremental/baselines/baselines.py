"""All baselines over one stream: score each event, then learn it, in stream order."""

from __future__ import annotations

from collections import OrderedDict
from math import isnan, log, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from incremental.baselines.counts import LEFT
from incremental.baselines.event_types import NO_GUESS, TYPE_METHODS, Guess, TypeBaselines
from incremental.baselines.items import ITEM_METHODS, ItemBaselines, KeptItems
from incremental.baselines.times import NO_TIME, TIME_METHODS, Errors, TimeBaselines
from incremental.outcomes import FIRST, IGNORED, ItemOutcomes, Observed, TimeOutcomes, TypeOutcomes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Judged = tuple[dict[str, ItemOutcomes], dict[str, TypeOutcomes], dict[str, TimeOutcomes]]


class _User:
    """What the per-user baselines remember of a user."""

    __slots__ = ("kept", "kind", "time")

    def __init__(self) -> None:
        self.kept = KeptItems()
        self.kind = 0
        self.time = nan


class _Happened(NamedTuple):
    """One event of `Observed`."""

    kind: int
    user: int
    item: int
    type: int
    time: float
    admitted: bool


class _Scores:
    """What each event of a micro-batch was judged to be, per family one list of methods per event."""

    def __init__(self) -> None:
        self.ranks: list[Sequence[int]] = []
        self.log_probs: list[Sequence[float]] = []
        self.types: list[Sequence[Guess]] = []
        self.times: list[Sequence[Errors]] = []

    def ignore(self) -> None:
        """Judge an event that does not count."""
        self.ranks.append([LEFT] * len(ITEM_METHODS))
        self.log_probs.append([nan] * len(ITEM_METHODS))
        self.types.append([NO_GUESS] * len(TYPE_METHODS))
        self.times.append([NO_TIME] * len(TIME_METHODS))

    def outcomes(self) -> Judged:
        """Turn the lists into one array per method and quantity."""
        events = len(self.ranks)
        ranks = np.array(self.ranks, dtype=np.int32).reshape(events, len(ITEM_METHODS))
        log_probs = np.array(self.log_probs, dtype=np.float64).reshape(events, len(ITEM_METHODS))
        types = np.array(self.types, dtype=np.float64).reshape(events, len(TYPE_METHODS), 2)
        times = np.array(self.times, dtype=np.float64).reshape(events, len(TIME_METHODS), 2)
        return (
            {name: ItemOutcomes(ranks[:, m].copy(), log_probs[:, m].copy()) for m, name in enumerate(ITEM_METHODS)},
            {name: TypeOutcomes(types[:, m, 0] > 0, types[:, m, 1].copy()) for m, name in enumerate(TYPE_METHODS)},
            {name: TimeOutcomes(times[:, m, 0].copy(), times[:, m, 1].copy()) for m, name in enumerate(TIME_METHODS)},
        )


class Baselines:
    """Popularity, Markov and own-item baselines, with simple guesses of the next type and time.

    Every list backs off to recent popularity where it is short. Ties count against the method, where its name does not
    say otherwise. A user's kept items are those of the latest `history_length` events; an event of kind FIRST starts a
    user anew, as it does in the histories. Bounded: beyond `max_users` the user unseen for longest is dropped, for
    `max_items` and `max_successors` see `ItemBaselines`.
    """

    def __init__(
        self,
        history_length: int,
        epsilon: float,
        max_users: int,
        *,
        max_items: int = 1_000_000,
        max_successors: int = 256,
    ) -> None:
        self._items = ItemBaselines(history_length, epsilon, max_items, max_successors)
        self._types = TypeBaselines(epsilon)
        self._times = TimeBaselines()
        self._users: OrderedDict[int, _User] = OrderedDict()
        self._history_length = history_length
        self._epsilon = epsilon
        self._max_users = max_users

    def observe(self, observed: Observed) -> Judged:
        """Score and then learn each event; return the outcomes of items, types and times per method.

        An event of kind IGNORED is a miss, its numbers are NaN, and nothing is learned from it.
        """
        scores = _Scores()
        for happened in _events(observed):
            if happened.kind == IGNORED:
                scores.ignore()
                continue
            if happened.kind == FIRST:
                self._users.pop(happened.user, None)
            user = self._users.get(happened.user)
            self._one_item(happened, user, observed, scores)
            self._one_type_and_time(happened, user, scores)
            self._remember(happened, user)
        return scores.outcomes()

    def _one_item(self, happened: _Happened, user: _User | None, observed: Observed, scores: _Scores) -> None:
        items, item = self._items, happened.item
        kept = user.kept if user is not None else None
        scores.ranks.append(items.ranks(item, kept, exclude_seen=observed.exclude_seen))
        if happened.admitted:
            scores.log_probs.append(items.log_probs(item, kept, observed.support))
        else:
            unknown = log(self._epsilon / (observed.support + 1))
            scores.log_probs.append([unknown] * len(ITEM_METHODS))
        items.learn(item, kept)

    def _one_type_and_time(self, happened: _Happened, user: _User | None, scores: _Scores) -> None:
        kind = self._types.known(happened.type)
        previous = user.kind if user is not None else None
        scores.types.append(self._types.score(kind, previous))
        self._types.learn(kind, previous)
        gap = max(0.0, happened.time - user.time) if user is not None else nan
        if user is None or isnan(happened.time) or isnan(user.time):
            scores.times.append([NO_TIME] * len(TIME_METHODS))
        else:
            scores.times.append(self._times.score(gap, previous))
            self._times.learn(gap, previous)

    def _remember(self, happened: _Happened, user: _User | None) -> None:
        if user is None:
            user = self._users[happened.user] = _User()
            if len(self._users) > self._max_users:
                self._users.popitem(last=False)
        else:
            self._users.move_to_end(happened.user)
        user.kept.add(happened.item, self._history_length)
        user.kind = self._types.known(happened.type)
        user.time = happened.time


def _events(observed: Observed) -> Iterator[_Happened]:
    columns = (
        observed.kind_B.tolist(),
        observed.user_B.tolist(),
        observed.item_B.tolist(),
        observed.type_B.tolist(),
        observed.time_B.tolist(),
        observed.admitted_B.tolist(),
    )
    return map(_Happened._make, zip(*columns, strict=True))
