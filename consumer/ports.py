"""The doors of the worker: Source, Sink, Clock and StateStore, and the frozen records that pass through them.

Kafka (`kafka_io`) and an in-memory log (`memory_io`) implement Source and Sink and pass one contract suite
(`tests/contract`). Files (`file_io`) are Sources that only read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Headers = tuple[tuple[str, bytes | None], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One input record as raw bytes. `timestamp_ms` is -1 where the record carries none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Offsets [start, stop) of one partition; `stop` is the position after the poll, so it may pass over markers."""

    partition: TopicPartition
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll returned.

    `records` are in processing order. `ranges` name each partition read once, in processing order; their `stop`
    values are what a commit must store. `assignment` is the set of partitions owned after the poll: a partition that
    was not there before was gained, one that is missing was revoked. `owner` is an opaque proof of membership taken
    right after the poll (the consumer group metadata, in Kafka), which the sink presents when it commits.
    """

    records: tuple[Record, ...]
    ranges: tuple[OffsetRange, ...]
    assignment: frozenset[TopicPartition]
    owner: Any = None


@dataclass(frozen=True, slots=True)
class PollLimits:
    """At most `max_records` records; an empty batch after `max_wait_s` seconds without any."""

    max_records: int
    max_wait_s: float


class Output(NamedTuple):
    """One record to be written. `partition` None lets the key decide (murmur2, as every Kafka client does)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class Source(Protocol):
    """Where records come from. Rebalances happen inside `poll` and nowhere else."""

    def poll(self, limits: PollLimits) -> Batch:
        """Return the next micro-batch, possibly empty.

        Raises TransientError, LostPartitions, AccessError, BrokerUnavailable, or InputTruncated where the position is
        no longer held; a source that lets go of such events goes on at the first that is held.
        """

    def seek_back(self, batch: Batch) -> None:
        """After a known abort: make the next poll return the records of `batch` again."""

    @property
    def drained(self) -> bool:
        """Whether a bounded source has returned all its records; never true for an unbounded one."""

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records that wait in each assigned partition, as far as the last poll saw."""

    def close(self) -> None:
        """Leave the group and release the connection; safe to call twice."""


class GroupSource(Source, Protocol):
    """A source whose partitions come and go with a group: what a live worker reads from."""

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset of each assigned partition."""

    def hold(self, *, held: bool) -> None:
        """While held, `poll` returns no records but keeps the membership alive and lets rebalances happen."""


class Past(Protocol):
    """What was written before: read by range, without a group, committed records only."""

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset that is still held, and the end of what is committed now."""

    def read(self, span: OffsetRange) -> Sequence[Record]:
        """Return all records of a range. Raises InputTruncated where its beginning is no longer held."""

    def trim(self, partition: TopicPartition, before: int) -> None:
        """Delete what lies before an offset. Raises TransientError or AccessError."""

    def close(self) -> None:
        """Release the connections; safe to call twice."""


class Sink(Protocol):
    """Where outputs and the progress of the source go, together."""

    def commit(self, outputs: Sequence[Output], batch: Batch) -> None:
        """Write the outputs and the positions after `batch` as one unit.

        With exactly-once delivery both happen or neither does. With at-least-once the outputs are acknowledged
        before the positions are stored. Raises Aborted, Fenced, LostPartitions, UnknownOutcome or AccessError.
        """

    def close(self) -> None:
        """Flush nothing, abort what is open, release the connection; safe to call twice."""


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class StateStore(Protocol):
    """Named blobs for snapshots: a folder, or an object store. Names are relative, with `/` between parts."""

    def write(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, durably and atomically. Raises StateError when it cannot."""

    def read(self, name: str) -> bytes:
        """Return what is stored under `name`. Raises StateError when it is not there or cannot be read.

        A store that cannot be reached raises TransientError, or AccessError, here and below.
        """

    def names(self, prefix: str = "") -> Sequence[str]:
        """All names that start with `prefix`, sorted, those of unfinished writes included."""

    def delete(self, name: str) -> None:
        """Remove `name`; not an error when it is not there. Raises StateError when it cannot."""

    def modified(self, name: str) -> float:
        """When `name` was written, in seconds since the epoch, as the store says. Raises StateError when it is not there."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What the broker says of one topic."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
