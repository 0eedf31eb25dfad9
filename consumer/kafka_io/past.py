"""Reading the past by ranges: for the journal, for redoing what a snapshot does not hold, for gained partitions."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from consumer.errors import InputTruncated, TransientError
from consumer.kafka_io.admin import delete_before
from consumer.kafka_io.client import KafkaConsumer, KafkaPartition
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect, retry
from consumer.kafka_io.errors import translate
from consumer.kafka_io.options import range_consumer_options
from consumer.kafka_io.source import record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.ports import Clock, OffsetRange, Record, TopicPartition
    from consumer.settings import Settings

_LOOKUP_S = 30.0
_STALLED_S = 60.0
_POLL_MS = 200


class KafkaPast:
    """Committed records by range, without a group; one connection per partition, so that reading on needs no seek."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._readers: dict[TopicPartition, _Reader] = {}

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset held and the last stable offset."""
        return self._reader(partition).bounds()

    def read(self, span: OffsetRange) -> Sequence[Record]:
        """Return the records of a range. Raises InputTruncated, TransientError where nothing comes."""
        return self._reader(span.partition).read(span.start, span.stop)

    def trim(self, partition: TopicPartition, before: int) -> None:
        """Delete what lies before an offset. Raises TransientError or AccessError."""
        delete_before(self._settings, partition, before, self._clock)

    def close(self) -> None:
        """Release the connections; safe to call twice."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def _reader(self, partition: TopicPartition) -> _Reader:
        if partition not in self._readers:
            self._readers[partition] = _Reader(partition, self._settings, self._clock)
        return self._readers[partition]


class _Reader:
    """One partition, read forwards; `_ahead` holds what was fetched beyond the last range."""

    def __init__(self, partition: TopicPartition, settings: Settings, clock: Clock) -> None:
        self._name = f"{partition.topic}-{partition.partition}"
        self._tp, self._clock = KafkaPartition(*partition), clock
        self._consumer: Any = connect(KafkaConsumer, range_consumer_options(settings.kafka), settings.kafka, clock)
        self._consumer.assign([self._tp])
        self._ahead: deque[Record] = deque()
        self._read_to = -1

    def bounds(self) -> tuple[int, int]:
        doing = f"looking up offsets of {self._name}"
        first = retry(lambda: self._consumer.beginning_offsets([self._tp]), doing, self._clock, within_s=_LOOKUP_S)
        last = retry(lambda: self._consumer.end_offsets([self._tp]), doing, self._clock, within_s=_LOOKUP_S)
        return first[self._tp], last[self._tp]

    def read(self, start: int, stop: int) -> list[Record]:
        if start != self._read_to:
            self._go_to(start)
        records: list[Record] = []
        deadline = self._clock.monotonic() + _STALLED_S
        while not self._take(records, stop):
            if self._fetch():
                deadline = self._clock.monotonic() + _STALLED_S
            elif self._clock.monotonic() > deadline:
                raise TransientError(f"{self._name}: no records came for {_STALLED_S:g} s before offset {stop}")
        self._read_to = stop
        return records

    def _go_to(self, start: int) -> None:
        self._check_begin(start)
        self._ahead.clear()
        self._consumer.seek(self._tp, start)

    def _check_begin(self, needed: int) -> None:
        first, _ = self.bounds()
        if needed < first:
            self._read_to = -1  # whoever goes on seeks first
            raise InputTruncated(f"{self._name} begins at offset {first} now, offset {needed} is needed")

    def _take(self, records: list[Record], stop: int) -> bool:
        """Move what was fetched of the range; returns whether the range is complete."""
        while self._ahead and self._ahead[0].offset < stop:
            records.append(self._ahead.popleft())
        return bool(self._ahead) or (self._consumer.position(self._tp) or 0) >= stop

    def _fetch(self) -> bool:
        try:
            fetched = self._consumer.poll(timeout_ms=_POLL_MS)
        except k.KafkaError as error:
            if error.retriable:
                return False
            if isinstance(error, k.OffsetOutOfRangeError):
                self._check_begin(self._consumer.position(self._tp))
            raise translate(error, f"reading {self._name}") from error
        self._ahead.extend(record_of(r) for records in fetched.values() for r in records)
        return bool(fetched)

    def close(self) -> None:
        self._consumer.close(autocommit=False)
