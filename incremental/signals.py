"""The signals that drift is looked for in: per event of a micro-batch, in stream order, higher is worse or stranger.

`log_loss` and `log_loss/<component>`  nats that the item cost, of the mixture and of each component
`misses`                              1 where the item was not among the first ten
`misses/known`                        the same, of users with a long history
`lost_hits`                           fed the log-loss of the same users, see `incremental.drift`
`unknown`                             1 where the item was not in the vocabulary
`event_type`, `time_gap`              surprise of the event's type, and of the time since the user's previous event
                                      (in half-octaves), under how often each was seen over the last tens of thousands
                                      of events: it rises when the distribution changes
`active_users`                        share of the NEARBY events before it that are of the same user: it rises when fewer
                                      users make more of the traffic
`event_type/log_loss`, `next_event_s/pinball`  losses of the two other heads
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from incremental.drift import BLOCK_EVENTS, KNOWN_MISSES, LOST_HITS, SUDDEN_BLOCKS, UNKNOWN
from incremental.outcomes import IGNORED, SCORED
from incremental.quarantine import NOBODY
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.outcomes import ItemOutcomes, Observed, Outcomes
    from model.contexts import Bool, Float64, Int64
    from model.vocabulary import Rows

OURS = "tidemill"
GAPS = 64
LISTED = 10
HALF_LIFE_EVENTS = 20_000.0
NEARBY = 256
SCORED_USERS, KNOWN_USERS = "scored_users", "known_users"
SUDDEN_EVENTS = SUDDEN_BLOCKS * BLOCK_EVENTS
PRIOR = 1.0
"""Added to every count of a distribution: what was never seen is strange, not impossible."""


def names(components: Sequence[str]) -> list[str]:
    """Return the signals of a model with these components, in the order in which they are watched."""
    losses = [f"log_loss/{name}" for name in components]
    others = [
        "misses",
        KNOWN_MISSES,
        LOST_HITS,
        UNKNOWN,
        "event_type",
        "time_gap",
        "active_users",
        "event_type/log_loss",
        "next_event_s/pinball",
    ]
    return ["log_loss", *losses, *others]


class Signals:
    """Computes the signals; keeps the two distributions, and the latest users, that events are compared with."""

    def __init__(self, components: Sequence[str], types: int) -> None:
        self._components = list(components)
        self._types, self._gaps = Surprise(types), Surprise(GAPS)
        self._nearby = Nearby()
        self._latest = {SCORED_USERS: NOBODY, KNOWN_USERS: NOBODY}

    def values(
        self,
        observed: Observed,
        outcomes: Outcomes,
        type_B: Rows,
        log_gap_B: Float64,
        known_B: Bool,
        watched_B: Bool | None = None,
    ) -> dict[str, Float64]:
        """Return the signals that the watched events have (None: all). `type_B`: rows; `log_gap_B`: NaN where unknown.

        `known_B`: events of users with a long history.
        """
        watched_B = np.ones(len(type_B), np.bool_) if watched_B is None else watched_B
        counted_B, scored_B = watched_B & (observed.kind_B != IGNORED), watched_B & (outcomes.kind_B == SCORED)
        gap_B = log_gap_B[counted_B]
        bucket_B = np.minimum(gap_B[np.isfinite(gap_B)] * (2.0 / np.log(2.0)), GAPS - 1).astype(np.int64)
        values = {
            UNKNOWN: (~observed.admitted_B[counted_B]).astype(np.float64),
            "event_type": self._types.update(type_B[counted_B]),
            "time_gap": self._gaps.update(bucket_B),
            "active_users": self._nearby.update(observed.user_B[counted_B]),
        }
        if OURS in outcomes.items:
            values |= _of_ours(outcomes.items[OURS], scored_B, known_B)
        for name, seen_B in ((SCORED_USERS, scored_B), (KNOWN_USERS, scored_B & known_B)):
            self._latest[name] = np.concatenate([self._latest[name], observed.user_B[seen_B]])[-SUDDEN_EVENTS:]
        for name in (OURS, *self._components):
            if name in outcomes.items:
                signal = "log_loss" if name == OURS else f"log_loss/{name}"
                values[signal] = -outcomes.items[name].log_prob_B[scored_B]
        if OURS in outcomes.types:
            values["event_type/log_loss"] = -outcomes.types[OURS].log_prob_B[scored_B]
        if OURS in outcomes.times:
            values["next_event_s/pinball"] = outcomes.times[OURS].pinball_B[scored_B]
        return values

    def users(self, signal: str) -> float:
        """Return about how many users the latest SUDDEN_EVENTS events are of, of those that a signal of misses looks at.

        Users with equally many events that would be as varied: the inverse of Simpson's index (1949), at least 1.
        """
        users = self._latest[SCORED_USERS if signal == "misses" else KNOWN_USERS]
        _, counts = np.unique(users, return_counts=True)
        return float(len(users) ** 2 / np.square(counts).sum()) if len(counts) else 1.0

    def state(self) -> State:
        """Return both distributions and the latest users."""
        arrays = {"types": self._types.counts.copy(), "gaps": self._gaps.counts.copy()}
        return State(arrays | {"users": self._nearby.users.copy()} | {n: u.copy() for n, u in self._latest.items()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._types.counts, self._gaps.counts = state.arrays["types"].copy(), state.arrays["gaps"].copy()
        self._nearby.users = state.arrays["users"].copy()
        self._latest = {
            name: state.arrays.get(name, NOBODY).copy() for name in self._latest
        }  # older snapshots have none


def _of_ours(ours: ItemOutcomes, scored_B: Bool, known_B: Bool) -> dict[str, Float64]:
    missed_B = (ours.rank_B >= LISTED).astype(np.float64)
    known_B = known_B & scored_B
    return {"misses": missed_B[scored_B], KNOWN_MISSES: missed_B[known_B], LOST_HITS: -ours.log_prob_B[known_B]}


class Surprise:
    """-ln of the share of each category over the last HALF_LIFE_EVENTS or so events."""

    def __init__(self, categories: int) -> None:
        self.counts: Float64 = np.zeros(categories)

    def update(self, category_B: Int64 | Rows) -> Float64:
        """Return how strange each event of a micro-batch is, then count them."""
        share = (self.counts + PRIOR) / (self.counts.sum() + PRIOR * len(self.counts))
        surprise: Float64 = -np.log(share)[category_B]
        keep = 0.5 ** (len(category_B) / HALF_LIFE_EVENTS)
        self.counts = keep * self.counts + np.bincount(category_B, minlength=len(self.counts))
        return surprise


class Nearby:
    """How many of the NEARBY events before an event are of its user, wherever micro-batches begin and end."""

    def __init__(self) -> None:
        self.users = NOBODY  # of the latest events

    def update(self, user_B: Int64) -> Float64:
        """Return the share for each event that has so many before it."""
        users = np.concatenate([self.users, user_B])
        self.users = users[-NEARBY:]
        if len(users) <= NEARBY:
            return np.zeros(0)
        before_BN = sliding_window_view(users[:-1], NEARBY)
        share: Float64 = (before_BN == users[NEARBY:, None]).mean(axis=1)
        return share
