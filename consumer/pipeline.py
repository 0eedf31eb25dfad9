"""The worker's loop, one micro-batch at a time: the whole of Tidemill in one function, `Pipeline.step`.

Test, then train: every event is scored by the state at the start of its micro-batch and what had happened by then in
the micro-batch itself, then learned. Outputs leave before learning starts. The commit is the only decision point:
before it nothing has changed, after it everything can be redone. A known abort leaves memory as it was, and the same
records are read again; whatever else ends a commit takes the one recovery path (`consumer.recovery`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from consumer.dead_letters import dead_letter, emptied
from consumer.errors import Aborted, UnknownOutcome, VoidStateError
from consumer.journal import Entry
from consumer.outputs import PredictionEncoder, drift_record
from consumer.ports import PollLimits, TopicPartition
from consumer.sink_rules import OutputTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumer.parts import Considered, Parts
    from consumer.ports import Batch, Clock, Output, Sink, Source
    from consumer.recovery import Notes
    from consumer.settings import Settings
    from consumer.upkeep import Upkeep
    from incremental.drift import Detection
    from incremental.learner import Learned

log = structlog.get_logger()

REPORT_EVERY_EVENTS = 2048
"""Gauges that cost something to compute are set this often."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one micro-batch came to. `committed` is false after a known abort."""

    records: int
    events: int
    rejected: int
    committed: bool
    learned: Learned | None = None
    detections: tuple[Detection, ...] = ()


