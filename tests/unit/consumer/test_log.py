from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from consumer.clock import ManualClock
from consumer.log import MAX_REMEMBERED, WITHHELD, configure_logging
from consumer.settings import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    before = root.level, list(root.handlers), kafka.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    kafka.setLevel(before[2])
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(stream: io.StringIO, **settings: str) -> io.StringIO:
    configure_logging(LogSettings(**settings), ManualClock(now=1_700_000_000.0), stream)
    return stream


def test_json_lines_where_nobody_watches() -> None:
    stream = configured(io.StringIO())
    structlog.get_logger().info("batch committed", batch=7)
    assert logged(stream) == [
        {"message": "batch committed", "batch": 7, "level": "info", "timestamp": "2023-11-14T22:13:20.000Z"}
    ]


def test_text_on_a_terminal() -> None:
    stream = configured(Terminal())
    structlog.get_logger().info("batch committed", batch=7)
    assert "batch committed" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("style", "stream"), [("json", Terminal()), ("console", io.StringIO())])
def test_the_format_can_be_chosen(style: str, stream: io.StringIO) -> None:
    configured(stream, format=style)
    structlog.get_logger().info("hello")
    assert stream.getvalue().startswith("{") == (style == "json")


def test_the_level_holds_for_all_loggers() -> None:
    stream = configured(io.StringIO(), level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("somewhere").info("quiet")
    logging.getLogger("somewhere").warning("loud %s", "enough")
    assert [line["message"] for line in logged(stream)] == ["loud enough"]


def test_kafka_says_no_keys_and_values_even_at_debug() -> None:
    stream = configured(io.StringIO(), level="debug")
    logging.getLogger("kafka.producer.kafka").debug("Sending (key=b'user-1')")
    logging.getLogger("kafka.client").info("connected")
    logging.getLogger("kafka.client").warning("gone")
    assert [(line["message"], line["logger"]) for line in logged(stream)] == [("gone", "kafka.client")]


def test_kafka_repeats_itself_only_after_a_while() -> None:
    clock, stream = ManualClock(), io.StringIO()
    configure_logging(LogSettings(), clock, stream)
    for seconds in (0, 1, 8, 1):
        clock.advance(seconds)
        logging.getLogger("kafka.conn").error("Connection to %s failed", f"broker {seconds}")
        logging.getLogger("other").error("always")
    assert [line["message"] for line in logged(stream) if line["logger"] != "other"] == [
        "Connection to broker 0 failed",
        "Connection to broker 1 failed",
    ]
    assert len([line for line in logged(stream) if line["logger"] == "other"]) == 4


def test_what_kafka_said_is_remembered_within_bounds() -> None:
    configured(io.StringIO())
    (handler,) = [handler for handler in logging.getLogger().handlers if type(handler).__module__ == "consumer.log"]
    for n in range(1000):
        logging.getLogger("kafka.conn").error(f"message {n}")  # noqa: G004 - a text that is never the same
    assert len(handler.filters[0]._said) <= MAX_REMEMBERED


def test_names_of_record_contents_are_withheld() -> None:
    stream = configured(io.StringIO())
    structlog.get_logger().warning("slip", **dict.fromkeys(WITHHELD, "private"), offset=3)
    assert "private" not in stream.getvalue()
    assert logged(stream)[0]["offset"] == 3


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_tracebacks_show_no_variables(stream: io.StringIO) -> None:
    configured(stream)
    user = "private-user"
    try:
        len(user) / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    assert "ZeroDivisionError" in stream.getvalue()
    assert user not in stream.getvalue()


def test_configuring_again_replaces() -> None:
    first, second = configured(io.StringIO()), configured(io.StringIO())
    structlog.get_logger().info("once")
    logging.getLogger("x").info("twice")
    assert first.getvalue() == ""
    assert [line["message"] for line in logged(second)] == ["once", "twice"]
