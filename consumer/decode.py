"""From a record to an event, by the rules of the input settings; a record that breaks one is rejected with a reason."""

from __future__ import annotations

from math import isfinite, isnan, nan
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import orjson

from consumer import times
from consumer.errors import BadEvent, StateError
from consumer.events import DEFAULT_TYPE, Event, Id, event_of, key64
from consumer.mapping import HEADER_NOT_UTF8, KEY_NOT_UTF8, Field, field_mapping
from consumer.times import TimeReader, TimeUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from consumer.ports import Record
    from consumer.settings import InputSettings

MAX_ID_BYTES = 256
MAX_DEPTH = 128
"""Levels of nested objects and lists in a record."""

TOMBSTONE = "tombstone"
EMPTY = "empty_value"
OVERSIZE = "oversize"
NOT_UTF8 = "invalid_utf8"
NOT_JSON = "invalid_json"
NOT_AN_OBJECT = "not_an_object"
TOO_DEEP = "too_deep"
VALUE_NOT_NUMERIC = "value_not_numeric"
OUTCOME_WRONG_TYPE = "outcome_wrong_type"
OUTCOME_TOO_LONG = "outcome_too_long"
FEATURES_NOT_AN_OBJECT = "features_not_an_object"

_ID_FIELDS = ("user_id", "item_id", "event_id", "session_id")

REASONS: frozenset[str] = frozenset(
    {
        TOMBSTONE,
        EMPTY,
        OVERSIZE,
        NOT_UTF8,
        NOT_JSON,
        NOT_AN_OBJECT,
        TOO_DEEP,
        KEY_NOT_UTF8,
        HEADER_NOT_UTF8,
        "user_id_missing",
        "item_id_missing",
        *(f"{field}_{problem}" for field in _ID_FIELDS for problem in ("wrong_type", "empty", "too_long")),
        "event_type_wrong_type",
        "event_type_too_long",
        times.UNREADABLE,
        times.OUT_OF_RANGE,
        VALUE_NOT_NUMERIC,
        OUTCOME_WRONG_TYPE,
        OUTCOME_TOO_LONG,
        FEATURES_NOT_AN_OBJECT,
    }
)
"""Every reason that a rejected record can have."""


class Rejected(NamedTuple):
    """A record that is no event, and why."""

    record: Record
    error: BadEvent


