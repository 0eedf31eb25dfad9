"""The live input: a static member of a consumer group, read_committed, on raw bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from consumer.errors import Fenced, InputTruncated, LostPartitions, TransientError, UnknownOutcome
from consumer.kafka_io.admin import require_topics
from consumer.kafka_io.client import ConsumerRebalanceListener, KafkaConsumer, KafkaPartition, OffsetAndMetadata
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect, retry
from consumer.kafka_io.errors import describe, translate
from consumer.kafka_io.options import group_consumer_options
from consumer.ports import Batch, OffsetRange, PollLimits, Record, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from consumer.ports import Clock
    from consumer.settings import Settings

_LOOKUP_S = 30.0
_TROUBLE_S = 60.0
_SILENT_POLLS = 2

log = structlog.get_logger(__name__)


class KafkaSource:
    """The worker's input topic, through its group.

    Waits for a broker when it is made (`kafka.broker_wait_s`). Raises BrokerUnavailable, AccessError, or ConfigError
    when the topic is missing. With `until_end` it is drained once every assigned partition has reached the end it had
    when it was first assigned. After Fenced, LostPartitions or StateError it raises the same again: make a new one.

    How a rebalance goes:
    1. The client's callbacks, which run on its I/O thread inside `poll`, only note what was assigned.
    2. A poll that saw a new assignment returns no records; whatever the client had fetched is dropped.
    3. Every position is taken from the committed offsets, or from `auto_offset_reset` where there are none, or from the
       topic's beginning where `recovery.on_truncation` lets go of what retention has passed by.
       Retention that passes by a position later, while the worker runs, is dealt with in the same way.
    4. A kept partition whose committed offset has passed our position was read by another member meanwhile, so what
       this worker remembers of it is stale: LostPartitions.
    """

    def __init__(self, settings: Settings, clock: Clock, *, until_end: bool = False) -> None:
        self._kafka = settings.kafka
        self._topic = settings.topics.events
        self._clock = clock
        self._until_end = until_end
        self._skips_gone = settings.recovery.on_truncation != "stop"
        self._position: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._target: dict[TopicPartition, int] = {}
        self._joined = False
        self._held = False
        self._silent_polls = 0
        self._failed: Exception | None = None
        self._trouble_since: float | None = None
        self._noted = _Noted()
        require_topics(settings.kafka, [self._topic], clock)
        self._consumer: Any = connect(KafkaConsumer, group_consumer_options(settings.kafka), settings.kafka, clock)
        self._consumer.subscribe([self._topic], listener=self._noted)
        self._consumer.partitions_for_topic(self._topic)  # a leader without metadata would assign nothing at first

    def poll(self, limits: PollLimits) -> Batch:
        """Return the next micro-batch. Also raises Fenced, and InputTruncated where the topic no longer holds the position."""
        if self._failed is not None:
            raise self._failed
        if self._held:
            self._steer()
        self._go_on_joining()
        fetched = self._fetch(limits)
        self._see_whether_fenced()
        if self._held and fetched:  # assigned a moment ago, fetched before it could be paused
            self._rewind(self._position)
            fetched = {}
        if self._noted.lost:
            raise self._fail(LostPartitions(f"group {self._kafka.group} has removed the member {self._kafka.instance}"))
        if self._noted.assigned is not None:
            self._take_over(self._noted.assigned)
            self._noted.assigned = None
            return self._empty()
        owner = self._consumer.group_metadata()
        if owner.generation_id < 0 or not owner.member_id:
            self._rewind(self._position)
            return self._empty()
        ranges = () if self._held else self._ranges(fetched)
        records = tuple(record_of(r) for partition in sorted(fetched) for r in fetched[partition])
        self._position.update({r.partition: r.stop for r in ranges})
        return Batch(records, ranges, frozenset(self._position), owner)

    def seek_back(self, batch: Batch) -> None:
        """After a known abort: make the next poll return the records of `batch` again."""
        self._rewind({r.partition: r.start for r in batch.ranges if r.partition in self._position})

    def commit(self, batch: Batch) -> None:
        """Store the positions after `batch`, outside any transaction: the second half of at-least-once delivery.

        Raises LostPartitions, Fenced, AccessError or UnknownOutcome.
        """
        try:
            self._consumer.commit(positions(batch), timeout_ms=2 * self._kafka.request_timeout_ms)
        except k.KafkaError as error:
            doing = f"committing the offsets of group {self._kafka.group}"
            if error.retriable:
                raise UnknownOutcome(describe(error, doing)) from error
            raise translate(error, doing) from error

    @property
    def drained(self) -> bool:
        """Whether every assigned partition has reached its end of the start (`until_end` only)."""
        if not self._until_end or not self._joined:
            return False
        return all(position >= self._target[tp] for tp, position in self._position.items())

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset of each assigned partition."""
        return dict(self._position)

    def hold(self, *, held: bool) -> None:
        """While held, `poll` returns no records but keeps the membership alive: all partitions are paused."""
        self._held = held
        self._steer()

    def _steer(self) -> None:
        assigned = self._consumer.assignment()
        if assigned:
            (self._consumer.pause if self._held else self._consumer.resume)(*assigned)

    def lag(self) -> Mapping[TopicPartition, int]:
        """Offsets between the position and the end of each assigned partition, as far as the last poll saw."""
        return {tp: max(self._end[tp] - position, 0) for tp, position in self._position.items()}

    def close(self) -> None:
        """Release the connection; safe to call twice. A static member stays in the group until its session times out."""
        self._consumer.close(autocommit=False, timeout_ms=self._kafka.request_timeout_ms)

    def _go_on_joining(self) -> None:
        """Let the client see a join through that has outlasted a poll.

        One that new partitions have caused it forgets as soon as it has made the assignment: it would wait for nothing,
        without heartbeats, for ever. And one that ends between two polls it does again, which is a rebalance for all
        where this member leads the group: a worker that restarts, and polls in between steps of its recovery, would
        disturb every other.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way in
        if coordinator.rejoining:
            coordinator.request_rejoin()
        task = coordinator._join_task  # noqa: SLF001
        if task is not None and not isinstance(task, _Join):
            coordinator._join_task = _Join(task)  # noqa: SLF001

    def _see_whether_fenced(self) -> None:
        """Raise Fenced where the group knows another member by this one's instance id.

        The client only stops its heartbeats then: while there is nothing to commit it would look alive for ever. It stops
        them for a moment at the end of a join as well, so one look is not enough.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way in
        silent = coordinator.stable() and not coordinator.rejoining and not coordinator._heartbeat_enabled  # noqa: SLF001
        self._silent_polls = self._silent_polls + 1 if silent else 0
        if self._silent_polls >= _SILENT_POLLS:
            raise self._fail(Fenced(f"another worker has joined group {self._kafka.group} as {self._kafka.instance}"))

    def _fetch(self, limits: PollLimits) -> dict[Any, list[Any]]:
        try:
            polled: dict[Any, list[Any]] = self._consumer.poll(
                timeout_ms=int(limits.max_wait_s * 1000), max_records=limits.max_records
            )
        except k.NoOffsetForPartitionError:
            if self._noted.assigned is None:
                raise
            return {}  # a group without committed offsets: _take_over decides where to begin
        except k.KafkaError as error:
            if isinstance(error, k.OffsetOutOfRangeError):
                self._out_of_range(error)
                return {}
            if not error.retriable:
                raise self._fail(translate(error, f"reading topic {self._topic}")) from error
            return self._wait_out(error, limits)
        self._trouble_since = None
        return polled

    def _out_of_range(self, error: k.KafkaError) -> None:
        """Let go of what retention has passed by, where the settings say so. Raises InputTruncated, else StateError."""
        if self._noted.assigned is not None:
            return  # the client went to the committed offset by itself: _take_over decides whether that stands
        first = self._lookup(self._consumer.beginning_offsets, sorted(self._position))
        gone = {tp: at for tp, at in self._position.items() if at < first[tp]}
        if not gone:
            raise self._fail(translate(error, f"reading topic {self._topic}")) from error
        if not self._skips_gone:
            where = ", ".join(f"{tp.partition} at {at}, begins at {first[tp]} now" for tp, at in gone.items())
            raise self._fail(
                InputTruncated(describe(error, f"reading topic {self._topic}, partition {where}"))
            ) from error
        self._rewind({tp: self._still_there(tp, at, first[tp]) for tp, at in self._position.items()})

    def _wait_out(self, error: k.KafkaError, limits: PollLimits) -> dict[Any, list[Any]]:
        """Look like an idle topic while the client says that trying again may help. Raises TransientError at the end."""
        now = self._clock.monotonic()
        self._trouble_since = now if self._trouble_since is None else self._trouble_since
        if now - self._trouble_since > _TROUBLE_S:
            raise TransientError(describe(error, f"reading topic {self._topic}, for {_TROUBLE_S:g} s")) from error
        self._clock.sleep(limits.max_wait_s)
        return {}

    def _fail(self, error: Exception) -> Exception:
        """Note that this source is done for: the client would spin for ever, or go on from positions that are not ours."""
        self._failed = error
        return error

    def _take_over(self, assigned: Iterable[TopicPartition]) -> None:
        """Steps 3 and 4 of a rebalance."""
        partitions = sorted(assigned)
        committed = {tp: self._committed(tp) for tp in partitions}
        ends = self._lookup(self._consumer.end_offsets, partitions)
        first = self._lookup(self._consumer.beginning_offsets, partitions)
        begin = first if self._from_start else ends
        before = self._position
        for tp, offset in committed.items():
            if offset is not None and offset > before.get(tp, offset):
                raise self._fail(
                    LostPartitions(f"{tp.topic}-{tp.partition} was read by another member up to offset {offset}")
                )
        self._end = ends
        self._target = {tp: self._target.get(tp, ends[tp]) for tp in partitions}
        self._position = {}
        self._rewind(
            {tp: begin[tp] if at is None else self._still_there(tp, at, first[tp]) for tp, at in committed.items()}
        )
        self._joined = True
        log.info("partitions assigned", topic=self._topic, partitions=[tp.partition for tp in partitions])

    def _still_there(self, tp: TopicPartition, committed: int, first: int) -> int:
        """Where to go on: behind what the topic no longer holds, where the settings say so."""
        if committed < first and self._skips_gone:
            log.warning(
                "the topic no longer holds events that were not read", partition=tp.partition, gone=first - committed
            )
            return first
        return committed

    @property
    def _from_start(self) -> bool:
        return self._kafka.auto_offset_reset == "earliest"

    def _committed(self, tp: TopicPartition) -> int | None:
        offset: int | None = retry(
            lambda: self._consumer.committed(KafkaPartition(*tp), timeout_ms=self._kafka.request_timeout_ms),
            f"looking up the committed offset of {tp.topic}-{tp.partition}",
            self._clock,
            within_s=_LOOKUP_S,
        )
        return offset

    def _lookup(self, call: Any, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        offsets = retry(
            lambda: call([KafkaPartition(*tp) for tp in partitions]),
            f"looking up offsets of topic {self._topic}",
            self._clock,
            within_s=_LOOKUP_S,
        )
        return {TopicPartition(*tp): offset for tp, offset in offsets.items()}

    def _rewind(self, positions: Mapping[TopicPartition, int]) -> None:
        for tp, offset in positions.items():
            self._consumer.seek(KafkaPartition(*tp), offset)
        self._position = {**self._position, **positions}

    def _ranges(self, fetched: Mapping[Any, Any]) -> tuple[OffsetRange, ...]:
        """What was passed over in this poll: records, and markers of transactions behind the last of them.

        The client's highwater can be older than the records that it hands out: those decide first.
        """
        ranges = []
        for tp in sorted(self._position):
            start = self._position[tp]
            self._end[tp] = max(self._end[tp], self._consumer.highwater(KafkaPartition(*tp)) or 0)
            if KafkaPartition(*tp) in fetched or self._end[tp] > start:
                stop = self._consumer.position(KafkaPartition(*tp), timeout_ms=self._kafka.request_timeout_ms)
                if stop is not None and stop > start:
                    ranges.append(OffsetRange(tp, start, stop))
        return tuple(ranges)

    def _empty(self) -> Batch:
        return Batch((), (), frozenset(self._position))


class _Noted(ConsumerRebalanceListener):  # type: ignore[misc]  # the base is untyped
    """What the client's callbacks said since the last look. They run on its I/O thread and may do nothing else."""

    def __init__(self) -> None:
        self.assigned: frozenset[TopicPartition] | None = None
        self.lost = False

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.assigned = frozenset(TopicPartition(*tp) for tp in assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Nothing to do: until the new assignment comes, no records arrive and none can be committed."""

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self.lost = bool(set(lost))


class _Join:
    """A join that is not done until its outcome was asked for: after one that is done the client begins another."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def __await__(self) -> Any:
        return self._task.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def positions(batch: Batch) -> dict[Any, Any]:
    """The positions after `batch` in the client's words."""
    return {KafkaPartition(*r.partition): OffsetAndMetadata(r.stop, "", -1) for r in batch.ranges}


def record_of(r: Any) -> Record:
    """Return the client's record as ours."""
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
