"""A live worker: the pipeline on its doors, and what is done when a step does not end well.

Known aborts are dealt with inside the step. After a lost partition or an unknown outcome memory is intact and as of the
last committed micro-batch that it knows of: the doors are opened anew (which fences and ends whatever was left open),
and the journal tells whether there is one more. A fence ends the process: another instance has this identity now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from consumer.begin import begin_as_journalled, begin_from, begin_from_group
from consumer.errors import AccessError, Fenced, TransientError, VoidStateError
from consumer.journal import Journal
from consumer.pipeline import Pipeline, StepReport
from consumer.ports import TopicPartition
from consumer.recovery import Recovery
from consumer.snapshot_writer import SnapshotWriter
from consumer.stop_signal import to_the_end
from consumer.upkeep import Upkeep, trim
from consumer.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consumer.parts import Parts
    from consumer.ports import Clock, GroupSource, Past, Sink
    from consumer.settings import Settings
    from consumer.snapshots import Snapshots
    from consumer.stop_signal import AtOnce

log = structlog.get_logger()

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0


class Doors(NamedTuple):
    """One connection to the stream."""

    source: GroupSource
    sink: Sink
    past: Past

    def close(self) -> None:
        """Release all three."""
        self.sink.close()
        self.source.close()
        self.past.close()


class OpenDoors(Protocol):
    """Opens the doors, fencing older instances of this worker; waits for a broker."""

    def __call__(self) -> Doors:
        """Return open doors."""


class Worker:
    """Owns the doors, the recovery and the pipeline between them.

    Recoveries and take-overs, which may last and commit nothing, and what waits for the broker between micro-batches run
    `at_once`: there a stop may end them anywhere.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        snapshots: Snapshots,
        clock: Clock,
        open_doors: OpenDoors,
        watchdog: Watchdog | None = None,
        *,
        at_once: AtOnce | None = None,
    ) -> None:
        self._settings, self.parts, self._clock, self._open = settings, parts, clock, open_doors
        self._journal = TopicPartition(settings.topics.journal, settings.topics.journal_partition)
        self._snapshots = snapshots
        self._recovery = Recovery(settings, parts, snapshots, clock, self._journal)
        self._watchdog = watchdog or Watchdog(clock)
        self._writer = SnapshotWriter(snapshots, settings.snapshot, parts.metrics, clock, self._trim)
        self._at_once = at_once or to_the_end
        self._failures = 0
        self._trims = True
        self.doors: Doors | None = None
        self.pipeline: Pipeline | None = None

    def start(self, init: str | Path | None = None) -> Pipeline:
        """Steps 1 to 3 of recovery; returns the pipeline that goes on from there.

        A lineage without a snapshot begins where `init` says, as its journal says, or with what its group has learned.
        """
        self.doors = self._open()  # 1
        is_new = self._recovery.load() is None  # 2
        if is_new:
            self._recovery.notes.begun_from = self._begin(init)
        saved = self.parts.batch
        self._redo()  # 3
        self._writer.holds(saved)
        if self.parts.batch != saved:  # or a worker that dies often would have more to redo each time
            self._writer.overdue()
        begun_from = self._recovery.notes.begun_from
        pipeline = self._connect()
        if is_new and begun_from is not None:
            self.save()  # what it began from may go: others drop their snapshots
        return pipeline

    def _begin(self, init: str | Path | None) -> str | None:
        """Take over what a lineage without a snapshot begins from; returns the SHA-256 of that manifest."""
        if init is not None:
            return begin_from(self.parts, init, self._settings)
        journal = Journal(self._open_doors().past, self._journal, self.parts.lineage)
        first = next(iter(journal.everything()), None)
        if first is None:
            return begin_from_group(self.parts, self._snapshots, self._settings)
        if first.entry.begun_from is not None:
            begin_as_journalled(self.parts, self._snapshots, first.entry.begun_from)
        return first.entry.begun_from

    def _redo(self) -> None:
        doors = self._open_doors()
        self._watchdog.enter("recovery", self._settings.watchdog.step_s)
        redone = self._recovery.redo(doors.source, doors.past, self._beat)
        self.parts.metrics.recovered(redone)

    def _beat(self) -> None:
        with self._at_once():  # an exception that a signal raised inside the client may have been lost there
            pass
        self._watchdog.enter("recovery", self._settings.watchdog.step_s)
        self.parts.health.beat()

    def _connect(self) -> Pipeline:
        doors = self._open_doors()
        upkeep = Upkeep(
            self._settings,
            self.parts,
            self._recovery,
            doors.source,
            doors.past,
            self._writer,
            self._watchdog,
            self._journal,
            self._at_once,
        )
        if self._recovery.begins_anew:
            upkeep.begin_anew()
        before = self.pipeline
        self.pipeline = Pipeline(self._settings, doors.source, doors.sink, self.parts, self._clock, upkeep)
        if before is not None:
            self.pipeline.go_on_from(before)
        return self.pipeline

    def _open_doors(self) -> Doors:
        if self.doors is None:
            self.doors = self._open()
        return self.doors

    def step(self, max_records: int | None = None) -> StepReport | None:
        """One step, or (None) one recovery. Raises what cannot be recovered from, or not so many times in a row."""
        pipeline = self.pipeline or self._connect()
        try:
            report = pipeline.step(max_records)
        except Fenced:
            raise
        except (VoidStateError, TransientError) as error:
            self._failures += 1
            if self._failures > self._settings.recovery.attempts:
                raise
            self._recover(error)
            return None
        if report.committed:
            self._failures = 0
        return report

    def _recover(self, error: VoidStateError | TransientError) -> None:
        log.warning("recovering", reason=str(error), kind=type(error).__name__, attempt=self._failures)
        self._watchdog.rest()
        self.parts.health.connecting()
        self._close_doors()
        try:
            with self._at_once(whole=True):  # as of the last micro-batch that is known to be committed
                self._clock.sleep(min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S))
                self._open_doors()
            with self._at_once():
                self._redo()
            self._connect()
        except Fenced:
            raise
        except (VoidStateError, TransientError) as again:
            self._failures += 1
            if self._failures > self._settings.recovery.attempts:
                raise
            self._recover(again)

    @property
    def connected(self) -> Pipeline:
        """The pipeline, connected where it was not yet."""
        return self.pipeline or self._connect()

    def save(self) -> None:
        """Write a snapshot and wait for it."""
        if self.pipeline is not None and self.pipeline.upkeep is not None:
            self.pipeline.upkeep.save(wait=True)

    def hurry(self) -> None:
        """From now on wait for the broker no more than it takes to leave: what could be trimmed is trimmed later."""
        self._trims = False

    def save_last(self) -> None:
        """Write the last snapshot and wait for it, and ask the broker for nothing: it may be away while there is no time.

        So the next start reads the journal from further back.
        """
        if self.pipeline is not None and self.pipeline.upkeep is not None:
            self.pipeline.upkeep.save(wait=True, look_up=False)

    def _trim(self) -> None:
        """Drop what the journal needs no more: what lies before the oldest snapshot kept."""
        if not self._trims:
            return
        try:
            offset = self._snapshots.oldest_journal_offset()
        except (TransientError, AccessError) as error:
            log.warning("the journal was not trimmed", reason=str(error))
            return
        if self._settings.recovery.journal_keep == "snapshots" and offset and self.doors is not None:
            with self._at_once(whole=True):
                trim(self.doors.past, self._journal, offset)

    def _close_doors(self) -> None:
        if self.doors is not None:
            self.doors.close()
            self.doors = None

    def close(self) -> None:
        """Leave the group, release everything; safe to call twice."""
        self._watchdog.rest()
        self._writer.close()
        self._close_doors()


def run_until(
    worker: Worker,
    finished: Callable[[Pipeline], bool],
    asked_to_stop: Callable[[], bool],
    max_events: int | None = None,
    on_step: Callable[[Pipeline, StepReport], None] | None = None,
) -> None:
    """Step until a stop is asked for, the source is drained, or so many records were read."""
    while not asked_to_stop() and worker.pipeline is not None and not finished(worker.pipeline):
        left = None if max_events is None else max_events - worker.pipeline.records
        report = worker.step(left)
        if on_step is not None and report is not None:
            on_step(worker.pipeline, report)
