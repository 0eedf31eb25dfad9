"""The time methods: quantiles of all gaps so far, and of the gaps that followed an event of the same type."""

from __future__ import annotations

from bisect import bisect_left
from math import log1p, nan

TIME_METHODS = ("median", "per_type_median")
RESOLUTION = 0.01
"""Gaps are counted by log1p(seconds), rounded to this: quantiles are off by at most half of it (0.5 % of a gap)."""
MAX_BIN = 2400  # log1p of 840 years

_LEVELS = (0.1, 0.5, 0.9)

Errors = tuple[float, float]
NO_TIME: Errors = (nan, nan)


class GapHistogram:
    """Streaming p10, p50 and p90 of log1p(seconds): the smallest bin with that share of the gaps at or below it.

    One cursor per quantile steps over the occupied bins, so a new gap moves it by a step or so.
    """

    __slots__ = ("_below", "_bins", "_cursor", "_of", "total")

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[int, int] = {}
        self._bins: list[int] = []  # occupied ones, ascending
        self._cursor = [0, 0, 0]  # index into _bins, per level
        self._below = [0, 0, 0]  # gaps in the bins before the cursor

    def quantiles(self) -> list[float]:
        """Return the three quantiles of log1p(seconds); there must have been a gap."""
        return [self._bins[cursor] * RESOLUTION for cursor in self._cursor]

    def add(self, log_gap: float) -> None:
        """Count one gap."""
        place = min(round(log_gap / RESOLUTION), MAX_BIN)
        self.total += 1
        if place in self._of:
            self._of[place] += 1
        else:
            self._insert(place)
        for level in range(3):
            if place < self._bins[self._cursor[level]]:
                self._below[level] += 1
            self._settle(level)

    def _insert(self, place: int) -> None:
        index = bisect_left(self._bins, place)
        self._bins.insert(index, place)
        self._of[place] = 1
        if len(self._bins) > 1:
            self._cursor = [cursor + (index <= cursor) for cursor in self._cursor]

    def _settle(self, level: int) -> None:
        bins, counts = self._bins, self._of
        cursor, below, wanted = self._cursor[level], self._below[level], _LEVELS[level] * self.total
        while below >= wanted and cursor:
            cursor -= 1
            below -= counts[bins[cursor]]
        while below + counts[bins[cursor]] < wanted:
            below += counts[bins[cursor]]
            cursor += 1
        self._cursor[level], self._below[level] = cursor, below


class TimeBaselines:
    """Quantiles of the gaps between a user's events."""

    def __init__(self) -> None:
        self._all = GapHistogram()
        self._after: dict[int, GapHistogram] = {}

    def score(self, gap: float, previous_type: int | None) -> list[Errors]:
        """Judge each of TIME_METHODS on a gap in seconds; NO_TIME before the first gap."""
        if not self._all.total:
            return [NO_TIME] * len(TIME_METHODS)
        log_gap = log1p(gap)
        after = self._after.get(previous_type, self._all) if previous_type is not None else self._all
        return [_errors(self._all.quantiles(), log_gap), _errors(after.quantiles(), log_gap)]

    def learn(self, gap: float, previous_type: int | None) -> None:
        """Count one gap in seconds."""
        log_gap = log1p(gap)
        self._all.add(log_gap)
        if previous_type is not None:
            self._after.setdefault(previous_type, GapHistogram()).add(log_gap)


def _errors(quantiles: list[float], log_gap: float) -> Errors:
    pinball = 0.0
    for level, quantile in zip(_LEVELS, quantiles, strict=True):
        over = log_gap - quantile
        pinball += level * over if over >= 0.0 else (level - 1.0) * over
    return abs(quantiles[1] - log_gap), pinball / 3.0
