"""Where each field of an event is found in a record: paths, compiled once into getters.

A path is a row of keys with dots between them (`properties.product_id`); a number is a place in a list
(`items.0.item_id`). A key that itself holds a dot or a bar is quoted (`"user.id"`). In a list of `key`/`value` pairs a
key finds its value (`event_params.ga_session_id`). `kafka.key` is the record's key as text, `kafka.headers.NAME` its
last header of that name; to read a field that is called kafka, quote it. Alternatives have bars between them
(`userId|anonymousId`): the first that is there and not empty counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer.errors import BadEvent, ConfigError
from consumer.ports import Record
from consumer.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumer.events import Event
    from consumer.settings import InputSettings

Getter = Callable[[dict[str, Any], Record], Any]
"""Takes a decoded record and the record itself; returns what is at the path, None where nothing is."""

EVENT_FIELDS = (
    "user_id",
    "item_id",
    "event_type",
    "event_time",
    "event_id",
    "session_id",
    "value",
    "outcome",
    "features",
)
FEATURE_PREFIX = "features."
"""`features.NAME = path` adds one feature, beside or instead of a whole object at `features`."""
SHOWN_FEATURES = 16
"""Of those that events have, where one that is asked for is not among them."""

KEY_NOT_UTF8 = "key_not_utf8"
HEADER_NOT_UTF8 = "header_not_utf8"

_SEGMENT = re.compile(r'\s*(?:"((?:[^"\\]|\\.)+)"|([^.|"\s](?:[^.|"]*[^.|"\s])?))\s*([.|]|$)')
_TYPED_SLOTS = ("string_value", "int_value", "double_value", "float_value")


class _Step(NamedTuple):
    """One key of a path; `place` is its number where it can be a place in a list."""

    key: str
    place: int | None
    quoted: bool


_Path = tuple[_Step, ...]


class Field(NamedTuple):
    """One event field: its name, its path as written, and the path compiled."""

    name: str
    path: str
    get: Getter


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """All mapped fields.

    `fields` by event field, `features` by feature name. `roots` are the top-level keys that any path starts from: a
    file's other columns need not be read.
    """

    fields: Mapping[str, Field]
    features: Mapping[str, Field]
    roots: frozenset[str]

    def roots_of(self, name: str) -> tuple[str, ...]:
        """Return the top-level keys from which `name`, as in `input.map`, may be filled; none for kafka paths."""
        field = self.fields.get(name) or self.features.get(name.removeprefix(FEATURE_PREFIX))
        return tuple(_roots(field.path)) if field else ()


def field_mapping(settings: InputSettings) -> FieldMapping:
    """Compile the preset's paths and the overrides in `input.map`. Raises ConfigError."""
    paths = {**PRESETS[settings.preset], **settings.map}
    for name in settings.map:
        _check_name(name)
    compiled = {name: Field(name, path, compile_path(path, name)) for name, path in paths.items()}
    return FieldMapping(
        fields={name: field for name, field in compiled.items() if name in EVENT_FIELDS},
        features={
            name.removeprefix(FEATURE_PREFIX): field for name, field in compiled.items() if name not in EVENT_FIELDS
        },
        roots=frozenset(root for path in paths.values() for root in _roots(path)),
    )


def compile_path(text: str, name: str = "path") -> Getter:
    """Compile one path with its alternatives; `name` is the setting named in a ConfigError."""
    paths = _parse(text, name)
    if all(len(path) == 1 for path in paths):
        keys = tuple(path[0].key for path in paths)
        return _first_key(keys) if len(keys) > 1 else _key(keys[0])
    getters = tuple(_getter(path, name) for path in paths)
    return getters[0] if len(getters) == 1 else _first(getters)


