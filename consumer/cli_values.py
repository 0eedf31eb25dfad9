"""What people write on a command line, read: datetimes, durations, name=value pairs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from consumer.errors import UsageError

LAST_MS = 253_402_300_799_000
"""The end of the year 9999."""
_UNIT_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_SHORT = re.compile(r"(\d+(?:\.\d+)?)\s*([wdhms]?)", re.IGNORECASE)
_ISO = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?",
    re.IGNORECASE,
)
_NEXT_PAIR = re.compile(r",(?=\s*[a-z_]+(?:\.[^=,]+)?=)")


def epoch_ms(text: str, option: str) -> int:
    """Return an ISO 8601 datetime as milliseconds since the epoch; without an offset it is UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: is no datetime; write 2026-01-31 or 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return within_reach(moment.timestamp())


def within_reach(seconds: float) -> int:
    """Return milliseconds since the epoch; what lies before it, or beyond the year 9999, is its bound: no record is there."""
    return min(max(0, round(seconds * 1000)), LAST_MS)


def duration_s(text: str, option: str) -> float:
    """Return a duration in seconds: `7d`, `12h`, `90m`, `30s`, `3600`, or ISO 8601 `P1DT12H`. Raises UsageError."""
    if short := _SHORT.fullmatch(text.strip()):
        seconds = float(short[1]) * _UNIT_S[short[2].lower() or "s"]
    elif (iso := _ISO.fullmatch(text.strip())) and any(iso.groups()):
        seconds = sum(float(number) * _UNIT_S[unit] for unit, number in iso.groupdict().items() if number)
    else:
        raise UsageError(f"{option} {text!r}: is no duration; write 7d, 12h, 90m, 30s or P1DT12H")
    if seconds <= 0:
        raise UsageError(f"{option} {text!r}: must be longer than nothing")
    return seconds


def offsets(texts: list[str] | None, option: str) -> int | dict[int, int] | None:
    """Read `7`, an offset of every partition, or `0:7` for one partition, repeated for more. Raises UsageError."""
    found: dict[int, int] = {}
    for text in texts or ():
        match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
        if match is None or (match[1] is None and len(texts or ()) > 1):
            raise UsageError(f"{option} {text!r}: write an offset, or PARTITION:OFFSET for each partition")
        if match[1] is None:
            return int(match[2])
        found[int(match[1])] = int(match[2])
    return found or None


def pairs(text: str, option: str) -> list[str]:
    """Split `user_id=uid,item_id=product.id` into its pairs; a comma inside a path stays. Raises UsageError."""
    found = [pair.strip() for pair in _NEXT_PAIR.split(text)]
    for pair in found:
        name, equals, path = pair.partition("=")
        if not (name.strip() and equals and path.strip()):
            raise UsageError(f"{option} {text!r}: write field=path, as in user_id=uid,item_id=product.id")
    return found
