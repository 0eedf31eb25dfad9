"""The event: what every input record becomes, whatever envelope it came in."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from math import nan
from typing import Any

import msgspec

from consumer.ports import Record

Id = str | int

DEFAULT_TYPE = "event"
"""The event type of a record that names none."""
SEGMENT_LENGTH = 64
"""Characters of a segment's name."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One accepted event. `event_time` is in seconds since the epoch, NaN where neither event nor record has one.

    `late`: its time is more than `late_after_s` before its record's timestamp. `future`: it was more than
    `future_after_s` after it, and the record's time was taken instead. The *_key fields are 64-bit hashes of the ids
    (`key64`), by which histories and model know them; 0 stands for none.
    """

    record: Record
    user_id: Id
    item_id: Id
    event_type: str
    event_time: float
    user_key: int
    item_key: int
    type_key: int
    session_key: int = 0
    event_key: int = 0
    value: float | None = None
    outcome: Id | float | bool | None = None
    features: dict[str, Any] | None = None
    late: bool = False
    future: bool = False


@lru_cache(maxsize=1 << 16)
def key64(value: Id) -> int:
    """Return a signed 64-bit BLAKE2b hash of an id, never 0; the integer 5 and the string "5" differ.

    With a million ids the chance of any two sharing a key is 3e-8.
    """
    text = f"i{value}" if isinstance(value, int) else f"s{value}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def event_of(
    record: Record, user_id: Id, item_id: Id, event_type: str = DEFAULT_TYPE, event_time: float = nan, **rest: Any
) -> Event:
    """Return an event with the keys of its ids; `rest` are the other fields of Event."""
    return Event(
        record=record,
        user_id=user_id,
        item_id=item_id,
        event_type=event_type,
        event_time=event_time,
        user_key=key64(user_id),
        item_key=key64(item_id),
        type_key=key64(event_type),
        **rest,
    )


def segment_of(event: Event, feature: str) -> str | None:
    """Return the segment that an event is in by one of its features: text, a whole number or a boolean; None: in none."""
    value = (event.features or {}).get(feature)
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps is one of floats
        value = int(value)
    return str(value)[:SEGMENT_LENGTH] if isinstance(value, str | int) and value != "" else None
