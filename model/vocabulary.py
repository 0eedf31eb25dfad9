"""The growing vocabulary: 64-bit keys of ids on one side, dense rows of every table on the other.

Row 0 is `unknown`: what was never admitted, or was evicted. Items are admitted after a minimum count; when the
vocabulary is full the items unseen for longest make room, and whoever reuses a row starts clean everywhere.

Between two admissions ids can be *guests*: they have rows behind all others for as long as a micro-batch is looked
at, and leave no trace. They are how what first appears in a micro-batch is known to the states after it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled
from model.state import Array, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Int64

UNKNOWN = 0
Rows = npt.NDArray[np.int32]
Id = str | int

_EMPTY = np.int64(0)
_REMOVED = np.int64(-1)


class KeyTable:
    """Open addressing from 64-bit keys to rows, looked up for whole arrays at once.

    Keys are hashes already, so their low bits address the table. The key -1 marks a removed entry and cannot be
    stored; the caller maps it (`Vocabulary` never meets it but once in 2**64 ids, and then it is `unknown`).
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._resize(capacity)

    def _resize(self, slots: int) -> None:
        self._keys = np.zeros(slots, np.int64)
        self._rows = np.zeros(slots, np.int32)
        self._mask = slots - 1
        self._used = 0  # live and removed entries

    def lookup(self, keys: Int64) -> Rows:
        """Return the row of each key, 0 where it is not stored; any shape."""
        return find(np.ascontiguousarray(keys).reshape(-1), self._keys, self._rows).reshape(keys.shape)

    def insert(self, key: int, row: int) -> None:
        """Store a key that is not stored yet."""
        if 2 * (self._used + 1) > len(self._keys):
            self._grow()
        slot = key & self._mask
        while self._keys[slot] != _EMPTY:
            slot = (slot + 1) & self._mask
        self._keys[slot], self._rows[slot] = key, row
        self._used += 1

    def reserve(self, more: int) -> None:
        """Make room, so that the next `more` keys leave all others where they are."""
        if 2 * (self._used + more) > len(self._keys):
            self._grow(more)

    def take_back(self, keys: Sequence[int]) -> None:
        """Undo the latest insertions, given in their order: the table is as if they had never been."""
        for key in reversed(keys):
            slot = key & self._mask
            while self._keys[slot] != key:
                slot = (slot + 1) & self._mask
            self._keys[slot], self._rows[slot] = _EMPTY, 0
        self._used -= len(keys)

    def remove(self, key: int) -> None:
        """Forget a stored key."""
        slot = key & self._mask
        while self._keys[slot] != key:
            slot = (slot + 1) & self._mask
        self._keys[slot], self._rows[slot] = _REMOVED, 0

    def _grow(self, more: int = 1) -> None:
        live = np.flatnonzero((self._keys != _EMPTY) & (self._keys != _REMOVED))
        keys, rows = self._keys[live], self._rows[live]
        slots = len(self._keys)
        while 4 * (len(live) + more) > slots:
            slots *= 2
        self._resize(slots)
        for key, row in zip(keys.tolist(), rows.tolist(), strict=True):
            self.insert(key, row)


@compiled
def find(keys: Int64, stored: Int64, rows: Rows) -> Rows:
    """Return the row stored with each key, 0 where there is none; the table's size is a power of two."""
    found, mask = np.zeros(len(keys), np.int32), len(stored) - 1
    for index in range(len(keys)):
        key = keys[index]
        if key != 0:
            slot = key & mask
            while stored[slot] != key and stored[slot] != 0:
                slot = (slot + 1) & mask
            if stored[slot] == key:
                found[index] = rows[slot]
    return found


