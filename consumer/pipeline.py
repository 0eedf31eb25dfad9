"""The worker's loop, one micro-batch at a time: the whole of Tidemill in one function, `Pipeline.step`.

Test, then train: every event is scored by the state at the start of its micro-batch, then learned. Outputs leave
before learning starts. The commit is the only decision point: before it nothing has changed, after it the rest follows.
A known abort leaves memory as it was, and the same records are read again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from consumer.dead_letters import accepted_flags, dead_letter, emptied
from consumer.errors import Aborted, VoidStateError
from consumer.outputs import PredictionEncoder, drift_record
from consumer.ports import PollLimits
from consumer.sink_rules import OutputTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.decode import Rejected
    from consumer.events import Event
    from consumer.histories import Staged
    from consumer.parts import Parts
    from consumer.ports import Batch, Clock, Output, Sink, Source
    from consumer.settings import Settings
    from incremental.drift import Detection
    from incremental.learner import Learned
    from incremental.plan import LearnPlan
    from model.predictor import Predictions

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
    """Joins a source, a sink and the parts between them; holds no state but what waits for the next transaction."""

    def __init__(self, settings: Settings, source: Source, sink: Sink, parts: Parts, clock: Clock) -> None:
        self.settings, self.source, self.sink, self.parts, self.clock = settings, source, sink, parts, clock
        self.limits = PollLimits(settings.worker.batch_events, settings.worker.poll_wait_s)
        self.encoder = PredictionEncoder(
            settings.topics.predictions, settings.prediction.top_k, parts.model.items, parts.model.types
        )
        self.events = 0  # accepted so far
        self.records = 0
        self._drift: list[Output] = []  # detected in the last micro-batch, sent with the next
        self.stage_s: defaultdict[str, float] = defaultdict(float)  # seconds spent so far, by stage
        self._lap = clock.monotonic()
        self._reported = 0

    def step(self, max_records: int | None = None) -> StepReport:
        """Process one micro-batch, of at most `max_records` if that is less than the settings say."""
        parts = self.parts
        self._lap = self.clock.monotonic()
        batch = self.source.poll(self._limits(max_records))  # rebalances happen in here and nowhere else
        self._follow(batch)
        if not batch.records:
            return self._pass_over(batch)
        take_back = parts.before_reading()
        events, rejected = parts.decoder.decode_all(batch.records)  # a bad record becomes a dead letter
        self._judge(batch, rejected)
        staged = parts.histories.stage(events)  # changes nothing yet
        contexts = staged.contexts
        plan = parts.learner.plan(contexts, learn=self.learns)  # a pure decision
        self._took("decode")
        scores, predictions = parts.predictor.predict(contexts, exclude_seen=plan.exclude_seen)
        self._took("predict")
        outputs = self._outputs(events, rejected, staged, predictions, plan)
        self._took("encode")
        if not self._commit(outputs, batch):  # ONE transaction: predictions, dead letters, drift, offsets
            take_back()
            return StepReport(len(batch.records), 0, 0, committed=False)
        self._took("commit")
        parts.histories.apply(staged, predictions.keys_BK)  # from here on: only what is committed
        parts.advance(batch)
        detections = parts.evaluation.update(contexts, scores, exclude_seen=plan.exclude_seen, event=self.events)
        self._took("evaluate")
        learned = parts.learner.learn(contexts, scores, plan)  # what predicts changes only in here
        self._took("learn")
        self._account(batch, events, rejected, staged, detections, learned, plan)
        parts.maybe_save(plan.batch)
        self._took("snapshot")
        return StepReport(len(batch.records), len(events), len(rejected), True, learned, tuple(detections))

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
        """Take over gained partitions, let go of revoked ones."""
        self._took("poll")
        self.parts.metrics.assigned(batch.assignment)
        self.parts.health.assigned(is_assigned=bool(batch.assignment) or batch.owner is not None)
        self.parts.health.broker_seen()
        self.parts.health.beat()
        self.parts.follow(batch.assignment)

    def _pass_over(self, batch: Batch) -> StepReport:
        """No records; positions may still have moved, past transaction markers."""
        committed = not batch.ranges or self._commit([*self._drift], batch)
        if committed:
            self.parts.advance(batch)
        self.parts.metrics.lag(self.source.lag())
        return StepReport(0, 0, 0, committed)

    def _judge(self, batch: Batch, rejected: Sequence[Rejected]) -> None:
        reasons = [bad.error.reason for bad in rejected]
        self.parts.dead_letter_limit.observe(accepted_flags(batch.records, rejected), reasons)

    def _outputs(
        self,
        events: Sequence[Event],
        rejected: Sequence[Rejected],
        staged: Staged,
        predictions: Predictions,
        plan: LearnPlan,
    ) -> list[Output]:
        version = f"{self.parts.lineage}@{plan.batch - 1}"
        outputs = self.encoder.encode(events, staged.repeated_B, predictions, version, plan.batch)
        outputs += [dead_letter(bad, self.settings.topics.dead_letters) for bad in rejected]
        return outputs + self._drift

    def _commit(self, outputs: list[Output], batch: Batch) -> bool:
        """Commit; after a known abort seek back and return false. An output that is too large is sent empty."""
        for _ in range(len(outputs) + 1):
            try:
                self.sink.commit(outputs, batch)
            except OutputTooLarge as error:
                outputs[error.index] = emptied(outputs[error.index])
                continue
            except Aborted as error:
                log.warning("transaction aborted, reading the records again", reason=str(error))
                self.parts.metrics.not_committed("aborted")
                self.source.seek_back(batch)
                return False
            except VoidStateError:
                self.parts.metrics.not_committed("unknown")
                raise
            self._drift = []
            return True
        raise Aborted("an output is too large for its topic even when it is sent empty")

    def _account(
        self,
        batch: Batch,
        events: Sequence[Event],
        rejected: Sequence[Rejected],
        staged: Staged,
        detections: Sequence[Detection],
        learned: Learned,
        plan: LearnPlan,
    ) -> None:
        """Tell the metrics what happened."""
        metrics, now = self.parts.metrics, self.clock.now()
        self.events += len(events)
        self.records += len(batch.records)
        repeated = sum(staged.repeated_B)
        late = sum(event.late and not again for event, again in zip(events, staged.repeated_B, strict=True))
        metrics.events("accepted", len(events) - repeated - late)
        metrics.events("late", late)
        metrics.events("repeated", repeated)
        metrics.events("rejected", len(rejected))
        metrics.committed(len(events))
        for bad in rejected:
            metrics.dead_letter(bad.error.reason)
            self.parts.rejected[bad.error.reason] += 1
        stamps = np.array([event.record.timestamp_ms for event in events], np.float64)
        metrics.latency(now - staged.contexts.event_time_B, np.where(stamps < 0, np.nan, now - stamps / 1000.0))
        for detection in detections:
            metrics.drift(detection.signal)
            self._drift.append(
                drift_record(detection, self.settings.topics.drift, f"{self.parts.lineage}@{plan.batch}")
            )
            log.info("drift", signal=detection.signal, detector=detection.detector, at=detection.event)
        self.parts.report_learning(learned, plan)
        metrics.lag(self.source.lag())
        if self.events - self._reported >= REPORT_EVERY_EVENTS:
            self._reported = self.events
            self.parts.report_quality()

    def _took(self, stage: str) -> None:
        now = self.clock.monotonic()
        self.parts.metrics.observe_step(stage, now - self._lap)
        self.stage_s[stage] += now - self._lap
        self._lap = now
