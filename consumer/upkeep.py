"""What a live worker does around its steps: journal, snapshots, partitions that come and go, the watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from consumer.errors import AccessError, StateError, TransientError
from consumer.recovery import Notes

if TYPE_CHECKING:
    from consumer.parts import Parts
    from consumer.ports import Batch, GroupSource, Past, TopicPartition
    from consumer.recovery import Recovery
    from consumer.settings import Settings
    from consumer.snapshot_writer import SnapshotWriter
    from consumer.stop_signal import AtOnce
    from consumer.watchdog import Watchdog

log = structlog.get_logger()


class Upkeep:
    """Called by the pipeline at the named moments of a step."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        recovery: Recovery,
        source: GroupSource,
        past: Past,
        writer: SnapshotWriter,
        watchdog: Watchdog,
        journal_partition: TopicPartition,
        at_once: AtOnce,
    ) -> None:
        self._settings, self._parts, self._recovery = settings, parts, recovery
        self._source, self._past = source, past
        self._writer, self._watchdog = writer, watchdog
        self.journal_partition = journal_partition
        self._at_once = at_once
        self._assignment: frozenset[TopicPartition] | None = None

    @property
    def notes(self) -> Notes:
        """What the next journal entry has to say beside its ranges and plan."""
        return self._recovery.notes

    def enter(self, phase: str) -> None:
        """The step begins a phase: poll, commit, or the rest."""
        limits = self._settings.watchdog
        self._watchdog.enter(phase, limits.commit_s if phase == "commit" else limits.step_s)

    def follow(self, batch: Batch) -> None:
        """Take over gained partitions, let go of revoked ones, and see that what was read joins what is held."""
        gained = False
        if batch.assignment != self._assignment or not all(self._joins(s.partition, s.start) for s in batch.ranges):
            with self._at_once():
                gained = self._join(batch)
        if self._recovery.begins_anew:
            self.begin_anew()
        elif gained:
            self.save(wait=True)  # completed before the first micro-batch of the gained partition is learned

    def _join(self, batch: Batch) -> bool:
        gained = False
        if batch.assignment != self._assignment:
            self._assignment = batch.assignment
            gained = self._recovery.follow(batch, self._source, self._past)
        for span in batch.ranges:
            if not self._joins(span.partition, span.start):
                gained |= self._recovery.join(span.partition, span.start, self._source, self._past)
        return gained

    def _joins(self, partition: TopicPartition, start: int) -> bool:
        held = self._parts.next_offsets.get(partition)
        return start == held or start < self._parts.histories.rewound.get(partition, -1)

    def committed(self) -> None:
        """The journal entry is written: its notes are history."""
        self._recovery.notes = Notes()

    def after_step(self, redo_s: float) -> None:
        """Note what it would take to redo the step, and save where it is time to."""
        self._writer.stepped(redo_s)
        self._save_where_due()

    def idle(self) -> None:
        """Nothing was read: a good moment to save, where there is something new."""
        if self._parts.batch != self._writer.batch:
            self._save_where_due()
        self._writer.look()

    def _save_where_due(self) -> None:
        self._writer.look()
        if self._writer.due():
            self.save()

    def begin_anew(self) -> None:
        """Begin a new lineage at this moment: a snapshot, and nothing of what was before it.

        Where the snapshot fails, what there is stays, and the next start comes here again.
        """
        self._recovery.begins_anew = False
        if not self.save(wait=True):
            return
        try:
            self._writer.snapshots.drop_all_but(1)
        except (StateError, TransientError, AccessError) as error:  # the new one is the newest all the same
            log.warning("older snapshots were not removed", reason=str(error))
        trim(self._past, self.journal_partition, self._recovery.journal_offset)
        log.warning("a new lineage begins: the input does not hold what the former one needs", batch=self._parts.batch)

    def save(self, *, wait: bool = False, look_up: bool = True) -> bool:
        """Begin to write a snapshot of this moment; with `wait` until it is complete, which is then the answer.

        Without `look_up` it has the place in the journal that was known last, from which more is read than necessary.
        """
        if look_up:
            with self._at_once(whole=True):
                self._recovery.journal_offset = self._past.bounds(self.journal_partition)[1]  # nobody else writes there
        self._writer.write(self._parts.image(self._recovery.journal_offset, self.notes.values()))
        return self._writer.look(wait=True) if wait else False


def trim(past: Past, journal: TopicPartition, before: int) -> None:
    """Drop what lies before an offset of the journal."""
    try:
        past.trim(journal, before)
    except (TransientError, AccessError) as error:  # it only grows: no reason to end what serves
        log.warning("the journal was not trimmed", reason=str(error))