class Decoder:
    """Decodes records. It keeps one thing between them: the unit of numeric times, once that is decided."""

    def __init__(self, settings: InputSettings) -> None:
        mapping = field_mapping(settings)
        self._user, self._item = mapping.fields["user_id"], mapping.fields["item_id"]
        self._type, self._time = mapping.fields["event_type"], mapping.fields["event_time"]
        self._session, self._event_id = mapping.fields.get("session_id"), mapping.fields.get("event_id")
        self._value, self._outcome = mapping.fields.get("value"), mapping.fields.get("outcome")
        self._object, self._features = mapping.fields.get("features"), tuple(mapping.features.items())
        self._times = TimeReader(settings.time_unit)
        self._unit_is_set = settings.time_unit != "auto"
        self._late_after_s = settings.late_after_s
        self._future_after_s = settings.future_after_s
        self._max_record_bytes = settings.max_record_bytes

    @property
    def time_unit(self) -> TimeUnit | None:
        """The unit of numeric times; None until the first of them has decided it."""
        return self._times.unit

    def state(self) -> dict[str, str | None]:
        """Return what a snapshot must hold."""
        return {"time_unit": self._times.unit}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; a unit that the settings name stands. Raises StateError."""
        unit = state.get("time_unit")
        if unit is not None and unit not in get_args(TimeUnit):
            raise StateError(f"the snapshot's time_unit is not one of {', '.join(get_args(TimeUnit))}")
        if not self._unit_is_set:
            self._times.unit = unit

    def decode(self, record: Record) -> Event | BadEvent:
        """Return the event, or why the record is none. Raises nothing, whatever the bytes."""
        try:
            return self._event(record, self._document(record))
        except BadEvent as error:
            return error

    def decode_all(self, records: Iterable[Record]) -> tuple[list[Event], list[Rejected]]:
        """Decode records; events and rejected records each keep the order of the records."""
        events: list[Event] = []
        rejected: list[Rejected] = []
        for record in records:
            decoded = self.decode(record)
            if isinstance(decoded, Event):
                events.append(decoded)
            else:
                rejected.append(Rejected(record, decoded))
        return events, rejected

    def _document(self, record: Record) -> dict[str, Any]:
        value = record.value
        if value is None:
            raise BadEvent(TOMBSTONE, "the value is null")
        if record_bytes(record) > self._max_record_bytes:
            raise BadEvent(OVERSIZE, f"more than {self._max_record_bytes} bytes, which is input.max_record_bytes")
        try:
            data = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise _not_json(value, error) from error
        if type(data) is not dict:
            raise BadEvent(NOT_AN_OBJECT, f"the top level is {_kind(data)}")
        if value.count(b"{") + value.count(b"[") > MAX_DEPTH and _deeper_than(data, MAX_DEPTH):
            raise BadEvent(TOO_DEEP, f"more than {MAX_DEPTH} levels")
        return data

    def _event(self, record: Record, data: dict[str, Any]) -> Event:
        user_id = _id(self._user, self._user.get(data, record))
        item_id = _id(self._item, self._item.get(data, record))
        event_type = _event_type(self._type.get(data, record))
        session_key = self._optional_key(self._session, data, record)
        event_key = self._optional_key(self._event_id, data, record)
        value, outcome, features = self._extras(data, record)
        event_time, late, future = self._event_time(data, record)
        return event_of(
            record,
            user_id,
            item_id,
            event_type,
            event_time,
            session_key=session_key,
            event_key=event_key,
            value=value,
            outcome=outcome,
            features=features,
            late=late,
            future=future,
        )

    def _optional_key(self, field: Field | None, data: dict[str, Any], record: Record) -> int:
        found = None if field is None else field.get(data, record)
        return 0 if found is None or field is None else key64(_id(field, found))

    def _event_time(self, data: dict[str, Any], record: Record) -> tuple[float, bool, bool]:
        """Return the time in seconds, whether it is late, and whether it was in the future and was replaced."""
        found = self._time.get(data, record)
        record_s = record.timestamp_ms / 1000 if record.timestamp_ms >= 0 else nan
        if found is None:
            return nan if isnan(record_s) else times.in_range(record_s), False, False
        event_s = self._times.seconds(found)
        ahead_s = event_s - record_s  # NaN where the record has no time: then neither comparison is true
        if ahead_s > self._future_after_s:
            return record_s, False, True
        return event_s, ahead_s < -self._late_after_s, False

    def _extras(
        self, data: dict[str, Any], record: Record
    ) -> tuple[float | None, Id | float | bool | None, dict[str, Any] | None]:
        value = outcome = features = None
        if self._value is not None:
            value = _number(self._value.get(data, record))
        if self._outcome is not None:
            outcome = _outcome(self._outcome.get(data, record))
        if self._object is not None:
            features = _object(self._object.get(data, record))
        if self._features:
            named = {name: field.get(data, record) for name, field in self._features}
            features = {**(features or {}), **{name: found for name, found in named.items() if found is not None}}
        return value, outcome, features or None


def record_bytes(record: Record) -> int:
    """Return the size of a record: its key, value and headers."""
    size = len(record.value or b"") + len(record.key or b"")
    if record.headers:
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size


def _not_json(value: bytes, error: orjson.JSONDecodeError) -> BadEvent:
    if not value.strip():
        return BadEvent(EMPTY, "the value is empty")
    try:
        value.decode()
    except UnicodeDecodeError:
        return BadEvent(NOT_UTF8, "the value is not UTF-8 text")
    if "depth" in error.msg or "ecursion" in error.msg:
        return BadEvent(TOO_DEEP, f"more than {MAX_DEPTH} levels")
    return BadEvent(NOT_JSON, f"at position {error.pos}")  # its message could quote the value


def _deeper_than(data: Any, levels: int) -> bool:
    """Whether objects and lists nest deeper; level by level, so that no depth can exhaust the stack."""
    level = [data]
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _id(field: Field, value: Any) -> Id:
    kind = type(value)
    if kind is str:
        if not value:
            raise BadEvent(f"{field.name}_empty", f"at {field.path}")
        _check_length(field.name, value)
        return str(value)
    if kind is int:
        return int(value)
    if value is None:
        raise BadEvent(f"{field.name}_missing", f"nothing at {field.path}")
    raise BadEvent(f"{field.name}_wrong_type", f"{_kind(value)} at {field.path}; ids are text or integers")


def _check_length(name: str, text: str) -> None:
    if len(text) > MAX_ID_BYTES // 4 and len(text.encode()) > MAX_ID_BYTES:  # a character is at most four bytes
        raise BadEvent(f"{name}_too_long", f"more than {MAX_ID_BYTES} bytes")


def _event_type(value: Any) -> str:
    kind = type(value)
    if kind is str:
        _check_length("event_type", value)
        return value or DEFAULT_TYPE
    if value is None:
        return DEFAULT_TYPE
    if kind is int:
        return str(value)
    raise BadEvent("event_type_wrong_type", f"{_kind(value)}; types are text")


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = _as_float(value)
    if number is None or not isfinite(number):
        raise BadEvent(VALUE_NOT_NUMERIC, "value must be a finite number")
    return number


def _as_float(value: Any) -> float | None:
    kind = type(value)
    if kind is float or kind is int:
        return float(value)
    if kind is not str or "_" in value:  # Python would read 1_000 as a number
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _outcome(value: Any) -> Id | float | bool | None:
    if type(value) is dict or type(value) is list:
        raise BadEvent(OUTCOME_WRONG_TYPE, f"{_kind(value)}; an outcome is text, a number or a boolean")
    if type(value) is str:
        _check_length("outcome", value)
    return value  # type: ignore[no-any-return]  # JSON has no further scalar


def _object(value: Any) -> dict[str, Any] | None:
    if value is None or type(value) is dict:
        return value
    raise BadEvent(FEATURES_NOT_AN_OBJECT, f"features are {_kind(value)}")


def _kind(value: Any) -> str:
    """Name a JSON value's type, as people say it."""
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a boolean",
        int: "an integer",
        float: "a float, or an integer of more than 64 bits",
    }
    return names.get(type(value), "null")
