"""Recovery: the one path by which a worker's memory comes to agree with what is committed.

It is taken at start, after a fence, after a crash, and after a commit whose outcome is unknown. Memory that is intact
counts as the newest snapshot, so after an unknown outcome nothing is loaded again.

1. Become the only one: a new producer, `init_transactions`, which fences an older instance and ends what it left open
   (`KafkaSink` does it when it is made, before anything here).
2. Load the lineage's newest valid snapshot (micro-batch n), unless memory is intact.
3. Redo the journal behind n, to its end: the same ranges in the same order through the same code; nothing is emitted.
   The input is read without a group, in slices between polls on hold, so that the membership stays alive.
4. Go on from the committed offsets. They only say where to go on; the journal says what was learned.

A micro-batch whose redo ends the process twice is left out, on record (`skipped` in the next journal entry); one that
the journal says was left out is left out again.

A partition that is gained (`take_over`) brings its histories: the newest snapshot that holds it, whoever wrote it, plus
its input from there to the committed offset, without learning. The gain is journalled with that snapshot's hash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson
import structlog

from consumer.errors import InputTruncated, StateError, TidemillError
from consumer.journal import Gain, Journal, note_values, read_notes
from consumer.ports import OffsetRange, PollLimits
from consumer.stop_signal import StoppedWhileStarting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consumer.journal import Entry
    from consumer.parts import Considered, Parts
    from consumer.ports import Batch, Clock, GroupSource, Past, Record, StateStore, TopicPartition
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot, Snapshots

log = structlog.get_logger()

FOLD_AT_ONCE = 2000
DEATHS_UNTIL_SKIPPED = 2


@dataclass(slots=True)
class Notes:
    """What happened since the last journal entry, for the next one; a snapshot between the two holds it as well."""

    gains: list[Gain] = field(default_factory=list)
    dropped: list[TopicPartition] = field(default_factory=list)
    rewound: dict[TopicPartition, int] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    begun_from: str | None = None

    def values(self) -> dict[str, Any]:
        """Return them as JSON values."""
        rewound = sorted(self.rewound.items())
        return note_values(self.gains, self.dropped, rewound, self.skipped, self.begun_from)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Notes:
        """From JSON values."""
        notes = read_notes(values)
        gains, dropped, skipped = (list(notes[name]) for name in ("gains", "dropped", "skipped"))
        return cls(gains, dropped, dict(notes["rewound"]), skipped, notes["begun_from"])


class Beat(Protocol):
    """Is told between small steps that something long moves."""

    def beat(self) -> None:
        """It moves."""


class Slices:
    """Looks after the group membership while something long goes on; `beat` between its small steps."""

    def __init__(self, source: GroupSource, slice_s: float, clock: Clock, moved: Callable[[], None]) -> None:
        self._source, self._slice_s, self._clock, self._moved = source, slice_s, clock, moved
        self._last = clock.monotonic()

    def __enter__(self) -> Self:
        self._source.hold(held=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._source.hold(held=False)

    def beat(self) -> None:
        """Poll on hold when a slice is over."""
        self._moved()
        if self._clock.monotonic() - self._last >= self._slice_s:
            self._source.poll(PollLimits(1, 0.0))
            self._last = self._clock.monotonic()


class Recovery:
    """Brings `parts` up to what is committed."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        snapshots: Snapshots,
        clock: Clock,
        journal_partition: TopicPartition,
    ) -> None:
        self._settings, self._parts, self._snapshots, self._clock = settings, parts, snapshots, clock
        self._journal_partition = journal_partition
        self.notes = Notes()
        self.journal_offset = 0  # behind the last entry that is in memory
        self._marker = _Marker(snapshots.store, snapshots.lineage)

    def load(self) -> Snapshot | None:
        """Step 2. Returns the snapshot that was loaded, None where there is none yet."""
        complaints: list[str] = []
        snapshot = self._snapshots.newest(complaints)
        for complaint in complaints:
            log.warning("a snapshot was passed over", reason=complaint)
        if snapshot is not None:
            self._parts.restore(snapshot)
            self.journal_offset = snapshot.journal_offset
            self.notes = Notes.read(snapshot.notes)
            log.info("snapshot loaded", snapshot=snapshot.name, batch=snapshot.batch)
        return snapshot

    def redo(self, source: GroupSource, past: Past, moved: Callable[[], None]) -> int:
        """Step 3; returns how many micro-batches were redone. Raises StateError or InputTruncated."""
        parts = self._parts
        journal = Journal(past, self._journal_partition, parts.lineage)
        begin, count = self._clock.monotonic(), 0
        parts.health.restored(is_restored=False)
        with self._marker as deadly, Slices(source, self._settings.recovery.slice_s, self._clock, moved) as slices:
            skips = deadly | _skipped_before(journal, self.journal_offset, slices)
            for journaled in journal.after(parts.batch, self.journal_offset):
                self._redo_one(journaled.entry, past, slices, skips)
                self.journal_offset = journaled.offset + 1
                count += 1
        parts.health.restored()
        seconds = round(self._clock.monotonic() - begin, 2)
        log.info("journal redone", batches=count, batch=parts.batch, seconds=seconds)
        return count

    def _redo_one(self, entry: Entry, past: Past, slices: Slices, skips: frozenset[int]) -> None:
        self._marker.before(entry.batch)
        skip = entry.batch in skips
        if skip:
            log.error("a micro-batch is skipped: it is not learned", batch=entry.batch)
            self.notes.skipped.append(entry.batch)
        if entry.batch == 1 and entry.begun_from != self.notes.begun_from:
            how = "with the same --init" if entry.begun_from else "without --init"
            raise StateError(f"this lineage has no snapshot of its own yet, and began {how}: start it so again")
        redo(
            entry,
            self._parts,
            past,
            self._snapshots,
            slices,
            skip=skip,
            truncation=self._settings.recovery.on_truncation,
        )
        # whatever else was noted is in this entry, or in one before it: it must not be said a second time
        self.notes = Notes(skipped=[batch for batch in self.notes.skipped if batch not in entry.skipped])

    def follow(self, batch: Batch, source: GroupSource, past: Past) -> bool:
        """Let go of revoked partitions and take over gained ones; returns whether any brought histories.

        A gained one begins where this batch begins to read it, or where the source will.
        """
        for partition in sorted(self._parts.histories.partitions.keys() - batch.assignment):
            self._parts.drop(partition)
            self.notes.gains = [gain for gain in self.notes.gains if gain.partition != partition]
            self.notes.rewound.pop(partition, None)
            self.notes.dropped.append(partition)
        positions = {**source.positions(), **{span.partition: span.start for span in batch.ranges}}
        gained = False
        for partition in sorted(batch.assignment):
            gained |= self.join(partition, positions[partition], source, past)
        return gained

    def join(self, partition: TopicPartition, position: int, source: GroupSource, past: Past) -> bool:
        """Make a partition's histories join the position that is read from; true where histories were brought.

        They end there: nothing to do. They end before it: take over. They end behind it: the offsets were set back.
        """
        held = self._parts.next_offsets.get(partition)
        if held is not None and held > position:
            self._rewound(partition, held, position)
            return False
        if held == position and partition in self._parts.histories.partitions:
            return False
        return self._take_over(partition, position, source, past)

    def _rewound(self, partition: TopicPartition, held: int, position: int) -> None:
        where = f"{partition.topic}-{partition.partition}"
        at_least_once = self._settings.kafka.delivery == "at_least_once"
        if self._settings.recovery.on_rewind == "stop" and not at_least_once:
            raise StateError(
                f"the committed offset of {where} is {position}, but events up to {held} were learned: someone set the "
                f"offsets back. Set them to {held} (kafka-consumer-groups.sh --reset-offsets), or let the worker "
                'predict for those events again without learning them twice: recovery.on_rewind = "emit_only"'
            )
        log.warning("predicting again, not learning", topic=partition.topic, partition=partition.partition, until=held)
        self.notes.rewound[partition] = held
        self._parts.histories.rewound[partition] = held

    def _take_over(self, partition: TopicPartition, position: int, source: GroupSource, past: Past) -> bool:
        held = self._parts.next_offsets.get(partition, -1)
        snapshot = self._snapshots.holding(partition, position)
        if snapshot is not None and snapshot.positions[partition].next_offset <= held:
            snapshot = None
        gain = self._gain(partition, position, snapshot, past)
        if gain is None:
            self._parts.begin(partition, None)
            self._parts.next_offsets[partition] = position
            return False
        log.info(
            "partition gained",
            topic=partition.topic,
            partition=partition.partition,
            snapshot=gain.snapshot,
            events_to_read=gain.stop - gain.start,
        )
        with Slices(source, self._settings.recovery.slice_s, self._clock, self._parts.health.beat) as slices:
            gain = _bring(gain, self._parts, past, snapshot, slices, self._settings.recovery.on_truncation)
        self.notes.gains.append(gain)
        return True

    def _gain(self, partition: TopicPartition, position: int, snapshot: Snapshot | None, past: Past) -> Gain | None:
        """Decide where a gained partition's histories come from; None where there is nothing before `position`."""
        held = self._parts.next_offsets.get(partition)
        if snapshot is not None:
            start = snapshot.positions[partition].next_offset
            return Gain(partition, snapshot.name, snapshot.manifest_sha256, start, position)
        if held is not None:
            return Gain(partition, None, None, held, position)
        start = max(past.bounds(partition)[0], position - self._settings.recovery.max_fold_events)
        return Gain(partition, None, None, start, position) if start < position else None


