from __future__ import annotations

import pytest

from consumer.errors import BadEvent, ConfigError
from consumer.mapping import compile_path, field_mapping
from consumer.ports import Record
from consumer.settings import InputSettings

RECORD = Record("events", 0, 0, -1, b"the-key", b"{}", (("h", b"old"), ("h", b"new"), ("a.b", b"dotted"), ("n", None)))
DATA = {
    "a": {"b": [{"c": 5}, {"c": 6}], "0": "zero"},
    "dotted.key": {"x|y": 1},
    "params": [
        {"key": "session", "value": {"int_value": 7, "string_value": None}},
        {"key": "plain", "value": "text"},
        {"key": "nothing", "value": {"string_value": None}},
    ],
    "kafka": {"key": "in the value"},
    "empty": "",
    "none": None,
    "spaced out": 3,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b.1.c", 6),
        ("a.b.9.c", None),
        ("a.0", "zero"),
        ("a.b.c", None),
        ("a.b.c.d", None),
        ('"dotted.key"."x|y"', 1),
        ("dotted.key", None),
        ("spaced out", 3),
        ("params.session", 7),
        ("params.plain", "text"),
        ("params.nothing.string_value", None),
        ("params.missing", None),
        ("kafka.key", "the-key"),
        ('"kafka".key', "in the value"),
        ("kafka.headers.h", "new"),
        ("kafka.headers.a.b", "dotted"),
        ("kafka.headers.n", None),
        ("none | missing | a.0", "zero"),
        ("none|spaced out", 3),
        ("empty|spaced out", 3),
        ("empty|none", ""),
        ("empty|a.x", ""),
    ],
)
def test_path_finds(path: str, found: object) -> None:
    assert compile_path(path)(DATA, RECORD) == found


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a|", "|a", '"open', '"a"b', 'a"b.c', '""'])
def test_path_that_cannot_be_read(path: str) -> None:
    with pytest.raises(ConfigError, match=r"input\.map\.item_id: cannot read the path"):
        compile_path(path, "item_id")


@pytest.mark.parametrize("path", ["kafka.offset", "kafka.headers", "kafka.key.x"])
def test_of_the_record_only_key_and_headers(path: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.key and kafka\.headers\.NAME"):
        compile_path(path, "item_id")


def test_unknown_event_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no event field is called 'itemid'; did you mean item_id"):
        field_mapping(InputSettings(map={"itemid": "x"}))
    with pytest.raises(ConfigError, match=r"no event field is called 'features\.'"):
        field_mapping(InputSettings(map={"features.": "x"}))


def test_map_overrides_one_path_of_the_preset() -> None:
    mapping = field_mapping(InputSettings(map={"item_id": "properties.product_id", "features.price": "p"}))
    assert mapping.fields["item_id"].path == "properties.product_id"
    assert mapping.fields["user_id"].path == "user_id"
    assert mapping.features["price"].get({"p": 2}, RECORD) == 2
    assert {"properties", "p", "user_id", "timestamp"} <= mapping.roots
    assert "item_id" not in mapping.roots
    assert mapping.roots_of("event_time") == ("event_time", "timestamp", "ts", "time")


def test_kafka_paths_are_no_columns() -> None:
    assert field_mapping(InputSettings(map={"user_id": "kafka.key"})).roots_of("user_id") == ()


@pytest.mark.parametrize(("path", "reason"), [("kafka.key", "key_not_utf8"), ("kafka.headers.h", "header_not_utf8")])
def test_key_or_header_that_is_no_text(path: str, reason: str) -> None:
    record = Record("events", 0, 0, -1, b"\xff", b"{}", (("h", b"\xff"),))
    with pytest.raises(BadEvent) as caught:
        compile_path(path)({}, record)
    assert caught.value.reason == reason
