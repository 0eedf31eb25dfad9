from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from consumer.decode import MAX_DEPTH, REASONS, Decoder
from consumer.errors import BadEvent, StateError
from consumer.events import DEFAULT_TYPE, Event, key64
from consumer.ports import Record
from consumer.settings import InputSettings

T = 1_700_000_000.0


def record(value: Any, timestamp_ms: int = -1, **more: Any) -> Record:
    raw = value if isinstance(value, bytes) or value is None else orjson.dumps(value)
    return Record("events", 0, 7, timestamp_ms, more.get("key"), raw, more.get("headers", ()))


def plain(**fields: Any) -> dict[str, Any]:
    return {"user_id": "u", "item_id": "i"} | fields


def decode(value: Any, timestamp_ms: int = -1, settings: InputSettings | None = None, **more: Any) -> Event | BadEvent:
    return Decoder(settings or InputSettings()).decode(record(value, timestamp_ms, **more))


def event(*args: Any, **more: Any) -> Event:
    decoded = decode(*args, **more)
    assert isinstance(decoded, Event), decoded
    return decoded


def reason(*args: Any, **more: Any) -> str:
    decoded = decode(*args, **more)
    assert isinstance(decoded, BadEvent), decoded
    assert decoded.reason in REASONS
    return decoded.reason


def test_the_least_event() -> None:
    raw = record(plain())
    got = Decoder(InputSettings()).decode(raw)
    assert isinstance(got, Event)
    assert got.record is raw
    assert (got.user_id, got.item_id, got.event_type) == ("u", "i", DEFAULT_TYPE)
    assert (got.user_key, got.item_key, got.type_key) == (key64("u"), key64("i"), key64(DEFAULT_TYPE))
    assert math.isnan(got.event_time)
    assert (got.session_key, got.event_key, got.value, got.outcome, got.features) == (0, 0, None, None, None)
    assert not got.late
    assert not got.future


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "tombstone"),
        (b"", "empty_value"),
        (b" \n", "empty_value"),
        (b"\xff\xfe", "invalid_utf8"),
        (b'{"user_id": "u"', "invalid_json"),
        (b'{"user_id": NaN, "item_id": 1}', "invalid_json"),
        (b'{"user_id": "\\ud800", "item_id": 1}', "invalid_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"3", "not_an_object"),
        (b"[" * 100_000, "too_deep"),
        (b'{"user_id":1,"item_id":1,"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep"),
    ],
)
def test_a_value_that_is_no_object(value: bytes | None, expected: str) -> None:
    assert reason(value) == expected


def test_wide_is_not_deep() -> None:
    assert event(plain(x=[[]] * 1000)).user_id == "u"
    assert event(b'{"user_id":1,"item_id":1,"x":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}").user_id == 1


def test_oversize_counts_key_value_and_headers() -> None:
    settings = InputSettings(max_record_bytes=60)
    value = orjson.dumps(plain())
    room = 60 - len(value)
    assert event(value, settings=settings, key=b"k" * room).user_id == "u"
    assert reason(value, settings=settings, key=b"k" * (room + 1)) == "oversize"
    assert reason(value, settings=settings, headers=(("h" * room, b"v"),)) == "oversize"


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_id", "session_id"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1.5, "wrong_type"),
        (2.0, "wrong_type"),
        (True, "wrong_type"),
        ([1], "wrong_type"),
        ({}, "wrong_type"),
        ("", "empty"),
        ("x" * 257, "too_long"),
        ("é" * 129, "too_long"),
    ],
)
def test_ids_that_are_rejected(field: str, value: Any, problem: str) -> None:
    assert reason(plain(**{field: value})) == f"{field}_{problem}"


@pytest.mark.parametrize("digits", [b"18446744073709551616", b"-9223372036854775809", b"1" * 400])
def test_integers_beyond_64_bits_are_rejected(digits: bytes) -> None:
    assert reason(b'{"user_id":' + digits + b',"item_id":1}') in {"user_id_wrong_type", "invalid_json"}


