"""Rejected records as dead letters, and the limit after which so many of them mean that we are wrong, not the data."""

from __future__ import annotations

from collections import Counter, deque
from hashlib import sha256
from typing import TYPE_CHECKING

from consumer.decode import OVERSIZE, Rejected
from consumer.errors import TooManyBadEvents
from consumer.ports import Headers, Output, Record

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


def accepted_flags(records: Iterable[Record], rejected: Sequence[Rejected]) -> list[bool]:
    """Return for each record whether it was accepted; `rejected` are those that were not, in the same order."""
    flags: list[bool] = []
    left = iter(rejected)
    bad = next(left, None)
    for record in records:
        is_bad = bad is not None and record is bad.record
        flags.append(not is_bad)
        if is_bad:
            bad = next(left, None)
    return flags


class DeadLetterLimit:
    """Watches how many of the latest records were rejected.

    The share is judged once `bad_window` records were seen, so a bad record at the start stops nothing.
    """

    def __init__(self, settings: InputSettings) -> None:
        self._settings = settings
        self._run = 0
        self._bad = 0
        self._window: deque[str | None] = deque(maxlen=settings.bad_window)  # the reason, None for an accepted record

    def copy(self) -> DeadLetterLimit:
        """Return one that has seen the same records."""
        other = DeadLetterLimit(self._settings)
        other._run, other._bad, other._window = self._run, self._bad, self._window.copy()
        return other

    def observe(self, accepted: Iterable[bool], reasons: Iterable[str] = ()) -> None:
        """Take in records in order: whether each was accepted, and the reasons of those that were not.

        Raises TooManyBadEvents where the run or the share passes its limit.
        """
        given = iter(reasons)
        for is_accepted in accepted:
            self._add(None if is_accepted else next(given, "unknown"))
            if self._run >= self._settings.max_bad_run:
                raise TooManyBadEvents(f"{self._run} records in a row were rejected, {self._advice('max_bad_run')}")
            if self._bad > self._settings.max_bad_share * self._settings.bad_window and self._is_full():
                raise TooManyBadEvents(
                    f"{self._bad} of the latest {len(self._window)} records were rejected,"
                    f" {self._advice('max_bad_share')}"
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
