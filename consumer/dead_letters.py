"""Rejected records as dead letters, and the limit after which so many of them mean that we are wrong, not the data."""

from __future__ import annotations

from collections import Counter, deque
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from consumer.decode import OVERSIZE, Rejected
from consumer.errors import TooManyBadEvents
from consumer.ports import Headers, Output, Record
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumer.settings import InputSettings

ERROR_HEADER = "__streams.errors."
"""Prefix of the headers that say where a record was and why it is here, as Kafka Streams names them (KIP-1034)."""

SIZE_HEADER = "tidemill-size"
SHA256_HEADER = "tidemill-sha256"

_ERROR_HEADERS = 5
_KEPT_BYTES = 65_536
"""Key and headers of an emptied output are kept where together they are no larger."""


def dead_letter(rejected: Rejected, topic: str) -> Output:
    """Return the record as it was, with headers that say where it was and why it was rejected.

    Headers without a value are left out: they cannot be sent. An oversized record comes `emptied`.
    """
    record = rejected.record
    original = tuple((name, value) for name, value in record.headers if value is not None)
    output = Output(topic, record.key, record.value, (*original, *_error_headers(rejected)))
    return emptied(output) if rejected.error.reason == OVERSIZE else output


def emptied(output: Output) -> Output:
    """Return an output that is too large with an empty value, its size and SHA-256 in the headers.

    A large key, and large headers that came with the record, go as well.
    """
    value = output.value or b""
    headers = output.headers
    key = output.key
    if len(key or b"") + sum(len(name) + len(text or b"") for name, text in headers) > _KEPT_BYTES:
        key, headers = None, tuple(header for header in headers if header[0].startswith(ERROR_HEADER))[-_ERROR_HEADERS:]
    what = ((SIZE_HEADER, str(len(value)).encode()), (SHA256_HEADER, sha256(value).hexdigest().encode()))
    return output._replace(key=key, value=b"", headers=(*headers, *what))


def reasons_of(records: Iterable[Record], rejected: Sequence[Rejected]) -> list[str | None]:
    """Return for each record why it was rejected, None where it was accepted; `rejected` are in the same order."""
    reasons: list[str | None] = []
    left = iter(rejected)
    bad = next(left, None)
    for record in records:
        if bad is not None and record is bad.record:
            reasons.append(bad.error.reason)
            bad = next(left, None)
        else:
            reasons.append(None)
    return reasons


class DeadLetterLimit:
    """Watches how many of the latest records were rejected.

    The share is judged once `bad_window` records were seen, so a bad record at the start stops nothing. What was seen
    is part of the worker's state: one that is started again stops at the same record.
    """

    def __init__(self, settings: InputSettings) -> None:
        self._settings = settings
        self._run = 0
        self._bad = 0
        self._window: deque[str | None] = deque(maxlen=settings.bad_window)  # the reason, None for an accepted record

    def check(self, reasons: Iterable[str | None]) -> None:
        """Raise TooManyBadEvents where the run or the share would pass its limit; changes nothing."""
        ahead = DeadLetterLimit(self._settings)
        ahead._run, ahead._bad, ahead._window = self._run, self._bad, self._window.copy()
        for reason in reasons:
            ahead._add(reason)
            ahead._judge()

    def observe(self, reasons: Iterable[str | None]) -> None:
        """Take in records in order: why each was rejected, None where it was accepted."""
        for reason in reasons:
            self._add(reason)

    def state(self) -> State:
        """Return what was seen: the run, and the window as codes of reasons, 0 for an accepted record."""
        names = sorted({reason for reason in self._window if reason is not None})
        codes = {None: 0} | {name: code for code, name in enumerate(names, start=1)}
        window = np.array([codes[reason] for reason in self._window], np.int16)
        return State({"window": window}, {"run": self._run, "reasons": names})

    def load(self, state: State) -> None:
        """Become what `state` has returned; a shorter `bad_window` keeps the latest of it."""
        names = [None, *state.values["reasons"]]
        self._run = int(state.values["run"])
        self._window = deque((names[code] for code in state.arrays["window"]), maxlen=self._settings.bad_window)
        self._bad = sum(reason is not None for reason in self._window)

    def _judge(self) -> None:
        if self._run >= self._settings.max_bad_run:
            raise TooManyBadEvents(f"{self._run} records in a row were rejected, {self._advice('max_bad_run')}")
        if self._is_full() and self._bad > self._settings.max_bad_share * self._settings.bad_window:
            raise TooManyBadEvents(
                f"{self._bad} of the latest {len(self._window)} records were rejected, {self._advice('max_bad_share')}"
            )

    def _add(self, reason: str | None) -> None:
        if self._is_full() and self._window[0] is not None:
            self._bad -= 1
        self._window.append(reason)
        self._bad += reason is not None
        self._run = self._run + 1 if reason is not None else 0

    def _is_full(self) -> bool:
        return len(self._window) == self._settings.bad_window

    def _advice(self, setting: str) -> str:
        common = Counter(reason for reason in self._window if reason is not None).most_common(3)
        reasons = ", ".join(f"{reason} ({count})" for reason, count in common)
        limit = getattr(self._settings, setting)
        return (
            f"mostly {reasons}; the limit is input.{setting} = {limit}. More likely the settings do not fit the topic"
            " than that its events are bad: compare input.preset and input.map with a record (`tidemill check` shows a"
            f" decoded sample). If the events are bad indeed, raise input.{setting}; nothing was committed for them"
        )


def _error_headers(rejected: Rejected) -> Headers:
    record, error = rejected
    kind = type(error)
    texts = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "exception": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error),
    }
    return tuple((ERROR_HEADER + name, text.encode()) for name, text in texts.items())