@pytest.mark.parametrize("value", ["x" * 256, "é" * 128, "0", 0, -5, 2**64 - 1, -(2**63)])
def test_ids_that_are_accepted(value: Any) -> None:
    got = event(plain(user_id=value, session_id=value))
    assert got.user_id == value
    assert type(got.user_id) is type(value)
    assert got.session_key == got.user_key == key64(value)


@pytest.mark.parametrize("field", ["user_id", "item_id"])
def test_missing_and_null_ids(field: str) -> None:
    assert reason({"user_id": 1, "item_id": 1, field: None}) == f"{field}_missing"
    assert reason({"item_id": 1} if field == "user_id" else {"user_id": 1}) == f"{field}_missing"


def test_the_detail_names_the_path_but_no_value() -> None:
    decoded = decode(plain(user_id=["secret"]))
    assert "user_id" in str(decoded)
    assert "secret" not in str(decoded)
    assert "secret" not in str(decode(b'{"user_id": secret}'))


@pytest.mark.parametrize(
    ("value", "name"), [("view", "view"), (3, "3"), (None, DEFAULT_TYPE), ("", DEFAULT_TYPE), ("x" * 256, "x" * 256)]
)
def test_event_types(value: Any, name: str) -> None:
    got = event(plain(event_type=value))
    assert (got.event_type, got.type_key) == (name, key64(name))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "event_type_wrong_type"), (True, "event_type_wrong_type"), ("x" * 257, "event_type_too_long")],
)
def test_event_types_that_are_rejected(value: Any, expected: str) -> None:
    assert reason(plain(event_type=value)) == expected


@pytest.mark.parametrize("alias", ["event_time", "timestamp", "ts", "time"])
@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1_700_000_000, "s"),
        (1_700_000_000.0, "s"),
        (1_700_000_000_000, "ms"),
        (1_700_000_000_000_000, "us"),
        ("1700000000", "s"),
        ("1700000000000.0", "ms"),
        ("2023-11-14T22:13:20Z", None),
        ("2023-11-14t22:13:20z", None),
        ("2023-11-14 22:13:20", None),
        ("2023-11-14T23:13:20.000000000+01:00", None),
    ],
)
def test_times_in_every_unit(alias: str, value: Any, unit: str | None) -> None:
    decoder = Decoder(InputSettings())
    got = decoder.decode(record(plain(**{alias: value})))
    assert isinstance(got, Event)
    assert got.event_time == T
    assert decoder.time_unit == unit


def test_the_leap_second_is_the_second_after() -> None:
    leap, after = event(plain(ts="2016-12-31T23:59:60Z")), event(plain(ts="2017-01-01T00:00:00Z"))
    assert leap.event_time == after.event_time


@pytest.mark.parametrize(
    "value", [True, [], {}, "yesterday", "2023-13-01T00:00:00Z", "2023-11-14T22:13:61Z", "nan", "1e9", "", "9" * 21]
)
def test_times_that_cannot_be_read(value: Any) -> None:
    assert reason(plain(ts=value)) == "event_time_unreadable"


@pytest.mark.parametrize("value", [1e300, -1e300, 253_402_300_800_000_000, "0001-01-01T00:00:00+14:00"])
def test_times_outside_the_calendar(value: Any) -> None:
    assert reason(plain(ts=value)) == "event_time_out_of_range"


def test_the_first_numeric_time_decides_the_unit_once() -> None:
    decoder = Decoder(InputSettings())
    for value in (0, "2023-11-14T22:13:20Z", 1e300):
        decoder.decode(record(plain(ts=value)))
        assert decoder.time_unit is None
    decoder.decode(record(plain(ts=1_700_000_000_000)))
    assert decoder.time_unit == "ms"
    got = decoder.decode(record(plain(ts=1_700_000_000)))
    assert isinstance(got, Event)
    assert got.event_time == T / 1000


