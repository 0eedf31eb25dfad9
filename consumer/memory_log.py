"""A log in memory that behaves like Kafka where the worker can notice: partitions, transactions, groups and faults.

One thread, one process, nothing on disk. `MemorySource` and `MemorySink` (`memory_io`) are the ports over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from consumer.errors import ConfigError, Fenced, LostPartitions
from consumer.ports import Headers, Record, TopicPartition
from consumer.sink_rules import partition_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Fault(Enum):
    """What can be made to go wrong, once, at a later call (`MemoryLog.inject`)."""

    ABORT = "abort"
    """The next commit is aborted: Aborted."""
    FENCE = "fence"
    """Before the next commit another instance takes over: Fenced."""
    LOST_PARTITIONS = "lost partitions"
    """Before the next commit the group gives the partitions away: LostPartitions."""
    UNKNOWN_COMMITTED = "unknown, committed"
    """The next commit happens, but its answer is lost: UnknownOutcome."""
    UNKNOWN_OPEN = "unknown, open"
    """The next commit does not happen and its transaction stays open: UnknownOutcome."""
    POLL_ERROR = "poll error"
    """The next poll fails: TransientError."""


class Transaction:
    """A set of appended records that become readable together, or never; and of positions that go with them."""

    __slots__ = ("partitions", "positions", "state")

    def __init__(self) -> None:
        self.state = "open"
        self.partitions: set[TopicPartition] = set()
        self.positions: list[tuple[Membership, Mapping[TopicPartition, int]]] = []


@dataclass(slots=True)
class _Entry:
    """One offset: a record, or the marker of an ended transaction."""

    record: Record | None
    transaction: Transaction | None


@dataclass(frozen=True, slots=True)
class Membership:
    """Proof of who read a batch: what `Batch.owner` holds."""

    group: str
    instance: str
    member: int
    generation: int


@dataclass(slots=True)
class _Group:
    """Members by instance name, each with its member number and topic; positions that were committed."""

    members: dict[str, tuple[int, str]] = field(default_factory=dict)
    generation: int = 0
    committed: dict[TopicPartition, int] = field(default_factory=dict)


class MemoryLog:
    """Topics with a fixed number of partitions each, and the groups that read them.

    `max_value_bytes` is the largest value a topic takes, as `max.message.bytes` is in Kafka.
    """

    def __init__(self, topics: Mapping[str, int], *, max_value_bytes: int = 1_048_576) -> None:
        self.max_value_bytes = max_value_bytes
        self._entries: dict[TopicPartition, list[_Entry]] = {}
        self._start: dict[TopicPartition, int] = {}
        self._groups: dict[str, _Group] = {}
        self._producers: dict[str, tuple[int, Transaction | None]] = {}
        self._faults: list[tuple[Fault, int]] = []
        self._numbers = count(1)
        self._keyless = count()
        for name, partitions in topics.items():
            self.create_topic(name, partitions)

    # Topics and records

    def create_topic(self, name: str, partitions: int) -> None:
        """Add an empty topic. Raises ConfigError when it exists."""
        if self._has_topic(name):
            raise ConfigError(f"topic {name!r} exists already")
        for partition in range(partitions):
            self._entries[TopicPartition(name, partition)] = []
            self._start[TopicPartition(name, partition)] = 0

    def partitions(self, topic: str) -> tuple[TopicPartition, ...]:
        """All partitions of `topic`, in order. Raises ConfigError when there is no such topic."""
        if not self._has_topic(topic):
            raise ConfigError(f"topic {topic!r} does not exist: create it, or correct its name in the settings")
        return tuple(sorted(tp for tp in self._entries if tp.topic == topic))

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int = -1,
        transaction: Transaction | None = None,
    ) -> Record:
        """Append one record and return it; without a transaction it is readable at once."""
        tp = TopicPartition(topic, self._choose(topic, key) if partition is None else partition)
        if tp not in self._entries:
            raise ValueError(f"topic {topic!r} has no partition {partition}")
        record = Record(topic, tp.partition, self.end(tp), timestamp_ms, key, value, headers)
        self._entries[tp].append(_Entry(record, transaction))
        if transaction is not None:
            transaction.partitions.add(tp)
        return record

    def read(self, tp: TopicPartition, offset: int, limit: int) -> tuple[list[Record], int]:
        """Return up to `limit` committed records from `offset` on, and the position after them and after markers."""
        records: list[Record] = []
        position = offset
        for entry in self._entries[tp][offset : self.stable_end(tp)]:
            visible = entry.record is not None and (entry.transaction is None or entry.transaction.state == "committed")
            if visible and len(records) == limit:
                break
            if visible and entry.record is not None:
                records.append(entry.record)
            position += 1
        return records, position

    def records(self, topic: str) -> list[Record]:
        """All committed records of a topic, partition by partition: what a new reader would see."""
        return [
            record
            for tp in self.partitions(topic)
            for record in self.read(tp, self._start[tp], len(self._entries[tp]))[0]
        ]

    def start(self, tp: TopicPartition) -> int:
        """The first offset that is still held."""
        return self._start[tp]

    def end(self, tp: TopicPartition) -> int:
        """The offset that the next record will have."""
        return len(self._entries[tp])

    def stable_end(self, tp: TopicPartition) -> int:
        """The last stable offset: nothing from the first open transaction on can be read yet."""
        for offset, entry in enumerate(self._entries[tp]):
            if entry.transaction is not None and entry.transaction.state == "open":
                return offset
        return self.end(tp)

    def trim(self, tp: TopicPartition, before: int) -> None:
        """Drop what lies before an offset, as retention does."""
        self._start[tp] = min(max(before, self._start[tp]), self.end(tp))

    # Groups

    def join(self, group: str, instance: str, topic: str) -> int:
        """Make `instance` a static member and return its member number; an older holder of the name is fenced."""
        members = self._group(group).members
        if instance not in members:
            self._group(group).generation += 1
        members[instance] = (next(self._numbers), topic)
        return members[instance][0]

    def leave(self, group: str, instance: str, member: int) -> None:
        """Give the member's partitions to the others; nothing happens when it is no longer a member."""
        state = self._group(group)
        if instance in state.members and state.members[instance][0] == member:
            del state.members[instance]
            state.generation += 1

    def membership(self, group: str, instance: str, member: int) -> Membership:
        """Return the proof that `member` belongs to the present generation. Raises Fenced or LostPartitions."""
        state = self._group(group)
        if instance not in state.members:
            raise LostPartitions(f"{instance} is no longer a member of group {group}")
        if state.members[instance][0] != member:
            raise Fenced(f"another instance named {instance} has joined group {group}")
        return Membership(group, instance, member, state.generation)

    def assignment(self, group: str, instance: str) -> frozenset[TopicPartition]:
        """The partitions of one member: a contiguous share of the topic, in the order of the instance names."""
        members = self._group(group).members
        topic = members[instance][1]
        names = sorted(name for name, (_, other) in members.items() if other == topic)
        partitions = self.partitions(topic)
        share, extra = divmod(len(partitions), len(names))
        index = names.index(instance)
        first = index * share + min(index, extra)
        return frozenset(partitions[first : first + share + (index < extra)])

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The committed positions of a group."""
        return dict(self._group(group).committed)

    def commit(
        self, owner: Membership, positions: Mapping[TopicPartition, int], transaction: Transaction | None = None
    ) -> None:
        """Store positions, now or when `transaction` commits. Raises Fenced or LostPartitions for an `owner` of before."""
        if self.membership(owner.group, owner.instance, owner.member) != owner:
            raise LostPartitions(f"the group {owner.group} has rebalanced since the batch was read")
        if transaction is None:
            self._stored(owner.group, positions)
        else:
            transaction.positions.append((owner, positions))

    def _stored(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        self._group(group).committed.update(positions)

    # Transactions

    def init_producer(self, transactional_id: str) -> int:
        """Become the only producer of this name: older ones are fenced, what they left open is aborted."""
        epoch, left_open = self._producers.get(transactional_id, (0, None))
        self._producers[transactional_id] = (epoch + 1, None)
        if left_open is not None and left_open.state == "open":
            self.end_transaction(left_open, "aborted")
        return epoch + 1

    def begin(self, transactional_id: str, epoch: int) -> Transaction:
        """Open a transaction. Raises Fenced when a newer producer has this name."""
        if self._producers[transactional_id][0] != epoch:
            raise Fenced(f"another producer with the transactional id {transactional_id} has started")
        transaction = Transaction()
        self._producers[transactional_id] = (epoch, transaction)
        return transaction

    def end_transaction(self, transaction: Transaction, state: str) -> None:
        """Commit or abort: one marker in every partition that was written to; positions are stored, or forgotten."""
        transaction.state = state
        if state == "committed":
            for owner, positions in transaction.positions:
                self._stored(owner.group, positions)
        for tp in transaction.partitions:
            self._entries[tp].append(_Entry(None, transaction))

    # Faults

    def inject(self, fault: Fault, *, after: int = 0) -> None:
        """Let `fault` happen once, `after` so many further commits (or polls, for POLL_ERROR)."""
        self._faults.append((fault, after))

    def fault(self, kinds: Iterable[Fault]) -> Fault | None:
        """Count one call down for faults of these kinds and return the first that is due."""
        kinds = tuple(kinds)
        due = next((fault for fault, after in self._faults if fault in kinds and after == 0), None)
        waiting = [(fault, after - (fault in kinds and after > 0)) for fault, after in self._faults]
        if due is not None:
            waiting.remove((due, 0))
        self._faults = waiting
        return due

    def missed_faults(self) -> Sequence[Fault]:
        """Injected faults that have not happened: a test that ends with any has tested nothing."""
        return [fault for fault, _ in self._faults]

    def _has_topic(self, name: str) -> bool:
        return TopicPartition(name, 0) in self._entries

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def _choose(self, topic: str, key: bytes | None) -> int:
        partitions = len(self.partitions(topic))
        return next(self._keyless) % partitions if key is None else partition_of(key, partitions)
