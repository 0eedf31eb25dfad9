"""Whatever bytes arrive, with every preset: an event, or a rejection with a known reason. Never an exception."""

from __future__ import annotations

import json
import math

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.decode import MAX_ID_BYTES, REASONS, Decoder
from consumer.errors import BadEvent
from consumer.events import Event
from consumer.ports import Record
from consumer.presets import PRESETS
from consumer.settings import InputSettings
from consumer.times import END_SECOND, FIRST_SECOND

PATHS = sorted({path for paths in PRESETS.values() for path in "|".join(paths.values()).split("|")})
KEYS = sorted({key for path in PATHS for key in path.split(".")})

NUMBERS = st.integers(-(2**64), 2**65) | st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.sampled_from(["2024-02-29T12:00:00Z", "2024-02-30T12:00:00Z", "0001-01-01T00:00:00+23:59", "12", "nan"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | TIMES
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=6),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS) | TEXT, JSON, max_size=9)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["ce_id", "ce_time", "ce_type", "other"]), st.none() | st.binary(max_size=300)),
    max_size=4,
).map(tuple)
STAMPS = st.just(-1) | st.integers(-(2**63), 2**63 - 1)


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


VALUES = st.none() | st.binary() | OBJECTS.map(to_json) | JSON.map(to_json)


@pytest.mark.parametrize("preset", PRESETS)
@settings(deadline=None, max_examples=300)
@given(value=VALUES, key=st.none() | st.binary(max_size=300), headers=HEADERS, timestamp_ms=STAMPS)
def test_always_an_event_or_a_known_reason(preset, value, key, headers, timestamp_ms) -> None:
    decoder = Decoder(InputSettings(preset=preset, max_record_bytes=2000, map={"features.key": "kafka.key"}))
    decoded = decoder.decode(Record("events", 0, 0, timestamp_ms, key, value, headers))
    if isinstance(decoded, BadEvent):
        assert decoded.reason in REASONS
    else:
        check(decoded)


def check(event: Event) -> None:
    for name in (event.user_id, event.item_id, event.event_type):
        assert type(name) in {str, int}
        assert 0 < len(str(name).encode()) <= MAX_ID_BYTES
    assert math.isnan(event.event_time) or FIRST_SECOND <= event.event_time < END_SECOND
    assert event.value is None or math.isfinite(event.value)
    assert 0 not in {event.user_key, event.item_key, event.type_key}
    orjson.dumps([event.user_id, event.item_id, event.outcome, event.features])


@settings(deadline=None, max_examples=200)
@given(
    user=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64) | st.integers(-(2**63), 2**64 - 1),
    seconds=st.floats(FIRST_SECOND, END_SECOND - 1),
)
def test_a_good_event_is_always_accepted(user, seconds) -> None:
    value = orjson.dumps({"user_id": user, "item_id": user, "ts": seconds})
    event = Decoder(InputSettings(time_unit="s")).decode(Record("events", 0, 0, -1, None, value))
    assert isinstance(event, Event)
    assert event.user_id == user
    assert event.event_time == seconds