def redo(
    entry: Entry,
    parts: Parts,
    past: Past,
    snapshots: Snapshots,
    slices: Beat,
    *,
    skip: bool = False,
    truncation: str = "stop",
) -> Considered:
    """Do one journal entry again: what it took over, what it read, what it learned; nothing is emitted.

    A skipped one is neither predicted nor learned, but its events become history, and its number is counted.
    """
    for partition in entry.dropped:
        parts.drop(partition)
    for gain in entry.gains:
        if parts.next_offsets.get(gain.partition) != gain.stop:
            _bring(gain, parts, past, _snapshot_of(gain, snapshots), slices, truncation)
    parts.histories.rewound.update(entry.rewound)
    for span in entry.ranges:
        parts.histories.begin(span.partition)
    records = [record for span in entry.ranges for record in _read(past, span, truncation)]
    slices.beat()
    if skip:
        return parts.pass_over(records, entry.ranges, entry.plan)  # predicting may be what ends the process
    considered = parts.consider(records, entry.ranges, plan=entry.plan)
    parts.keep(considered)
    parts.learn(considered)
    slices.beat()
    return considered


def _read(past: Past, span: OffsetRange, truncation: str) -> list[Record]:
    try:
        return list(past.read(span))
    except InputTruncated as error:
        if truncation != "earliest":
            raise InputTruncated(
                f"{error}. Retention was shorter than the time since the last snapshot: lengthen it; to go on without "
                'those events, set recovery.on_truncation = "earliest"'
            ) from error
        log.warning("the input no longer holds a range, going on without it", reason=str(error))
        return []


