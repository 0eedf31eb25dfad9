"""History: a range of a topic, read without a group and without committing anything."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from consumer.clock import SystemClock
from consumer.errors import TransientError
from consumer.kafka_io.admin import require_topics
from consumer.kafka_io.client import KafkaConsumer, KafkaPartition
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect, retry
from consumer.kafka_io.errors import translate
from consumer.kafka_io.options import range_consumer_options
from consumer.ports import Batch, OffsetRange, PollLimits, Record, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.ports import Clock
    from consumer.settings import Settings

Bound = int | datetime | Mapping[int, int] | None
"""An offset of every partition (negative: counted from the end), a time (with its zone), an offset by partition, or
None: the beginning, or the end."""

_BUFFERED = 2_000
"""Records kept per partition while the others are waited for; beyond this, and one fetch more, it is paused."""
_STALLED_S = 60.0
_LOOKUP_S = 30.0


@dataclass(slots=True)
class _Partition:
    """One partition on its way from `position`, the next offset to hand out, to `stop`."""

    position: int
    stop: int
    done: bool
    records: deque[Record] = field(default_factory=deque)
    paused: bool = False


class KafkaRangeSource:
    """Records [start, stop) of the partitions, merged by (timestamp, partition, offset), ending at the present end.

    A bound in time selects by each record's own timestamp, so records that are out of order are not missed; that
    takes reading on to the end. Every batch but the last has exactly `max_records` records.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        partitions: Sequence[int] | None = None,
        start: Bound = None,
        stop: Bound = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        count = require_topics(settings.kafka, [topic], clock)[topic].partitions
        self._topic = topic
        self._clock = clock
        self._failed: Exception | None = None
        self._from_ms = _milliseconds(start)
        self._to_ms = _milliseconds(stop)
        self._consumer: Any = connect(KafkaConsumer, range_consumer_options(settings.kafka), settings.kafka, clock)
        tps = [TopicPartition(topic, p) for p in (range(count) if partitions is None else sorted(partitions))]
        self._partitions = self._open(tps, start, stop)

    def poll(self, limits: PollLimits) -> Batch:
        """Return the next `max_records` records, fewer only at the end. Raises TransientError when nothing comes."""
        before = {tp: p.position for tp, p in self._partitions.items()}
        records: list[Record] = []
        while len(records) < limits.max_records:
            self._fill()
            merged = self._merge(limits.max_records - len(records))
            if not merged:
                break
            records += merged
        self._settle()
        ranges = [
            OffsetRange(tp, before[tp], p.position) for tp, p in self._partitions.items() if p.position > before[tp]
        ]
        return Batch(tuple(records), tuple(ranges), frozenset(self._partitions))

    def seek_back(self, batch: Batch) -> None:
        """Hand out the records of `batch` again."""
        for r in batch.ranges:
            self._partitions[r.partition].position = r.start
        for record in reversed(batch.records):
            self._partitions[TopicPartition(record.topic, record.partition)].records.appendleft(record)

    @property
    def drained(self) -> bool:
        """Whether everything was handed out."""
        return all(p.done and not p.records for p in self._partitions.values())

    def lag(self) -> Mapping[TopicPartition, int]:
        """Offsets left in each partition."""
        return {tp: max(p.stop - p.position, 0) for tp, p in self._partitions.items()}

    def close(self) -> None:
        """Release the connection; safe to call twice."""
        self._consumer.close(autocommit=False)

    def _open(self, tps: list[TopicPartition], start: Bound, stop: Bound) -> dict[TopicPartition, _Partition]:
        """Fix where each partition begins and ends, and go there."""
        kafka_tps = [KafkaPartition(*tp) for tp in tps]
        self._consumer.assign(kafka_tps)
        first = self._lookup(lambda: self._consumer.beginning_offsets(kafka_tps))
        last = self._lookup(lambda: self._consumer.end_offsets(kafka_tps))
        found = {} if self._from_ms is None else self._at_time(kafka_tps, self._from_ms)
        opened = {}
        for tp in tps:
            begin = _offset(start, tp.partition, last[tp], first[tp])
            if self._from_ms is not None:
                begin = found.get(tp, last[tp])
            begin = max(begin, 0 if _names_offsets(start) else first[tp])
            end = min(_offset(stop, tp.partition, last[tp], last[tp]), last[tp])
            opened[tp] = _Partition(begin, end, done=begin >= end)
            self._consumer.seek(KafkaPartition(*tp), begin)
        return opened

    def _at_time(self, kafka_tps: list[Any], from_ms: int) -> dict[Any, int]:
        """The first offset at or after a time. It may be that of a marker, which has no record: `_wanted` looks again."""
        found = self._lookup(lambda: self._consumer.offsets_for_times(dict.fromkeys(kafka_tps, from_ms)))
        return {tp: at.offset for tp, at in found.items() if at is not None}

    def _lookup(self, call: Any) -> dict[Any, Any]:
        doing = f"looking up offsets of topic {self._topic}"
        offsets: dict[Any, Any] = retry(call, doing, self._clock, within_s=_LOOKUP_S)
        return offsets

    def _fill(self) -> None:
        """Fetch until every partition that is not done has a record waiting: only then is the smallest one known."""
        deadline = self._clock.monotonic() + _STALLED_S
        while any(not p.records and not p.done for p in self._partitions.values()):
            if self._fetch():
                deadline = self._clock.monotonic() + _STALLED_S
            elif self._clock.monotonic() > deadline:
                raise TransientError(f"topic {self._topic}: no records came for {_STALLED_S:g} s before the end")

    def _fetch(self) -> bool:
        """Fetch once; returns whether anything came of it. After an error the client would spin: it is not asked again."""
        if self._failed is not None:
            raise self._failed
        for tp, partition in self._partitions.items():
            self._steer(KafkaPartition(*tp), partition)
        try:
            # no limit: the client forgets a paused partition of which it has handed out a part
            fetched = self._consumer.poll(timeout_ms=200, max_records=sys.maxsize)
        except k.KafkaError as error:
            if error.retriable:
                return False
            self._failed = translate(error, f"reading topic {self._topic}")
            raise self._failed from error
        for tp, records in fetched.items():
            self._keep(self._partitions[tp], records)
        ended = [p for tp, p in self._partitions.items() if not p.done and self._at_end(KafkaPartition(*tp), p)]
        for partition in ended:
            partition.done = True
        return bool(fetched) or bool(ended)

    def _steer(self, kafka_tp: Any, partition: _Partition) -> None:
        """Pause what is done or has enough, resume what has not."""
        pause = partition.done or len(partition.records) >= _BUFFERED
        if pause != partition.paused:
            (self._consumer.pause if pause else self._consumer.resume)(kafka_tp)
            partition.paused = pause

    def _at_end(self, kafka_tp: Any, partition: _Partition) -> bool:
        return (self._consumer.position(kafka_tp) or 0) >= partition.stop

    def _keep(self, partition: _Partition, records: list[Any]) -> None:
        for r in records:
            if r.offset < partition.stop and self._wanted(r.timestamp):
                partition.records.append(
                    Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
                )

    def _wanted(self, timestamp_ms: int) -> bool:
        after = self._from_ms is None or timestamp_ms >= self._from_ms
        return after and (self._to_ms is None or timestamp_ms < self._to_ms)

    def _merge(self, limit: int) -> list[Record]:
        """Take the smallest records by (timestamp, partition, offset) while every partition that goes on has one."""
        heads = [(p.records[0].timestamp_ms, tp) for tp, p in self._partitions.items() if p.records]
        heapify(heads)
        merged: list[Record] = []
        while heads and len(merged) < limit:
            tp = heappop(heads)[1]
            partition = self._partitions[tp]
            record = partition.records.popleft()
            partition.position = record.offset + 1
            merged.append(record)
            if partition.records:
                heappush(heads, (partition.records[0].timestamp_ms, tp))
            elif not partition.done:
                break
        return merged

    def _settle(self) -> None:
        """Pass over what lies behind the last record of a partition: markers, and records outside the times."""
        for partition in self._partitions.values():
            if partition.done and not partition.records:
                partition.position = max(partition.position, partition.stop)


def _names_offsets(bound: Bound) -> bool:
    """Whether exactly this offset is meant: then one that the topic no longer holds is an error, not the beginning."""
    return isinstance(bound, Mapping) or (isinstance(bound, int) and bound > 0)


def _milliseconds(bound: Bound) -> int | None:
    return int(bound.timestamp() * 1000) if isinstance(bound, datetime) else None


def _offset(bound: Bound, partition: int, last: int, otherwise: int) -> int:
    offset = bound.get(partition, otherwise) if isinstance(bound, Mapping) else bound
    if not isinstance(offset, int):
        return otherwise
    return offset if offset >= 0 else last + offset


def read_last(settings: Settings, topic: str, count: int, *, clock: Clock | None = None) -> list[Record]:
    """Return about the last `count` records of a topic, merged over its partitions; fewer where it holds no more."""
    last = -2 * count  # the markers of transactions take offsets too
    with closing(KafkaRangeSource(settings, topic, start=last, clock=clock)) as source:
        records: list[Record] = []
        while not source.drained:
            records = [*records, *source.poll(PollLimits(max_records=1000, max_wait_s=1.0)).records][-count:]
    return records