class Vocabulary:
    """Admitted ids and their rows 1..size. With `evict` false a full vocabulary admits nobody any more."""

    def __init__(self, max_size: int, min_count: int = 1, *, evict: bool = True) -> None:
        self.max_size = max_size
        self.min_count = min_count
        self._evict = evict
        self._table = KeyTable()
        self.names: list[Id | None] = [None]  # by row
        self._key_of = np.zeros(1024, np.int64)  # by row
        self._last_seen = np.zeros(1024, np.int64)  # by row, in events
        self._free: list[int] = []
        self._waiting: OrderedDict[int, int] = OrderedDict()  # counts of keys below min_count, oldest first
        self._guests: list[int] = []  # keys
        self._came_G = np.zeros(0, np.int64)  # rising

    @property
    def rows(self) -> int:
        """Rows in use or free for reuse, `unknown` included: the height that tables need."""
        return len(self.names) - len(self._guests)

    @property
    def height(self) -> int:
        """The same with the rows of guests: the height that a look at a micro-batch needs."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Admitted ids."""
        return self.rows - 1 - len(self._free)

    def admitted_rows(self) -> Rows:
        """Return all rows in use but `unknown` and those of guests, rising."""
        rows = np.arange(1, self.rows, dtype=np.int32)
        return np.setdiff1d(rows, np.array(self._free, np.int32)) if self._free else rows

    def lookup(self, keys: Int64) -> Rows:
        """Return the row of each key, `UNKNOWN` where it is neither admitted nor a guest."""
        return self._table.lookup(keys)

    def receive(self, keys: Int64, names: Sequence[Id], came_G: Int64) -> Rows:
        """Let G keys that are not admitted be the guests, instead of those that were; returns their rows.

        `came_G`, rising, are the numbers of the events with which they come.
        """
        self.see_off()
        self._guests, self._came_G = keys.tolist(), came_G
        first = len(self.names)
        rows = np.arange(first, first + len(keys), dtype=np.int32)
        self._table.reserve(len(keys))
        for key, row in zip(self._guests, rows.tolist(), strict=True):
            self._table.insert(key, row)
        self.names.extend(names)
        self._fit()
        self._key_of[rows] = keys
        return rows

    def see_off(self) -> None:
        """Let there be no guests."""
        first = self.rows
        self._table.take_back(self._guests)
        self._key_of[first : len(self.names)] = 0
        del self.names[first:]
        self._guests, self._came_G = [], np.zeros(0, np.int64)

    def are_guests(self, rows: Rows) -> Bool:
        """Whether each row is that of a guest; any shape."""
        guests: Bool = rows >= self.rows
        return guests

    def came(self, rows: Rows) -> Int64:
        """Return the number of the event with which each row comes, -1 where it is no guest's; any shape."""
        came = np.full(rows.shape, -1)
        guests = self.are_guests(rows)
        came[guests] = self._came_G[rows[guests] - self.rows]
        return came

    def guests_at(self, moments: npt.NDArray[np.integer]) -> Int64:
        """Return how many guests are known at each moment."""
        return np.searchsorted(self._came_G, moments, side="left").astype(np.int64)

    def keys(self, rows: Rows) -> Int64:
        """Return the key behind each row, 0 for `UNKNOWN`; any shape."""
        return self._key_of[rows]

    def observe(self, keys: Int64, names: Sequence[Id], event: int) -> tuple[list[int], list[int]]:
        """Count a micro-batch of ids in stream order; `event` is the number of its first event.

        Returns the positions in the micro-batch at which a row was admitted, and the rows that were evicted for
        them. Evicted rows may be among the newly admitted ones: reset them before use. Guests are gone.
        """
        self.see_off()
        rows = self._table.lookup(keys)
        known = np.flatnonzero(rows)
        np.maximum.at(self._last_seen, rows[known], event + known)
        admitted: list[int] = []
        fresh: set[int] = set()
        for position in np.flatnonzero(rows == UNKNOWN).tolist():
            key = int(keys[position])
            if key not in fresh and key != -1 and self._enough(key):
                admitted.append(position)
                fresh.add(key)
        evicted = self._make_room(len(admitted), event)
        admitted = admitted[: self.max_size - self.size]
        for position in admitted:
            self._admit(int(keys[position]), names[position], event + position)
        return admitted, evicted

    def _enough(self, key: int) -> bool:
        if self.min_count == 1:
            return True
        count = self._waiting.pop(key, 0) + 1
        if count >= self.min_count:
            return True
        self._waiting[key] = count
        if len(self._waiting) > self.max_size:
            self._waiting.popitem(last=False)
        return False

    def _make_room(self, wanted: int, event: int) -> list[int]:
        """Evict the stalest rows, a few hundred at a time so that the search for them is paid rarely."""
        if not self._evict or self.size + wanted <= self.max_size:
            return []
        rows = self.admitted_rows()
        rows = rows[self._last_seen[rows] < event]  # what this very micro-batch uses stays
        count = min(len(rows), max(wanted, self.max_size // 256))
        order = np.argsort(self._last_seen[rows], kind="stable")[:count]
        evicted: list[int] = np.sort(rows[order]).tolist()
        for row in evicted:
            self._table.remove(int(self._key_of[row]))
            self.names[row], self._key_of[row] = None, 0
        self._free.extend(reversed(evicted))
        return evicted

    def _admit(self, key: int, name: Id, event: int) -> None:
        if self._free:
            row = self._free.pop()
            self.names[row] = name
        else:
            row = len(self.names)
            self.names.append(name)
            self._fit()
        self._last_seen[row], self._key_of[row] = event, key
        self._table.insert(key, row)

    def _fit(self) -> None:
        """Make room for every row."""
        while len(self.names) > len(self._key_of):
            self._last_seen = np.concatenate([self._last_seen, np.zeros_like(self._last_seen)])
            self._key_of = np.concatenate([self._key_of, np.zeros_like(self._key_of)])

    def state(self) -> State:
        """Return everything but guests."""
        rows = self.rows
        waiting = np.array(list(self._waiting.items()), np.int64).reshape(-1, 2)
        arrays: dict[str, Array] = {
            "keys": self._key_of[:rows].copy(),
            "last_seen": self._last_seen[:rows].copy(),
            "free": np.array(self._free, np.int32),
            "waiting": waiting,
        }
        return State(arrays, {"names": self.names[:rows]})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.names = list(state.values["names"])
        capacity = max(1024, 2 * len(self.names))
        self._last_seen, self._key_of = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._last_seen[: len(self.names)] = state.arrays["last_seen"]
        self._key_of[: len(self.names)] = state.arrays["keys"]
        self._free = state.arrays["free"].tolist()
        self._waiting = OrderedDict(state.arrays["waiting"].tolist())
        self._table = KeyTable()
        self._guests, self._came_G = [], np.zeros(0, np.int64)
        for row, key in enumerate(state.arrays["keys"].tolist()):
            if key:
                self._table.insert(key, row)
