"""Rehearsal memory: a bounded ring of windows of past events, learned again beside the new ones.

A window belongs to one user and fills as the user acts; a full one is followed by another that begins with the last
quarter of it as context, which is not a target again. The oldest window is overwritten. Windows are kept by keys of
items, so an evicted item is simply unknown there, and one that returns is found under its new row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from model.arrays import pairs
from model.sequences import Sequences, gaps
from model.state import State

if TYPE_CHECKING:
    from model.contexts import Contexts, Int64
    from model.vocabulary import Vocabulary

COLUMNS = ("items", "types", "times", "opens")


@dataclass(frozen=True, slots=True)
class Among:
    """Which windows are drawn: none begun before number `since`, and a share from the latest alone."""

    since: int = 0
    recent_share: float = 0.0
    recent_windows: int = 1


ALL = Among()
MANY_WINDOWS = 8
"""What a last window holds too much does not matter beside so many."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Windows that were drawn, None where there are none, and how many targets such a draw has in the mean."""

    windows: Sequences | None
    targets: float


class Rehearsal:
    """`capacity` windows of at most `length` events."""

    def __init__(self, capacity: int, length: int) -> None:
        self._capacity, self._width, self._context = capacity, length, length // 4
        shape = (capacity, length)
        self._items, self._types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._times, self._opens = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        self._length, self._first = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
        self._user = np.zeros(capacity, np.int64)
        self._open: dict[int, int] = {}  # user: the window that still fills
        self._made = 0

    def __len__(self) -> int:
        return min(self._made, self._capacity)

    @property
    def made(self) -> int:
        """Windows begun so far, those overwritten included."""
        return self._made

    def add(self, contexts: Contexts, rows: Int64) -> None:
        """Remember the new events in some rows of a micro-batch."""
        for row, user in zip(rows.tolist(), contexts.user_R[rows].tolist(), strict=True):
            place, stop = int(contexts.new_R[row]), int(contexts.length_R[row])
            while place < stop:
                slot = self._open.get(user)
                if slot is None or self._length[slot] == self._width:
                    slot = self._begin(user, contexts, row, place)
                place += self._extend(slot, contexts, row, place, stop)

    def _begin(self, user: int, contexts: Contexts, row: int, place: int) -> int:
        slot = self._made % self._capacity
        self._made += 1
        if self._open.get(int(self._user[slot])) == slot:
            del self._open[int(self._user[slot])]
        self._user[slot], self._length[slot] = user, 0
        self._open[user] = slot
        start = max(0, place - self._context)
        self._extend(slot, contexts, row, start, place)
        self._first[slot] = place - start
        return slot

    def _extend(self, slot: int, contexts: Contexts, row: int, start: int, stop: int) -> int:
        have = int(self._length[slot])
        count = min(stop - start, self._width - have)
        to, of = slice(have, have + count), slice(start, start + count)
        self._items[slot, to] = contexts.items_RT[row, of]
        self._types[slot, to] = contexts.types_RT[row, of]
        self._times[slot, to] = contexts.times_RT[row, of]
        self._opens[slot, to] = contexts.session_RT[row, of]
        self._length[slot] = have + count
        return count

    def sample(
        self,
        count: int,
        draw: np.random.Generator,
        items: Vocabulary,
        types: Vocabulary,
        targets: float = inf,
        among: Among = ALL,
    ) -> Drawn:
        """Draw windows with at least one known predecessor of a target, with replacement.

        The first `count` windows, or as many as it takes to hold `targets` targets. Where that is few windows, the last
        one is taken as often as it takes to hold no more than that in the mean.
        """
        chosen = self._chosen(count, draw, among)
        held = self._length[chosen] - np.maximum(self._first[chosen], 1)
        before = np.cumsum(held) - held
        chosen, total = chosen[before < targets], float(held[before < targets].sum())
        if total > targets and targets < MANY_WINDOWS * self._width:
            owed = targets - before[len(chosen) - 1]
            if draw.random() >= owed / held[len(chosen) - 1]:
                chosen = chosen[:-1]
            total = targets
        return Drawn(self._windows(chosen, items, types) if len(chosen) else None, total)

    def _windows(self, chosen: Int64, items: Vocabulary, types: Vocabulary) -> Sequences:
        length = self._length[chosen]
        width = int(length.max())
        inside = np.arange(width) < length[:, None]
        times = np.where(inside, self._times[chosen, :width], np.nan)
        return Sequences(
            items.lookup(np.where(inside, self._items[chosen, :width], 0)),
            types.lookup(np.where(inside, self._types[chosen, :width], 0)),
            gaps(times),
            self._opens[chosen, :width] & inside,
            length,
            np.maximum(self._first[chosen], 1).astype(np.int32),
            np.zeros(len(chosen), np.int32),
        )

    def _chosen(self, count: int, draw: np.random.Generator, among: Among) -> Int64:
        """Draw the windows: the stated share from the latest ones, mixed with the rest."""
        number = (self._made - 1) - (self._made - 1 - np.arange(self._capacity)) % self._capacity  # by slot
        eligible = np.flatnonzero((self._length >= 2) & (self._first < self._length) & (number >= among.since))
        recent = eligible[number[eligible] >= self._made - among.recent_windows] if among.recent_share else eligible[:0]
        if not count or not len(eligible):
            return eligible[:0]
        latest = _rounded(count * among.recent_share, draw) if len(recent) else 0
        chosen: Int64 = draw.choice(eligible, count - latest)
        return chosen if not latest else draw.permutation(np.concatenate([chosen, draw.choice(recent, latest)]))

    def forget(self, user: int) -> None:
        """Empty every window of a user."""
        mine = self._user == user
        self._length[mine], self._first[mine], self._user[mine] = 0, 0, 0
        self._items[mine], self._types[mine], self._times[mine] = 0, 0, np.nan
        self._open.pop(user, None)

    def state(self) -> State:
        """Return all windows, with the events beyond each one's length cleared."""
        n = len(self)
        arrays = {name: getattr(self, f"_{name}")[:n].copy() for name in (*COLUMNS, "length", "first", "user")}
        stale = np.arange(self._width) >= arrays["length"][:, None]
        for name in ("items", "types", "opens"):
            np.copyto(arrays[name], np.zeros((), arrays[name].dtype), where=stale)
        np.copyto(arrays["times"], np.nan, where=stale)
        arrays["open"] = pairs(self._open)
        return State(arrays, {"made": self._made})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        n = len(state.arrays["length"])
        self._length[n:], self._first[n:], self._user[n:] = 0, 0, 0
        for name in (*COLUMNS, "length", "first", "user"):
            getattr(self, f"_{name}")[:n] = state.arrays[name]
        self._open = {int(user): int(slot) for user, slot in state.arrays["open"]}
        self._made = int(state.values["made"])


def _rounded(number: float, draw: np.random.Generator) -> int:
    """Return a whole number that is `number` in the mean: where few are drawn, a share of them would be none or all."""
    whole = int(number)
    return whole + int(number > whole and draw.random() < number - whole)
