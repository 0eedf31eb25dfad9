"""What the worker says on standard error: for people on a terminal, JSON lines elsewhere.

Modules say `structlog.get_logger()` and name what happened and how much, never keys, values, ids or secrets.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from typing import TextIO

    from consumer.ports import Clock
    from consumer.settings import LogSettings

WITHHELD = frozenset(
    {"user_id", "item_id", "session_id", "event_id", "key", "value", "headers", "record", "password", "sasl_password"}
)
"""Names under which nothing is ever printed, should one slip in."""

QUIET = {"kafka": logging.WARNING, "kafka.net.selector": logging.ERROR}
"""Loggers and their lowest levels: kafka-python prints keys and values at DEBUG, and warns of every busy moment."""

REPEAT_S = 10.0
"""A quiet logger says the same thing at most once in this time: a broker that is down is news once."""

MAX_REMEMBERED = 256


def configure_logging(settings: LogSettings, clock: Clock, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging, process-wide, once at the start; again replaces it."""
    stream = sys.stderr if stream is None else stream
    level = getattr(logging, settings.level.upper())
    shared = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, _timestamp(clock), _withhold]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.addFilter(_Repeats(clock))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name], processors=_rendering(settings, stream)
        )
    )
    _install(handler, level)


class _Handler(logging.StreamHandler["TextIO"]):
    """Ours, so that a second call finds the first one's."""


class _Repeats(logging.Filter):
    """Drops what a quiet logger has just said, by the text before values are put in."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in QUIET:
            return True
        now, said = self._clock.monotonic(), (record.name, str(record.msg))
        if now - self._said.get(said, -REPEAT_S) < REPEAT_S:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[said] = now
        return True


def _install(handler: _Handler, level: int) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, lowest in QUIET.items():
        logging.getLogger(name).setLevel(max(level, lowest))


def _rendering(settings: LogSettings, stream: TextIO) -> list[structlog.typing.Processor]:
    """The last steps. Tracebacks without local variables: those would show records."""
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if settings.format == "console" or (settings.format == "auto" and stream.isatty()):
        return [
            remove_meta,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            ),
        ]
    return [
        remove_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str),
    ]


def _timestamp(clock: Clock) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        moment = datetime.fromtimestamp(clock.now(), UTC)
        event["timestamp"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event

    return add


def _withhold(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in WITHHELD.intersection(event):
        event[name] = "***"
    return event
