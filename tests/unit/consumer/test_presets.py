from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.decode import Decoder
from consumer.events import Event, key64
from consumer.mapping import EVENT_FIELDS
from consumer.ports import Record
from consumer.presets import PRESETS
from consumer.settings import InputSettings

FIXTURES = Path(__file__).parents[2] / "fixtures" / "presets"
NOON = 1772368245.5  # 2026-03-01T12:30:45.5Z


def read(preset: str, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> Event:
    decoded = Decoder(InputSettings(preset=preset)).decode(Record("events", 0, 0, -1, None, value, headers))
    assert isinstance(decoded, Event), decoded
    return decoded


def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def test_plain() -> None:
    event = read("plain", fixture("plain"))
    assert (event.user_id, event.item_id, event.event_type) == ("u-17", 4711, "view")
    assert event.event_time == NOON
    assert (event.event_key, event.session_key) == (key64("e-1"), key64("s-9"))
    assert (event.value, event.outcome, event.features) == (12.5, True, {"price": 12.5, "colour": "red"})


def test_segment_takes_the_anonymous_id_where_the_user_id_is_empty() -> None:
    event = read("segment", fixture("segment"))
    assert (event.user_id, event.item_id) == ("2f6d7c1e-9b1a-4d8e-8f4f-0c6a7d1b2e3f", "trail-9")
    assert event.event_type == "Product Added"
    assert event.event_time == pytest.approx(NOON - 1.4)
    assert event.event_key == key64("rs-0b7f3a52-1f3c-4d84-9a77-5b1f4a2f6c11")
    assert event.session_key == key64(1772368200000)
    assert event.value == 89.0


def test_ga4_reads_items_params_and_microseconds_as_text() -> None:
    event = read("ga4", fixture("ga4"))
    assert (event.user_id, event.item_id, event.event_type) == ("1234567890.1772360000", "trail-9", "view_item")
    assert event.event_time == pytest.approx(NOON + 0.000123, abs=1e-6)
    assert event.session_key == key64("1772368200")
    assert event.value == 89.5


def test_snowplow_reads_the_product_and_the_action() -> None:
    event = read("snowplow", fixture("snowplow"))
    assert (event.user_id, event.item_id, event.event_type) == ("bc2e92ec6c204a14", "trail-9", "product_view")
    assert event.event_time == NOON
    assert event.event_key == key64("f4b8dd3c-85ef-4c42-9207-11ef61b2a46e")
    assert event.session_key == key64("0f1b1d6f-7c53-4b5e-9f0e-5e0b3d0c2a11")


def test_cloudevents_structured_and_binary_are_the_same_event() -> None:
    binary = json.loads(fixture("cloudevents_binary"))
    headers = tuple((name, value.encode()) for name, value in binary["headers"].items())
    events = [
        read("cloudevents", fixture("cloudevents_structured")),
        read("cloudevents", json.dumps(binary["value"]).encode(), headers),
    ]
    for event in events:
        assert (event.user_id, event.item_id) == ("u-17", "trail-9")
        assert event.event_type == "com.example.product.viewed"
        assert (event.event_time, event.value) == (NOON, 89.0)
        assert (event.event_key, event.session_key) == (key64("e-1"), key64("s-9"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_known_fields_and_the_required_ones(preset: str) -> None:
    assert {"user_id", "item_id", "event_type", "event_time"} <= set(PRESETS[preset]) <= set(EVENT_FIELDS)


def test_every_preset_of_the_settings_exists() -> None:
    assert set(InputSettings.model_json_schema()["properties"]["preset"]["enum"]) == set(PRESETS)
