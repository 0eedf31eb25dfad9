"""The journal: one small record per micro-batch, in the same transaction as its outputs.

It says which records were processed in which order, and what was decided about learning from them; together with a
snapshot that is all it takes to come to the same state again. One explicitly assigned partition per lineage.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from consumer.errors import StateError
from consumer.ports import OffsetRange, Output, TopicPartition
from incremental.plan import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from consumer.ports import Past, Record
    from incremental.plan import LearnPlan

VERSION = 2
READ_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Gain:
    """A partition that came: its histories are those of a snapshot, plus its input [start, stop) without learning.

    `snapshot` is None where the histories went on from what this worker held itself, or from nothing; `sha256` is
    that of the snapshot's manifest.
    """

    partition: TopicPartition
    snapshot: str | None
    sha256: str | None
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Micro-batch `plan.batch` of a lineage.

    Before its `ranges` were read, `dropped` partitions were let go, `gains` taken over, and the offsets of `rewound`
    partitions set back: events before the offset named there are predicted for again, but not learned or kept again.
    `skipped` are earlier micro-batches that a redo must leave out. `begun_from` is the SHA-256 of the manifest of the
    snapshot that a new lineage began from; only its first entry has one.
    """

    lineage: str
    plan: LearnPlan
    ranges: tuple[OffsetRange, ...]
    gains: tuple[Gain, ...] = ()
    dropped: tuple[TopicPartition, ...] = ()
    rewound: tuple[tuple[TopicPartition, int], ...] = ()
    skipped: tuple[int, ...] = ()
    begun_from: str | None = None

    @property
    def batch(self) -> int:
        """Its number; a lineage counts from 1 without a gap."""
        return self.plan.batch

    def output(self, partition: TopicPartition) -> Output:
        """Return the record to be written."""
        return Output(partition.topic, self.lineage.encode(), encode(self), partition=partition.partition)


def encode(entry: Entry) -> bytes:
    """Return an entry as JSON; what is empty is left out."""
    body: dict[str, Any] = {
        "version": VERSION,
        "lineage": entry.lineage,
        "batch": entry.batch,
        "ranges": [[*span.partition, span.start, span.stop] for span in entry.ranges],
        "plan": asdict(entry.plan),
        **note_values(entry.gains, entry.dropped, entry.rewound, entry.skipped, entry.begun_from),
    }
    return orjson.dumps(body)


def note_values(
    gains: Iterable[Gain],
    dropped: Iterable[TopicPartition],
    rewound: Iterable[tuple[TopicPartition, int]],
    skipped: Iterable[int],
    begun_from: str | None,
) -> dict[str, Any]:
    """Return what an entry says beside its ranges and plan as JSON values; what is empty is left out."""
    values = {
        "gains": [[*g.partition, g.snapshot, g.sha256, g.start, g.stop] for g in gains],
        "dropped": [list(partition) for partition in dropped],
        "rewound": [[*partition, until] for partition, until in rewound],
        "skipped": list(skipped),
        "begun_from": begun_from,
    }
    return {name: value for name, value in values.items() if value}


def read_notes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry that `note_values` has written. Raises ValueError or TypeError."""
    return {
        "gains": tuple(Gain(TopicPartition(t, p), *rest) for t, p, *rest in values.get("gains", ())),
        "dropped": tuple(TopicPartition(t, p) for t, p in values.get("dropped", ())),
        "rewound": tuple((TopicPartition(t, p), until) for t, p, until in values.get("rewound", ())),
        "skipped": tuple(values.get("skipped", ())),
        "begun_from": values.get("begun_from"),
    }


def decode(value: bytes | None) -> Entry:
    """Return the entry of a record. Raises StateError where it is not one of this version."""
    try:
        body = orjson.loads(value or b"")
        if body["version"] != VERSION:
            raise StateError(f"the journal has version {body['version']}, this program reads {VERSION}")
        return Entry(
            body["lineage"],
            plan_of(body["plan"]),
            tuple(OffsetRange(TopicPartition(t, p), start, stop) for t, p, start, stop in body["ranges"]),
            **read_notes(body),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"a journal record cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Journaled:
    """An entry and where it stands."""

    entry: Entry
    offset: int


class Journal:
    """One lineage's entries, read from its partition. Raises StateError on a gap or on another lineage's records."""

    def __init__(self, past: Past, partition: TopicPartition, lineage: str) -> None:
        self._past, self.partition, self._lineage = past, partition, lineage

    def after(self, batch: int, offset: int = 0) -> Iterator[Journaled]:
        """Yield the entries behind micro-batch `batch`, up to the present end; `offset`: where to begin to look.

        Raises StateError where the journal ends before that micro-batch: then it is not of this lineage.
        """
        found, reached = batch, batch
        for journaled in self.everything(offset):
            found = journaled.entry.batch
            if found > reached + 1:
                raise StateError(self._gap(reached + 1, found))
            if found == reached + 1:
                reached = found
                yield journaled
        if found < batch:
            raise StateError(
                f"the journal of {self._lineage!r} ends with micro-batch {found}, before {batch}, which the state folder "
                "holds: that was not saved by this lineage. Move the newest snapshot out of snapshot.dir"
            )

    def everything(self, offset: int = 0) -> Iterator[Journaled]:
        """Yield all entries that are still there, from `offset` on."""
        start, end = self._past.bounds(self.partition)
        expected: int | None = None
        for begin in range(max(start, offset), end, READ_AT_ONCE):
            span = OffsetRange(self.partition, begin, min(begin + READ_AT_ONCE, end))
            for record in self._past.read(span):
                entry = self._ours(record)
                if expected is not None and entry.batch != expected:
                    raise StateError(self._gap(expected, entry.batch))
                expected = entry.batch + 1
                yield Journaled(entry, record.offset)

    def _ours(self, record: Record) -> Entry:
        entry = decode(record.value)
        if entry.lineage != self._lineage:
            raise StateError(
                f"{self.partition.topic}-{self.partition.partition} holds the journal of {entry.lineage!r}, not of "
                f"{self._lineage!r}: every worker needs a journal partition of its own (topics.journal_partition)"
            )
        return entry

    def _gap(self, wanted: int, found: int) -> str:
        return (
            f"the journal of {self._lineage!r} goes on with micro-batch {found} where {wanted} is needed: the state "
            "folder is older than what the journal still holds, or records were deleted. Bring back the newer state "
            "folder, or start a new lineage (another kafka.instance, and a free topics.journal_partition)"
        )
