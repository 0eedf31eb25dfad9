"""Source and Sink over a log in memory: for tests, for trying things out, and for users who test their own settings.

    log = MemoryLog({"events": 2, "predictions": 2, "dead-letters": 1})
    source = MemorySource(log, "events", "tidemill", until_end=True)
    sink = MemorySink(log, "tidemill")

They pass the same contract suite as Kafka's (`tests/contract`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from consumer.errors import Aborted, Fenced, InputTruncated, LostPartitions, TransientError, UnknownOutcome
from consumer.memory_log import Fault, Membership, MemoryLog, Transaction
from consumer.ports import Batch, Clock, OffsetRange, Output, PollLimits, Record, TopicPartition
from consumer.sink_rules import OutputTooLarge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Fault", "MemoryLog", "MemoryPast", "MemorySink", "MemorySource"]

_COMMIT_FAULTS = tuple(fault for fault in Fault if fault is not Fault.POLL_ERROR)


class MemorySource:
    """A static member of a consumer group on one topic.

    With `until_end` it is drained once every assigned partition has reached the end it had when it was assigned.
    With `skips_gone` it goes on behind what the log no longer holds, as Kafka's does by `recovery.on_truncation`.
    A `clock` makes an empty poll wait its `max_wait_s`; without one it returns at once.
    """

    def __init__(
        self,
        log: MemoryLog,
        topic: str,
        group: str,
        *,
        instance: str = "tidemill-0",
        auto_offset_reset: Literal["earliest", "latest"] = "earliest",
        until_end: bool = False,
        skips_gone: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._log = log
        self._skips_gone = skips_gone
        self._group = group
        self._instance = instance
        self._reset = auto_offset_reset
        self._until_end = until_end
        self._clock = clock
        self._member = log.join(group, instance, topic)
        self._generation = -1
        self._position: dict[TopicPartition, int] = {}
        self._target: dict[TopicPartition, int] = {}
        self._turn = 0
        self._held = False
        self._closed = False

    def poll(self, limits: PollLimits) -> Batch:
        """Return the next micro-batch. Also raises Fenced, and InputTruncated where the log no longer holds the position."""
        if self._log.fault((Fault.POLL_ERROR,)):
            raise TransientError("injected: the broker asks to try again")
        owner = self._log.membership(self._group, self._instance, self._member)
        if owner.generation != self._generation:
            self._assigned(owner.generation)
        if self._held:
            return Batch((), (), frozenset(self._position), owner)
        self._let_go()
        read = {tp: self._read(tp, limit) for tp, limit in self._shares(limits.max_records)}
        ranges = tuple(
            r for tp in sorted(read) if (r := OffsetRange(tp, self._position[tp], read[tp][1])).start < r.stop
        )
        records = tuple(record for tp in sorted(read) for record in read[tp][0])
        self._position.update({r.partition: r.stop for r in ranges})
        if not records and self._clock is not None:
            self._clock.sleep(limits.max_wait_s)
        return Batch(records, ranges, frozenset(self._position), owner)

    def seek_back(self, batch: Batch) -> None:
        """After a known abort: make the next poll return the records of `batch` again."""
        self._position.update({r.partition: r.start for r in batch.ranges if r.partition in self._position})

    @property
    def drained(self) -> bool:
        """Whether every assigned partition has reached the end that it had when it was assigned (`until_end` only)."""
        if not self._until_end or self._generation < 0:
            return False
        return all(self._position[tp] >= end for tp, end in self._target.items())

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset of each assigned partition."""
        return dict(self._position)

    def hold(self, *, held: bool) -> None:
        """While held, `poll` returns no records."""
        self._held = held

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records and markers that wait in each assigned partition."""
        return {tp: self._log.stable_end(tp) - position for tp, position in self._position.items()}

    def close(self) -> None:
        """Leave the group; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._log.leave(self._group, self._instance, self._member)

    def _assigned(self, generation: int) -> None:
        """Take every position from the committed offsets: memory may be behind or ahead of them after a rebalance."""
        self._generation = generation
        committed = self._log.committed(self._group)
        begin = self._log.start if self._reset == "earliest" else self._log.stable_end
        partitions = self._log.assignment(self._group, self._instance)
        self._position = {tp: committed.get(tp, begin(tp)) for tp in partitions}
        self._target = {tp: self._target.get(tp, self._log.stable_end(tp)) for tp in partitions}

    def _let_go(self) -> None:
        """Go to the first offset that is still held, where the settings let go of what lies before it."""
        if self._skips_gone:
            self._position = {tp: max(at, self._log.start(tp)) for tp, at in self._position.items()}

    def _shares(self, max_records: int) -> list[tuple[TopicPartition, int]]:
        """How many records to take from each partition; the first to take from moves on, so that none starves."""
        partitions = sorted(self._position)
        self._turn += 1
        shares = []
        for i in range(len(partitions)):
            tp = partitions[(self._turn + i) % len(partitions)]
            taken = min(max_records, len(self._read(tp, max_records)[0]))
            shares.append((tp, taken))
            max_records -= taken
        return shares

    def _read(self, tp: TopicPartition, limit: int) -> tuple[list[Record], int]:
        if self._position[tp] < self._log.start(tp):
            raise InputTruncated(f"{tp.topic}-{tp.partition} no longer holds offset {self._position[tp]}")
        return self._log.read(tp, self._position[tp], limit)