class Pipeline:
    """Joins a source, a sink and the parts between them.

    `upkeep` is what a live worker does around its steps: journal, snapshots, partitions that come and go, watchdog. A
    replay of a file has none.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        sink: Sink,
        parts: Parts,
        clock: Clock,
        upkeep: Upkeep | None = None,
    ) -> None:
        self.settings, self.source, self.sink, self.parts, self.clock = settings, source, sink, parts, clock
        self.upkeep = upkeep
        self.limits = PollLimits(settings.worker.batch_events, settings.worker.poll_wait_s)
        self.encoder = PredictionEncoder(
            settings.topics.predictions, settings.prediction.top_k, parts.model.items, parts.model.types
        )
        self.events = 0  # accepted by this process
        self.records = 0
        self.stage_s: defaultdict[str, float] = defaultdict(float)  # seconds spent so far, by stage
        self._lap = clock.monotonic()
        self._reported: int | None = None  # at which of them the gauges were set

    def step(self, max_records: int | None = None) -> StepReport:
        """Process one micro-batch, of at most `max_records` if that is less than the settings say."""
        parts = self.parts
        self._begin("poll")
        batch = self.source.poll(self._limits(max_records))  # rebalances happen in here and nowhere else
        self._follow(batch)  # gained partitions bring their histories, revoked ones go
        if not batch.ranges:
            return self._idle()
        self._took("poll")
        take_back = parts.before_reading()
        considered = parts.consider(batch.records, batch.ranges, learns=self.learns)  # changes nothing else
        parts.dead_letter_limit.check(considered.reasons)  # too many bad records: nothing of them is committed
        predict_s = self._took("predict")
        outputs = self._outputs(considered)
        self._took("encode")
        if not self._commit(outputs, batch, take_back):  # ONE transaction: predictions, dead letters, journal, offsets
            return StepReport(len(batch.records), 0, 0, committed=False)
        self._took("commit")
        parts.keep(considered)  # from here on: only what is committed
        learned = parts.learn(considered)  # what predicts changes only in here
        learn_s = self._took("learn")
        self._account(batch, considered, learned)
        if self.upkeep is not None:
            self.upkeep.after_step(predict_s + learn_s)  # what a restart would have to do again
        self._took("snapshot")
        return StepReport(
            len(batch.records), len(considered.events), len(considered.rejected), True, learned, tuple(parts.unsent)
        )

    def go_on_from(self, before: Pipeline) -> None:
        """Take over the counts of a pipeline that this one replaces."""
        self.events, self.records = before.events, before.records
        self.stage_s, self._reported = before.stage_s, before._reported

    @property
    def learns(self) -> bool:
        """Whether the next micro-batch will be learned."""
        freeze = self.parts.freeze_after
        return self.settings.learning.enabled and (freeze is None or self.records < freeze)

    def _limits(self, max_records: int | None) -> PollLimits:
        if max_records is None or max_records >= self.limits.max_records:
            return self.limits
        return PollLimits(max_records, self.limits.max_wait_s)

    def _follow(self, batch: Batch) -> None:
        """Let the partitions in memory be those that are owned, each joining what is read next."""
        parts = self.parts
        parts.metrics.assigned(batch.assignment)
        parts.health.assigned(is_assigned=bool(batch.assignment) or batch.owner is not None)
        parts.health.broker_seen()
        parts.health.beat()
        if self.upkeep is not None:
            self.upkeep.follow(batch)
            return
        for partition in batch.assignment:
            parts.histories.begin(partition)

    def _idle(self) -> StepReport:
        """Nothing was read."""
        self._report_lag()
        if self.upkeep is not None:
            self.upkeep.idle()
        return StepReport(0, 0, 0, committed=True)

    def _outputs(self, considered: Considered) -> list[Output]:
        parts, topics, plan = self.parts, self.settings.topics, considered.plan
        version = f"{parts.lineage}@{plan.batch - 1}"
        outputs: list[Output] = []
        if considered.scored is not None:
            repeated = considered.scored.staged.repeated_B
            predictions = considered.scored.predictions
            outputs += self.encoder.encode(considered.events, repeated, predictions, version, plan.batch)
        outputs += [dead_letter(bad, topics.dead_letters) for bad in considered.rejected]
        outputs += [drift_record(detection, topics.drift, version) for detection in parts.unsent]
        if self.upkeep is not None:
            notes = self.upkeep.notes
            outputs.append(entry_of(parts.lineage, considered, notes).output(self.upkeep.journal_partition))
        return outputs

    def _commit(self, outputs: list[Output], batch: Batch, take_back: Callable[[], None]) -> bool:
        """Commit; after a known abort seek back and return false. An output that is too large is sent empty."""
        for _ in range(len(outputs) + 1):
            try:
                self._begin("commit")
                self.sink.commit(outputs, batch)
            except OutputTooLarge as error:
                outputs[error.index] = emptied(outputs[error.index])
                continue
            except Aborted as error:
                log.warning("transaction aborted, reading the records again", reason=str(error))
                self.parts.metrics.not_committed("aborted")
                take_back()
                self.source.seek_back(batch)
                return False
            except VoidStateError as error:
                self.parts.metrics.not_committed("unknown" if isinstance(error, UnknownOutcome) else "aborted")
                take_back()
                raise
            finally:
                self._begin("step")
            if self.upkeep is not None:
                self.upkeep.committed()
            return True
        raise Aborted("an output is too large for its topic even when it is sent empty")

    def _account(self, batch: Batch, considered: Considered, learned: Learned) -> None:
        """Tell the metrics what happened."""
        parts, metrics, now = self.parts, self.parts.metrics, self.clock.now()
        events = considered.events
        self.events += len(events)
        self.records += len(batch.records)
        metrics.committed(len(events))
        metrics.events("rejected", len(considered.rejected))
        for bad in considered.rejected:
            metrics.dead_letter(bad.error.reason)
        parts.count(considered)
        if considered.scored is not None:
            staged = considered.scored.staged
            repeated = sum(staged.repeated_B)
            late = sum(event.late and not again for event, again in zip(events, staged.repeated_B, strict=True))
            metrics.events("accepted", len(events) - repeated - late)
            metrics.events("late", late)
            metrics.events("repeated", repeated)
            stamps = np.array([event.record.timestamp_ms for event in events], np.float64)
            metrics.latency(now - staged.contexts.event_time_B, np.where(stamps < 0, np.nan, now - stamps / 1000.0))
        parts.report_drift(learned, considered.plan)
        parts.report_learning(learned, considered.plan)
        self._report_lag({TopicPartition(r.topic, r.partition): r.timestamp_ms for r in batch.records})
        if self._reported is None or self.events - self._reported >= REPORT_EVERY_EVENTS:
            self._reported = self.events
            parts.report_quality()

    def _report_lag(self, read_ms: Mapping[TopicPartition, int] | None = None) -> None:
        """Tell how many records wait, and how old the last one read is, by its broker timestamp; 0 where none waits."""
        waiting, now = self.source.lag(), self.clock.now()
        ages = {partition: max(0.0, now - stamp / 1000.0) for partition, stamp in (read_ms or {}).items() if stamp >= 0}
        self.parts.metrics.lag(waiting, ages | {partition: 0.0 for partition, count in waiting.items() if not count})

    def _begin(self, phase: str) -> None:
        if phase == "poll":
            self._lap = self.clock.monotonic()
        if self.upkeep is not None:
            self.upkeep.enter(phase)

    def _took(self, stage: str) -> float:
        """End a stage; returns its seconds."""
        now = self.clock.monotonic()
        seconds, self._lap = now - self._lap, now
        self.parts.metrics.observe_step(stage, seconds)
        self.stage_s[stage] += seconds
        return seconds


def entry_of(lineage: str, considered: Considered, notes: Notes) -> Entry:
    """Return the journal entry of a micro-batch."""
    return Entry(
        lineage,
        considered.plan,
        considered.ranges,
        tuple(notes.gains),
        tuple(notes.dropped),
        tuple(sorted(notes.rewound.items())),
        tuple(notes.skipped),
        notes.begun_from,
    )


__all__: Sequence[str] = ["Pipeline", "StepReport", "entry_of"]
