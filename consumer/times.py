"""Event times: epoch seconds, milliseconds or microseconds, or RFC 3339 text, told apart once."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

from consumer.errors import BadEvent

TimeUnit = Literal["s", "ms", "us", "rfc3339"]

UNREADABLE = "event_time_unreadable"
OUT_OF_RANGE = "event_time_out_of_range"

FIRST_SECOND = -62_135_596_800.0
"""0001-01-01T00:00:00Z."""
END_SECOND = 253_402_300_800.0
"""The second after 9999-12-31T23:59:59Z."""

_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,9})?")
_LEAP_SECOND = re.compile(r"([0-9]{2}:[0-9]{2}):60")


class TimeReader:
    """Reads times as seconds since the epoch.

    With the unit `auto` the first number that is a possible time decides by its magnitude: below 1e11 seconds, below
    1e14 milliseconds, else microseconds; so each unit is right from 1973 on. Zero decides nothing.
    """

    def __init__(self, unit: Literal["auto", "s", "ms", "us", "rfc3339"]) -> None:
        self.unit: TimeUnit | None = None if unit == "auto" else unit

    def seconds(self, value: Any) -> float:
        """Return `value` in seconds. Raises BadEvent when it is no time, or not in the years 0001 to 9999."""
        kind = type(value)
        if kind is int or kind is float:
            return self._from_number(value)
        if kind is str:
            if value[4:5] == "-" == value[7:8]:
                return _from_rfc3339(value)
            number = number_or_text(value)
            if not isinstance(number, str):
                return self._from_number(number)
        raise BadEvent(UNREADABLE, "expected a number or RFC 3339 text")

    def milliseconds(self, value: Any) -> int:
        """Return `value` as a record timestamp, -1 where it is missing, no time, or before 1970."""
        if value is None:
            return -1
        try:
            return max(-1, round(self.seconds(value) * 1000))
        except BadEvent:
            return -1

    def _from_number(self, value: float) -> float:
        unit = self.unit or _by_magnitude(value)
        if unit == "rfc3339":
            raise BadEvent(UNREADABLE, "expected RFC 3339 text, as input.time_unit says")
        seconds = in_range(value / _PER_SECOND[unit])
        if self.unit is None and value:
            self.unit = unit
        return seconds


def number_or_text(text: str) -> float | str:
    """Return the number that `text` writes, or `text` itself where it writes none."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _by_magnitude(value: float) -> TimeUnit:
    size = abs(value)
    if size < 1e11:
        return "s"
    return "ms" if size < 1e14 else "us"


def in_range(seconds: float) -> float:
    """Return `seconds`. Raises BadEvent when not in the years 0001 to 9999."""
    if FIRST_SECOND <= seconds < END_SECOND:  # false for NaN too
        return seconds
    raise BadEvent(OUT_OF_RANGE, "not in the years 0001 to 9999; is input.time_unit right?")


def _from_rfc3339(text: str) -> float:
    """Parse RFC 3339, also with a blank for the T and without an offset, which then is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _from_odd_rfc3339(text)
    return in_range(_epoch(moment))


def _from_odd_rfc3339(text: str) -> float:
    """Parse what is allowed but rare: small letters, and the leap second, which counts as the one after it."""
    usual, leap_seconds = _LEAP_SECOND.subn(r"\1:59", text.upper())
    try:
        moment = datetime.fromisoformat(usual)
    except ValueError as error:
        raise BadEvent(UNREADABLE, "not RFC 3339") from error
    return in_range(_epoch(moment) + leap_seconds)


def _epoch(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
