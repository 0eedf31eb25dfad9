"""Exponential decay by an increment that grows: a count of now weighs more, instead of all before it less."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HALF_LIVES = 64
"""In which an increment may grow, by 2e19, before it is looked at whether the counts must be rescaled."""


def parts_within(half_life: float, events: int) -> Iterator[slice]:
    """Cut so many events into parts of HALF_LIVES at most; nearly always into one, since half-lives are long."""
    at_once = max(1, int(min(events, HALF_LIVES * half_life)))
    for begin in range(0, events, at_once):
        yield slice(begin, begin + at_once)