def _snapshot_of(gain: Gain, snapshots: Snapshots) -> Snapshot | None:
    """Open the snapshot that a gain names. Raises StateError where it is gone or is another one."""
    if gain.snapshot is None:
        return None
    snapshot = snapshots.open(gain.snapshot)
    if snapshot.manifest_sha256 != gain.sha256:
        raise StateError(f"{gain.snapshot} is not the snapshot that the journal names: its hash differs")
    return snapshot


def _bring(gain: Gain, parts: Parts, past: Past, snapshot: Snapshot | None, slices: Beat, truncation: str) -> Gain:
    """Load the histories of a gained partition and read its input up to where the worker goes on."""
    held_here = gain.snapshot is None and parts.next_offsets.get(gain.partition) == gain.start
    if not held_here:
        parts.drop(gain.partition)
        parts.begin(gain.partition, snapshot)
    for start in range(gain.start, gain.stop, FOLD_AT_ONCE):
        span = OffsetRange(gain.partition, start, min(start + FOLD_AT_ONCE, gain.stop))
        parts.fold(_read(past, span, truncation), span)
        slices.beat()
    parts.next_offsets[gain.partition] = gain.stop
    return gain


def _skipped_before(journal: Journal, offset: int, slices: Beat) -> frozenset[int]:
    """Return the micro-batches that earlier recoveries left out, as the journal says from `offset` on."""
    skipped: set[int] = set()
    for journaled in journal.everything(offset):
        skipped.update(journaled.entry.skipped)
        slices.beat()
    return frozenset(skipped)


class _Marker:
    """Remembers, over deaths of the process, which micro-batch was being redone.

    The first recovery only notes that it is under way. One that finds such a note goes carefully, and notes each
    micro-batch before it is redone; where the note says that one has ended the process twice, it is skipped. An error
    that is expected (the broker is away, a signal to stop) is no death of the micro-batch in hand.
    """

    def __init__(self, store: StateStore, lineage: str) -> None:
        self._store, self._name = store, f"{lineage}/redo.json"
        self._deaths: dict[str, int] = {}
        self._careful = False

    def __enter__(self) -> frozenset[int]:
        """Begin a recovery; returns the micro-batches to skip."""
        note = self._read()
        if note is not None:
            self._careful, self._deaths = True, note["deaths"]
            if note["batch"] is not None:
                self._deaths[str(note["batch"])] = self._deaths.get(str(note["batch"]), 0) + 1
        self._write(None)
        return frozenset(int(batch) for batch, deaths in self._deaths.items() if deaths >= DEATHS_UNTIL_SKIPPED)

    def before(self, batch: int) -> None:
        """Note what is about to be redone, where that is necessary."""
        if self._careful:
            self._write(batch)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """End a recovery: forget everything, or (an expected error) only what was in hand."""
        if error is not None and not isinstance(error, TidemillError | StoppedWhileStarting):
            return
        if error is not None and self._careful:
            self._write(None)
            return
        self._store.delete(self._name)
        self._careful, self._deaths = False, {}

    def condemn(self, batch: int) -> None:
        """Make the next recovery skip a micro-batch, as if its redo had ended the process often enough."""
        note = self._read() or {"batch": None, "deaths": {}}
        self._deaths = {**note["deaths"], str(batch): DEATHS_UNTIL_SKIPPED}
        self._write(note["batch"])

    def _read(self) -> dict[str, Any] | None:
        if self._name not in self._store.names(self._name):
            return None
        try:
            note: dict[str, Any] = orjson.loads(self._store.read(self._name))
        except orjson.JSONDecodeError as error:
            raise StateError(f"{self._name} is damaged: remove it; it only counts deaths during recovery") from error
        return note

    def _write(self, batch: int | None) -> None:
        self._store.write(self._name, orjson.dumps({"batch": batch, "deaths": self._deaths}))


def skip_in_next_recovery(store: StateStore, lineage: str, batch: int) -> None:
    """The operator's way to leave out a micro-batch at once; forgotten when a recovery has come to its end."""
    _Marker(store, lineage).condemn(batch)