def nearest(name: str, known: tuple[str, ...]) -> str:
    """Return a half-sentence that names the nearest of `known`, or all of them when none is near."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def feature_hint(feature: str, events: Iterable[Event]) -> str:
    """Return a half-sentence on a feature by which none of the events has a segment: why, or which others there are."""
    known = sorted({name for event in events for name in event.features or ()})
    if not known:
        return "the latest have no features"
    if feature in known:
        return "its values are empty, or neither text, whole numbers nor booleans"
    return nearest(feature, tuple(get_close_matches(feature, known, n=1) or known[:SHOWN_FEATURES]))


def _check_name(name: str) -> None:
    if name in EVENT_FIELDS or (name.startswith(FEATURE_PREFIX) and len(name) > len(FEATURE_PREFIX)):
        return
    raise ConfigError(f"input.map: no event field is called {name!r}; {nearest(name, EVENT_FIELDS)}")


def _parse(text: str, name: str) -> list[_Path]:
    """Split a path into alternatives of steps. Raises ConfigError that shows where it cannot be read."""
    alternatives: list[list[_Step]] = [[]]
    position, separator = 0, "."
    while separator:
        found = _SEGMENT.match(text, position)
        if found is None:
            raise ConfigError(
                f"input.map.{name}: cannot read the path {text!r} at position {position}; write keys with dots between"
                ' them, as in properties.product_id, and quote a key that holds a dot, as in "user.id"'
            )
        alternatives[-1].append(_step(found[1], found[2]))
        position, separator = found.end(), found[3]
        if separator == "|":
            alternatives.append([])
    return [tuple(steps) for steps in alternatives]


def _step(quoted: str | None, bare: str | None) -> _Step:
    key = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else str(bare)
    is_place = quoted is None and key.isascii() and key.isdigit() and len(key) < 10
    return _Step(key, int(key) if is_place else None, quoted is not None)


def _is_kafka(path: _Path) -> bool:
    return path[0].key == "kafka" and not path[0].quoted and len(path) > 1


def _roots(text: str) -> Iterator[str]:
    return (path[0].key for path in _parse(text, "path") if not _is_kafka(path))


def _getter(path: _Path, name: str) -> Getter:
    if _is_kafka(path):
        return _kafka(path, name)
    return _key(path[0].key) if len(path) == 1 else _walk(path)


def _key(key: str) -> Getter:
    return lambda data, _record: data.get(key)


def _first_key(keys: tuple[str, ...]) -> Getter:
    """The case of `_first` where every alternative is one key, which is most of the time."""

    def first(data: dict[str, Any], _record: Record) -> Any:
        empty = None
        for key in keys:
            found = data.get(key)
            if found is not None:
                if found != "":
                    return found
                empty = found
        return empty

    return first


def _first(getters: tuple[Getter, ...]) -> Getter:
    def first(data: dict[str, Any], record: Record) -> Any:
        empty = None
        for get in getters:
            found = get(data, record)
            if found is not None:
                if found != "":
                    return found
                empty = found
        return empty

    return first


def _walk(path: _Path) -> Getter:
    steps = tuple((step.key, step.place) for step in path)

    def walk(data: dict[str, Any], _record: Record) -> Any:
        node: Any = data
        for key, place in steps:
            if type(node) is dict:
                node = node.get(key)
            elif type(node) is list:
                node = _in_list(node, key, place)
            else:
                return None
        return node

    return walk


def _in_list(items: list[Any], key: str, place: int | None) -> Any:
    """Return the item at `place`, or the value paired with `key` in a list of {"key": …, "value": …}."""
    if place is not None:
        return items[place] if place < len(items) else None
    for item in items:
        if type(item) is dict and item.get("key") == key:
            return _untyped(item.get("value"))
    return None


def _untyped(value: Any) -> Any:
    """Take the value out of its typed slot ({"int_value": 3} → 3), if it is in one."""
    if type(value) is dict:
        for slot in _TYPED_SLOTS:
            if value.get(slot) is not None:
                return value[slot]
    return value


def _kafka(path: _Path, name: str) -> Getter:
    kind = path[1].key
    if kind == "key" and len(path) == 2:
        return _record_key
    if kind == "headers" and len(path) > 2:
        return _header(".".join(step.key for step in path[2:]))
    raise ConfigError(f"input.map.{name}: of the record itself there are kafka.key and kafka.headers.NAME")


def _record_key(_data: dict[str, Any], record: Record) -> str | None:
    return None if record.key is None else _text(record.key, KEY_NOT_UTF8)


def _header(header: str) -> Getter:
    def last_header(_data: dict[str, Any], record: Record) -> str | None:
        for name, value in reversed(record.headers):
            if name == header and value is not None:
                return _text(value, HEADER_NOT_UTF8)
        return None

    return last_header


def _text(raw: bytes, reason: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadEvent(reason, "a mapped part of the record is not UTF-8 text") from error
