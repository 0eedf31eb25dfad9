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

Where the input no longer holds what is needed and `recovery.on_truncation` is "fresh", what is left is redone, and a new
lineage begins behind it under the same name (`begins_anew`): its numbers go on, its first snapshot is the oldest kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import structlog

from consumer.errors import StateError
from consumer.journal import Gain, Journal, note_values, read_notes
from consumer.ports import PollLimits
from consumer.redo import InputAgain, bring, redo
from consumer.redo_marker import RedoMarker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consumer.journal import Entry
    from consumer.parts import Parts
    from consumer.ports import Batch, Clock, GroupSource, Past, TopicPartition
    from consumer.redo import Beat
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot, Snapshots

log = structlog.get_logger()

NEW_LINEAGE = (
    "For another topic of the same name begin a new lineage: another kafka.instance and a free topics.journal_partition, "
    "which takes over what was learned"
)


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
        self.begins_anew = False  # something is gone, and a new lineage is wanted then
        self._marker = RedoMarker(snapshots.store, snapshots.lineage)

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
        again = InputAgain(past, self._settings.recovery.on_truncation)
        begin, count = self._clock.monotonic(), 0
        parts.health.restored(is_restored=False)
        with self._marker as deadly, Slices(source, self._settings.recovery.slice_s, self._clock, moved) as slices:
            skipped, behind = _gone_through(journal, self.journal_offset, parts.batch, slices)
            skips = deadly | skipped
            for journaled in journal.after(parts.batch, self.journal_offset):
                self._redo_one(journaled.entry, again, slices, skips)
                self.journal_offset = journaled.offset + 1
                count += 1
            self.journal_offset = max(self.journal_offset, behind)
        parts.health.restored()
        self._note_gone(again)
        seconds = round(self._clock.monotonic() - begin, 2)
        log.info("journal redone", batches=count, batch=parts.batch, seconds=seconds)
        return count

    def _note_gone(self, again: InputAgain) -> None:
        self.begins_anew |= again.gone and self._settings.recovery.on_truncation == "fresh"

    def _redo_one(self, entry: Entry, past: InputAgain, slices: Slices, skips: frozenset[int]) -> None:
        self._marker.before(entry.batch)
        skip = entry.batch in skips
        if skip:
            log.error("a micro-batch is skipped: it is not learned", batch=entry.batch)
            self.notes.skipped.append(entry.batch)
        if entry.batch == 1 and entry.begun_from != self.notes.begun_from:
            how = "with the same --init" if entry.begun_from else "without --init"
            raise StateError(f"this lineage has no snapshot of its own yet, and began {how}: start it so again")
        redo(entry, self._parts, past, self._snapshots, slices, skip=skip)
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
            self._rewound(partition, held, position, past)
            return False
        if held == position and partition in self._parts.histories.partitions:
            return False
        return self._take_over(partition, position, source, past)

    def _rewound(self, partition: TopicPartition, held: int, position: int, past: Past) -> None:
        where = f"{partition.topic}-{partition.partition}"
        end = past.bounds(partition)[1]
        if end < held:
            raise StateError(
                f"{where} ends at offset {end}, but events up to {held} were learned: the topic was made anew, or has lost "
                f"records. {NEW_LINEAGE}"
            )
        at_least_once = self._settings.kafka.delivery == "at_least_once"
        if self._settings.recovery.on_rewind == "stop" and not at_least_once:
            raise StateError(
                f"the committed offset of {where} is {position}, but events up to {held} were learned: someone set the "
                f"offsets back, or the topic was made anew. Set them to {held} (kafka-consumer-groups.sh --reset-offsets), if it "
                "is the same topic, or let the worker "
                'predict for those events again without learning them twice: recovery.on_rewind = "emit_only"'
            )
        log.warning("predicting again, not learning", topic=partition.topic, partition=partition.partition, until=held)
        self.notes.rewound[partition] = held
        self._parts.histories.rewound[partition] = held

    def _take_over(self, partition: TopicPartition, position: int, source: GroupSource, past: Past) -> bool:
        held = self._parts.next_offsets.get(partition)
        again = InputAgain(past, self._settings.recovery.on_truncation)
        end = again.bounds(partition)[1]
        if position > end:
            raise StateError(
                f"the committed offset of {partition.topic}-{partition.partition} is {position}, but the topic ends at {end}: "
                f"the offset is wrong, or the topic was made anew. Set it right (kafka-consumer-groups.sh --reset-offsets). "
                f"{NEW_LINEAGE}"
            )
        snapshot = self._newest_holding(partition, position)
        gain = self._gain(partition, position, snapshot, again)
        if snapshot is None and held is None and gain.start == gain.stop:  # there was nothing before it
            bring(gain, self._parts, again, None, self._parts.health)
            self.notes.gains.append(gain)
            return False
        _say(gain, held)
        try:
            self._bring(gain, snapshot, source, again)
        except StateError:
            if snapshot is None or snapshot.name in self._snapshots.names(everyone=True):
                raise
            return self._take_over(partition, position, source, past)  # its owner has dropped it this moment
        return True

    def _bring(self, gain: Gain, snapshot: Snapshot | None, source: GroupSource, again: InputAgain) -> None:
        """Take over, in slices; where that is cut short, what has come so far is held, and said."""
        try:
            with Slices(source, self._settings.recovery.slice_s, self._clock, self._parts.health.beat) as slices:
                bring(gain, self._parts, again, snapshot, slices)
        finally:
            reached = self._parts.next_offsets.get(gain.partition, -1)
            if reached >= gain.start:
                self.notes.gains.append(replace(gain, stop=reached))
            self._note_gone(again)

    def _newest_holding(self, partition: TopicPartition, position: int) -> Snapshot | None:
        """Return the snapshot that brings a partition further than what is held here."""
        snapshot = self._snapshots.holding(partition, position)
        held = self._parts.next_offsets.get(partition)
        if snapshot is None or (held is not None and snapshot.positions[partition].next_offset <= held):
            return None
        return snapshot

    def _gain(self, partition: TopicPartition, position: int, snapshot: Snapshot | None, again: InputAgain) -> Gain:
        """Decide where a gained partition's histories come from."""
        held = self._parts.next_offsets.get(partition)
        if snapshot is not None:
            start = again.first_from(partition, snapshot.positions[partition].next_offset, position)
            return Gain(partition, snapshot.name, snapshot.manifest_sha256, start, position)
        if held is not None:
            return Gain(partition, None, None, again.first_from(partition, held, position), position)
        start = max(again.bounds(partition)[0], position - self._settings.recovery.max_fold_events)
        return Gain(partition, None, None, min(start, position), position)


def _say(gain: Gain, held: int | None) -> None:
    """Say where a partition's histories come from, louder where they may be less than there was."""
    where = {
        "topic": gain.partition.topic,
        "partition": gain.partition.partition,
        "events_to_read": gain.stop - gain.start,
    }
    if gain.snapshot is not None:
        log.info("partition gained", snapshot=gain.snapshot, **where)
    elif held is not None:
        log.warning("the committed offset is ahead of what was learned here", learned_up_to=held, **where)
    else:
        log.warning("partition gained, and no snapshot holds its histories", **where)


def _gone_through(journal: Journal, offset: int, batch: int, slices: Beat) -> tuple[frozenset[int], int]:
    """Return the micro-batches that earlier recoveries left out, as the journal says from `offset` on.

    And the offset behind what it says of micro-batches up to `batch`: a snapshot may know one that is further back.
    """
    skipped: set[int] = set()
    for journaled in journal.everything(offset):
        skipped.update(journaled.entry.skipped)
        if journaled.entry.batch <= batch:
            offset = journaled.offset + 1
        slices.beat()
    return frozenset(skipped), offset
