"""Compact storage of bounded event sequences: a few arrays per size class, not one Python object per event."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.contexts import Bool, Float64, Int64
    from model.state import Array

SMALLEST = 8


class Sequence(NamedTuple):
    """Events of one user, oldest first: item keys, type keys, seconds, whether each opens a session."""

    items: Int64
    types: Int64
    times: Float64
    opens: Bool

    def last(self, count: int) -> Sequence:
        """Return the latest `count` events."""
        return self.each(lambda column: column[max(0, len(column) - count) :])

    def then(self, other: Sequence) -> Sequence:
        """Return this sequence followed by another."""
        return Sequence(
            np.concatenate([self.items, other.items]),
            np.concatenate([self.types, other.types]),
            np.concatenate([self.times, other.times]),
            np.concatenate([self.opens, other.opens]),
        )

    def each(self, take: Callable[[Array], Array]) -> Sequence:
        """Return the columns that `take` makes of these."""
        return Sequence(take(self.items), take(self.types), take(self.times), take(self.opens))

    @classmethod
    def empty(cls) -> Sequence:
        """Return no events."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))


class SizeClass:
    """Rows for sequences of at most `width` events, reused when freed."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._columns = self._rows(16)
        self._used = 0
        self._free: list[int] = []

    def _rows(self, count: int) -> Sequence:
        shape = (count, self.width)
        return Sequence(
            np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.bool_)
        )

    def take(self) -> int:
        """Reserve a row."""
        if self._free:
            return self._free.pop()
        if self._used == len(self._columns.items):
            self._columns = self._columns.then(self._rows(self._used))
        self._used += 1
        return self._used - 1

    def give_back(self, row: int) -> None:
        """Free a row."""
        self._free.append(row)

    def read(self, row: int, length: int) -> Sequence:
        """Return the first `length` events of a row, as views."""
        return self._columns.each(lambda column: column[row, :length])

    def rows(self, rows: Int64) -> Sequence:
        """Return whole rows, copied, with whatever stands beyond each one's length."""
        return self._columns.each(lambda column: column[rows])

    def write(self, row: int, events: Sequence, start: int = 0) -> None:
        """Store events from place `start` on."""
        stop = start + len(events.items)
        for column, values in zip(self._columns, events, strict=True):
            column[row, start:stop] = values


class SequencePool:
    """Sequences of at most `limit` events; a sequence that outgrows its size class moves to one four times as wide."""

    def __init__(self, limit: int) -> None:
        widths = [SMALLEST]
        while widths[-1] < limit:
            widths.append(widths[-1] * 4)
        self._classes = [SizeClass(min(width, limit)) for width in widths]
        self._limit = limit

    def _class_for(self, length: int) -> int:
        return next(index for index, size in enumerate(self._classes) if length <= size.width)

    def add(self, events: Sequence) -> tuple[int, int]:
        """Store a new sequence; returns its place (size class, row)."""
        index = self._class_for(len(events.items))
        row = self._classes[index].take()
        self._classes[index].write(row, events)
        return index, row

    def read(self, place: tuple[int, int], length: int) -> Sequence:
        """Return a stored sequence."""
        return self._classes[place[0]].read(place[1], length)

    def read_all(self, places: Int64, lengths: Int64) -> Sequence:
        """Return many sequences by their places [n, 2], one behind the other.

        Without a step per sequence: this is what a snapshot waits for.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        total = int(starts[-1])
        out = Sequence(np.zeros(total, np.int64), np.zeros(total, np.int64), np.zeros(total), np.zeros(total, np.bool_))
        class_of, row_of = places.T
        for index, size in enumerate(self._classes):
            mine = np.flatnonzero(class_of == index)
            inside = np.arange(size.width) < lengths[mine][:, None]
            to = (starts[mine][:, None] + np.arange(size.width))[inside]
            for target, column in zip(out, size.rows(row_of[mine]), strict=True):
                target[to] = column[inside]
        return out

    def append(self, place: tuple[int, int], length: int, events: Sequence) -> tuple[tuple[int, int], int]:
        """Add events to a sequence of `length`, dropping the oldest beyond the limit; returns place and length."""
        total = length + len(events.items)
        size = self._classes[place[0]]
        if total <= size.width:
            size.write(place[1], events, start=length)
            return place, total
        merged = self.read(place, length).then(events).last(self._limit)
        if len(merged.items) <= size.width:
            size.write(place[1], merged)
            return place, len(merged.items)
        self.remove(place)
        return self.add(merged), len(merged.items)

    def remove(self, place: tuple[int, int]) -> None:
        """Free a sequence's row."""
        self._classes[place[0]].give_back(place[1])
