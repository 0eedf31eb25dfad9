"""What a live worker does around its steps: journal, snapshots, partitions that come and go, the watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer.recovery import Notes

if TYPE_CHECKING:
    from consumer.parts import Parts
    from consumer.ports import Batch, Clock, GroupSource, Past, TopicPartition
    from consumer.recovery import Recovery
    from consumer.settings import Settings
    from consumer.snapshot_writer import SnapshotWriter
    from consumer.watchdog import Watchdog


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
        clock: Clock,
        journal_partition: TopicPartition,
    ) -> None:
        self._settings, self._parts, self._recovery = settings, parts, recovery
        self._source, self._past = source, past
        self._writer, self._watchdog, self._clock = writer, watchdog, clock
        self.journal_partition = journal_partition
        self._saved_at = clock.monotonic()
        self._saved_batch = parts.batch
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
        if batch.assignment != self._assignment:
            self._assignment = batch.assignment
            if self._recovery.follow(batch, self._source, self._past):
                self.save(wait=True)  # completed before the first micro-batch of the gained partition is learned
        for span in batch.ranges:
            if not self._joins(span.partition, span.start):
                self._recovery.join(span.partition, span.start, self._source, self._past)

    def _joins(self, partition: TopicPartition, start: int) -> bool:
        held = self._parts.next_offsets.get(partition)
        return start == held or start < self._parts.histories.rewound.get(partition, -1)

    def committed(self) -> None:
        """The journal entry is written: its notes are history."""
        self._recovery.notes = Notes()

    def after_step(self) -> None:
        """Save where it is time to."""
        self._writer.look()
        if self._clock.monotonic() - self._saved_at >= self._settings.snapshot.every_s and not self._writer.busy:
            self.save()

    def idle(self) -> None:
        """Nothing was read: a good moment to save, where there is something new."""
        if self._parts.batch != self._saved_batch:
            self.after_step()
        self._writer.look()

    def save(self, *, wait: bool = False) -> None:
        """Begin to write a snapshot of this moment; with `wait` until it is complete."""
        self._saved_at, self._saved_batch = self._clock.monotonic(), self._parts.batch
        self._recovery.journal_offset = self._past.bounds(self.journal_partition)[1]  # nobody else writes there
        self._writer.write(self._parts.image(self._recovery.journal_offset, self.notes.values()))
        if wait:
            self._writer.look(wait=True)