class MemoryPast:
    """Reads ranges of a log."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset held and the last stable offset."""
        return self._log.start(partition), self._log.stable_end(partition)

    def read(self, span: OffsetRange) -> Sequence[Record]:
        """Return the records of a range. Raises InputTruncated."""
        if span.start < self._log.start(span.partition):
            raise InputTruncated(f"{span.partition.topic}-{span.partition.partition} no longer holds {span.start}")
        records, _ = self._log.read(span.partition, span.start, span.stop - span.start)
        return [record for record in records if record.offset < span.stop]

    def trim(self, partition: TopicPartition, before: int) -> None:
        """Drop what lies before an offset."""
        self._log.trim(partition, before)

    def close(self) -> None:
        """Nothing is open."""


class MemorySink:
    """Writes outputs and positions in one transaction, or (at_least_once) outputs first and positions after.

    A new sink with the same group and instance fences the older one and aborts what that left open.
    """

    def __init__(
        self,
        log: MemoryLog,
        group: str,
        *,
        instance: str = "tidemill-0",
        delivery: Literal["exactly_once", "at_least_once"] = "exactly_once",
    ) -> None:
        self._log = log
        self._transactional_id = f"{group}-{instance}"
        self._delivery = delivery
        self._epoch = log.init_producer(self._transactional_id)
        self._open: Transaction | None = None

    def commit(self, outputs: Sequence[Output], batch: Batch) -> None:
        """Write the outputs and the positions after `batch`; nothing to write and no position: nothing is done."""
        if not outputs and not batch.ranges:
            return
        fault = self._log.fault(_COMMIT_FAULTS)
        if self._delivery == "at_least_once":
            self._commit_at_least_once(outputs, batch, fault)
        else:
            self._commit_exactly_once(outputs, batch, fault)

    def close(self) -> None:
        """Abort what is open; safe to call twice."""
        self._end("aborted")

    def _commit_exactly_once(self, outputs: Sequence[Output], batch: Batch, fault: Fault | None) -> None:
        if fault is Fault.FENCE:
            self._log.init_producer(self._transactional_id)
        self._open = self._log.begin(self._transactional_id, self._epoch)
        try:
            self._write(outputs, self._open)
            _fail_before_the_end(fault)
            self._store(batch, self._open)
        except UnknownOutcome:
            self._open = None
            raise
        except (Aborted, LostPartitions, Fenced):
            self._end("aborted")
            raise
        self._end("committed")
        _fail_after_the_end(fault)

    def _commit_at_least_once(self, outputs: Sequence[Output], batch: Batch, fault: Fault | None) -> None:
        self._write(outputs, None)
        _fail_before_the_end(fault)
        self._store(batch, None)
        _fail_after_the_end(fault)

    def _write(self, outputs: Sequence[Output], transaction: Transaction | None) -> None:
        for index, output in enumerate(outputs):
            size = len(output.value or b"")
            if size > self._log.max_value_bytes:
                raise OutputTooLarge(index, size)
            self._log.append(
                output.topic,
                output.key,
                output.value,
                headers=output.headers,
                partition=output.partition,
                timestamp_ms=-1 if output.timestamp_ms is None else output.timestamp_ms,
                transaction=transaction,
            )

    def _store(self, batch: Batch, transaction: Transaction | None) -> None:
        if batch.ranges:
            owner: Membership = batch.owner
            self._log.commit(owner, {r.partition: r.stop for r in batch.ranges}, transaction)

    def _end(self, state: Literal["committed", "aborted"]) -> None:
        if self._open is not None:
            self._log.end_transaction(self._open, state)
            self._open = None


def _fail_before_the_end(fault: Fault | None) -> None:
    """Raise what was injected to happen before the transaction ends."""
    if fault is Fault.ABORT:
        raise Aborted("injected: the commit was aborted")
    if fault is Fault.FENCE:
        raise Fenced("injected: another instance has taken over")
    if fault is Fault.LOST_PARTITIONS:
        raise LostPartitions("injected: the group has given the partitions away")
    if fault is Fault.UNKNOWN_OPEN:
        raise UnknownOutcome("injected: no answer to the commit, which did not happen")


def _fail_after_the_end(fault: Fault | None) -> None:
    if fault is Fault.UNKNOWN_COMMITTED:
        raise UnknownOutcome("injected: no answer to the commit, which did happen")