def test_a_named_unit_stands() -> None:
    assert event(plain(ts=1_700_000_000), settings=InputSettings(time_unit="ms")).event_time == T / 1000
    assert event(plain(ts="2023-11-14T22:13:20Z"), settings=InputSettings(time_unit="ms")).event_time == T
    assert reason(plain(ts=1_700_000_000), settings=InputSettings(time_unit="rfc3339")) == "event_time_unreadable"


def test_state_keeps_the_unit() -> None:
    first, second = Decoder(InputSettings()), Decoder(InputSettings())
    first.decode(record(plain(ts=1_700_000_000_000)))
    second.load_state(orjson.loads(orjson.dumps(first.state())))
    assert second.time_unit == "ms"
    named = Decoder(InputSettings(time_unit="s"))
    named.load_state(first.state())
    assert named.time_unit == "s"
    with pytest.raises(StateError, match="time_unit"):
        second.load_state({"time_unit": "hours"})


def test_without_a_time_the_records_counts() -> None:
    got = event(plain(), 1_700_000_000_250)
    assert (got.event_time, got.late, got.future) == (T + 0.25, False, False)
    assert reason(plain(), 2**62) == "event_time_out_of_range"


@pytest.mark.parametrize(
    ("ahead_s", "late", "future"), [(-101, True, False), (-100, False, False), (50, False, False), (51, False, True)]
)
def test_late_and_future_by_the_records_time(ahead_s: int, late: bool, future: bool) -> None:
    settings = InputSettings(late_after_s=100, future_after_s=50)
    got = event(plain(ts=T + ahead_s), int(T * 1000), settings=settings)
    assert (got.late, got.future) == (late, future)
    assert got.event_time == (T if future else T + ahead_s)
    untimed = event(plain(ts=T + ahead_s), settings=settings)
    assert (untimed.late, untimed.future, untimed.event_time) == (False, False, T + ahead_s)


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (0.5, 0.5), ("39.95", 39.95), (" -2 ", -2.0), (None, None)])
def test_values(value: Any, number: float | None) -> None:
    assert event(plain(value=value)).value == number


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "$3", "1_000", "", True, [], {}])
def test_values_that_are_no_finite_number(value: Any) -> None:
    assert reason(plain(value=value)) == "value_not_numeric"


@pytest.mark.parametrize("value", ["fraud", 1, 0.5, False])
def test_outcomes(value: Any) -> None:
    got = event(plain(outcome=value)).outcome
    assert got == value
    assert type(got) is type(value)


def test_outcomes_that_are_rejected() -> None:
    assert reason(plain(outcome=[])) == "outcome_wrong_type"
    assert reason(plain(outcome="x" * 257)) == "outcome_too_long"


def test_features_whole_and_one_by_one() -> None:
    settings = InputSettings(map={"features.price": "p.amount", "features.gone": "nowhere"})
    assert event(plain(features={"a": 1}, p={"amount": 5}), settings=settings).features == {"a": 1, "price": 5}
    assert event(plain(), settings=settings).features is None
    assert event(plain(features={"a": [1]})).features == {"a": [1]}
    assert reason(plain(features=[1])) == "features_not_an_object"


def test_the_records_key_can_be_the_user() -> None:
    settings = InputSettings(map={"user_id": "kafka.key"})
    assert event({"item_id": 1}, settings=settings, key="zoë".encode()).user_id == "zoë"
    assert reason({"item_id": 1}, settings=settings, key=b"\xff") == "key_not_utf8"
    assert reason({"item_id": 1}, settings=settings) == "user_id_missing"


def test_decode_all_keeps_the_order() -> None:
    records = [record(plain(user_id=n) if n % 3 else b"x")._replace(offset=n) for n in range(10)]
    events, rejected = Decoder(InputSettings()).decode_all(records)
    assert [got.user_id for got in events] == [1, 2, 4, 5, 7, 8]
    assert [bad.record.offset for bad in rejected] == [0, 3, 6, 9]
    assert all(bad.error.reason == "invalid_json" for bad in rejected)
    assert rejected[1].record is records[3]
