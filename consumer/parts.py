"""The parts between source and sink, and the two halves of a micro-batch: consider, which changes nothing, and absorb.

Live micro-batches, recovery and `--as-run` all go through these two, so they come to the same state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from consumer.dead_letters import DeadLetterLimit, reasons_of
from consumer.decode import REASONS, Decoder
from consumer.events import segment_of
from consumer.histories import Histories
from consumer.mapping import feature_hint
from consumer.outputs import detection_from, detection_values
from consumer.ports import TopicPartition
from consumer.snapshots import Image
from consumer.sound import require_sound_predictions, require_sound_state
from incremental.champion import verdicts_told
from incremental.degradation import RECOVERED
from incremental.evaluation import Evaluation
from incremental.learner import Learner
from incremental.plan import active
from incremental.policy import ACTIONS
from incremental.quarantine import NOBODY, among, hidden_users
from model.model import Model
from model.predictor import Predictor
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumer.decode import Rejected
    from consumer.events import Event
    from consumer.health import HealthState
    from consumer.histories import Staged
    from consumer.metrics import Metrics
    from consumer.ports import OffsetRange, Record
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot
    from incremental.drift import Detection
    from incremental.learner import Learned
    from incremental.plan import LearnPlan
    from model.predictor import Predictions, Scores

log = structlog.get_logger()

UNSEEN_EVENTS = 10_000
"""Without the feature of `drift.segment` from the start on: then it is said that there may be none."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The events of a micro-batch, joined with their histories, ranked, and predicted from."""

    staged: Staged
    scores: Scores
    predictions: Predictions


@dataclass(frozen=True, slots=True)
class Considered:
    """A micro-batch before its commit: what it says, and what will be learned. `scored` is None without events.

    `reasons` say of each record why it was rejected, None where it was accepted.
    """

    ranges: tuple[OffsetRange, ...]
    events: list[Event]
    rejected: list[Rejected]
    reasons: list[str | None]
    plan: LearnPlan
    scored: Scored | None


class Parts:
    """Decoder, histories, predictor, learner, evaluation; what they hold is what a snapshot holds."""

    def __init__(self, settings: Settings, metrics: Metrics, health: HealthState) -> None:
        self.settings, self.metrics, self.health = settings, metrics, health
        self.lineage = settings.kafka.instance
        self.freeze_after: int | None = None
        self.decoder = Decoder(settings.input)
        self.dead_letter_limit = DeadLetterLimit(settings.input)
        self.histories = Histories(settings.history, settings.input)
        self.model = Model(settings.model, settings.worker.seed)
        self.predictor = Predictor(self.model)
        self.learner = Learner(
            self.model, settings.learning, settings.prediction, settings.policy, settings.worker.seed
        )
        self.evaluation = Evaluation(
            settings.evaluation,
            settings.drift,
            self.model.mixture.names,
            settings.history.length,
            settings.model,
            settings.prediction.top_k,
        )
        self.events = 0  # accepted since the lineage began
        self.unsent: list[Detection] = []  # of the last micro-batch: they leave with the next
        self.rejected: Counter[str] = Counter()  # by reason
        self.flagged: Counter[str] = Counter()  # accepted events, by flag
        self.next_offsets: dict[TopicPartition, int] = {}
        # events without it since this process began; None once there was one, or it was said
        self._without_segment: int | None = 0
        metrics.watch_degraded(lambda: self.evaluation.degradation.since is not None)
        metrics.begin_at_zero("dead_letters", sorted(REASONS))
        metrics.begin_at_zero("drift_detected", self.evaluation.watched)
        metrics.begin_at_zero("adaptations", ACTIONS if settings.policy.enabled and settings.drift.enabled else ())
        metrics.build_info({name: version(name) for name in ("tidemill", "torch", "kafka-python")})

    @property
    def batch(self) -> int:
        """The last micro-batch that was absorbed."""
        return self.learner.batch

    def consider(
        self,
        records: Sequence[Record],
        ranges: tuple[OffsetRange, ...],
        *,
        learns: bool = True,
        plan: LearnPlan | None = None,
    ) -> Considered:
        """Decode, join with histories, decide what to learn (unless `plan` says it), score and predict.

        Raises DamagedMemory.
        """
        events, rejected = self.decoder.decode_all(records)
        reasons = reasons_of(records, rejected)
        if not events:
            return Considered(ranges, events, rejected, reasons, plan or self.learner.plan_nothing(), None)
        staged = self.histories.stage(events)
        plan = plan or self.learner.plan(staged.contexts, learn=learns)
        staged = replace(staged, contexts=self.learner.show(staged.contexts, plan))
        scores, predictions = self.predictor.predict(staged.contexts, exclude_seen=plan.exclude_seen)
        require_sound_predictions(scores, predictions)
        return Considered(ranges, events, rejected, reasons, plan, Scored(staged, scores, predictions))

    def keep(self, considered: Considered) -> None:
        """After the commit: the new events become history, and the limit on bad records takes note."""
        self.dead_letter_limit.observe(considered.reasons)
        for span in considered.ranges:
            self.next_offsets[span.partition] = max(span.stop, self.next_offsets.get(span.partition, 0))
        if considered.scored is not None:
            self.histories.apply(considered.scored.staged, considered.scored.predictions.keys_BK)

    def count(self, considered: Considered) -> None:
        """Count what was rejected, and what was accepted with a flag."""
        self.rejected.update(bad.error.reason for bad in considered.rejected)
        if considered.scored is not None:
            repeated = sum(considered.scored.staged.repeated_B)
            late, future = (sum(getattr(event, flag) for event in considered.events) for flag in ("late", "future"))
            self.flagged.update({"late": late, "future": future, "repeated": int(repeated)})

    def learn(self, considered: Considered) -> Learned:
        """Evaluate, then learn; what predicts changes only in here."""
        plan, scored = considered.plan, considered.scored
        if scored is None:
            self.unsent = []
            return self.learner.pass_over(plan)
        contexts = scored.staged.contexts
        left_out = hidden_users(contexts) if plan.learn else NOBODY
        found = self.evaluation.update(
            contexts,
            scored.scores,
            exclude_seen=plan.exclude_seen,
            event=self.events,
            watched_B=~among(contexts.event_user_B, left_out),
            segment_B=self._segments(considered.events),
        )
        learned = self.learner.learn(contexts, scored.scores, plan, left_out)
        # who does not learn does not act
        answered = self.learner.adaptation.react(found, self.evaluation.signals.users) if plan.learn else found
        self.unsent = answered + verdicts_told(learned.verdicts, self.events)
        self.events += len(considered.events)
        return learned

    def _segments(self, events: Sequence[Event]) -> list[str | None]:
        feature = self.settings.drift.segment
        if not feature:
            return []
        segments = [segment_of(event, feature) for event in events]
        if any(segments):
            self._without_segment = None
        elif self._without_segment is not None:
            self._without_segment += len(segments)
            if self._without_segment >= UNSEEN_EVENTS:
                log.warning(
                    "no event has a segment by the feature of drift.segment", hint=feature_hint(feature, events)
                )
                self._without_segment = None
        return segments

    def pass_over(self, records: Sequence[Record], ranges: tuple[OffsetRange, ...], plan: LearnPlan) -> Considered:
        """Make records history without predicting or learning from them, and count their micro-batch."""
        events, rejected = self.decoder.decode_all(records)
        if events:
            self.histories.apply(self.histories.stage(events), None)
        considered = Considered(ranges, events, rejected, reasons_of(records, rejected), plan, None)
        self.keep(considered)
        self.unsent = []
        self.learner.pass_over(plan)
        return considered

    def fold(self, records: Sequence[Record], span: OffsetRange) -> None:
        """Take records into the histories without scoring or learning: how a gained partition catches up."""
        events, _ = self.decoder.decode_all(records)
        if events:
            self.histories.apply(self.histories.stage(events), None)
        self.next_offsets[span.partition] = span.stop

    def begin(self, partition: TopicPartition, snapshot: Snapshot | None) -> None:
        """Begin a partition's histories, from a snapshot that holds them or empty; what was held before goes.

        Raises StateError where the snapshot cannot be read, and has changed nothing then.
        """
        state = None if snapshot is None else snapshot.histories(partition)
        self.drop(partition)
        self.histories.begin(partition)
        if snapshot is not None and state is not None:
            self.histories.partitions[partition].load(state)
            self.next_offsets[partition] = snapshot.positions[partition].next_offset

    def drop(self, partition: TopicPartition) -> None:
        """Let go of a partition."""
        self.histories.drop(partition)
        self.next_offsets.pop(partition, None)

    def restore(self, snapshot: Snapshot, *, with_histories: bool = True) -> None:
        """Become what a snapshot holds; without the histories, and the count of bad records: begin from what was learned."""
        worker = snapshot.worker()
        self.learner.load(worker.take("learner"))
        self.evaluation.load(worker.take("evaluation"))
        self.metrics.begin_at_zero("drift_detected_in_segment", self.evaluation.segments)
        self.decoder.load_state(worker.values["decoder"])
        self.events = int(worker.values["events"])
        self.unsent = [detection_from(values) for values in worker.values["unsent"]]
        if with_histories:
            self.dead_letter_limit.load(worker.take("dead_letters"))
            for partition in snapshot.positions:
                self.begin(partition, snapshot)
            for topic, partition_id, until in worker.values.get("rewound", ()):
                self.histories.rewound[TopicPartition(topic, partition_id)] = until

    def before_reading(self) -> Callable[[], None]:
        """Return what takes back what reading a micro-batch changes: the unit of times, and guests of the vocabulary."""
        decoder = self.decoder.state()

        def take_back() -> None:
            self.decoder.load_state(decoder)
            self.model.items.see_off()

        return take_back

    def image(self, journal_offset: int, notes: Mapping[str, Any] | None = None) -> Image:
        """Copy everything that a snapshot holds; `notes` are what the next journal entry says. Raises DamagedMemory."""
        histories = {
            partition: (part.state(), self.next_offsets.get(partition, 0))
            for partition, part in self.histories.partitions.items()
        }
        worker = self.state()
        require_sound_state(worker)
        return Image(self.batch, journal_offset, worker, histories, notes or {})

    def state(self) -> State:
        """Return the worker's state without the histories."""
        values = {
            "decoder": self.decoder.state(),
            "events": self.events,
            "unsent": [detection_values(detection) for detection in self.unsent],
            "rewound": [[*partition, until] for partition, until in sorted(self.histories.rewound.items())],
        }
        state = State(values=values)
        state.put("learner", self.learner.state())
        state.put("evaluation", self.evaluation.state())
        state.put("dead_letters", self.dead_letter_limit.state())
        return state

    def report_learning(self, learned: Learned, plan: LearnPlan) -> None:
        """Set what changes with every step."""
        if learned.loss is None:
            self.metrics.learned("skipped")
        else:
            self.metrics.learned("learned" if learned.loss.applied else "nonfinite", plan.learning_rate)
        self.metrics.vocabulary(self.model.items.size, learned.admitted, learned.evicted)

    def report_drift(self, learned: Learned, plan: LearnPlan) -> None:
        """Tell what was detected, what is done about it, and what came of that."""
        degradation = self.evaluation.degradation
        self.metrics.begin_at_zero("drift_detected_in_segment", self.evaluation.segments)
        for found in self.unsent:
            where = {"segment": found.segment} if found.segment else {}
            log.info(
                "drift", signal=found.signal, detector=found.detector, at=found.event, action=found.action, **where
            )
            if found.is_alarm:
                self.metrics.drift(found.signal, found.segment)
            elif found.signal == RECOVERED:
                self.metrics.recovered_from_drift(found.event - degradation.lasted, degradation.lasted)
            if found.event == degradation.since:
                self.metrics.worse_since(found.event)
        under_way = active(plan) | {"keep_champion": self.learner.adaptation.guarded} if plan.learn else {}
        self.metrics.adapted(plan.actions, under_way, learned.quarantined)

    def report_quality(self) -> None:
        """Set the gauges of quality: all methods lately, the mixture's weights, users."""
        prequential = self.evaluation.prequential
        for method in prequential.methods:
            recent = prequential.recent(method)
            if recent:
                hits, ndcg = {10: recent["hr@10"]}, {10: recent["ndcg@10"]}
                self.metrics.prequential(method, hits, ndcg, recent["log_loss"])
        for head, methods in prequential.recent_heads().items():
            for method, values in methods.items():
                if "log_loss" in values:
                    self.metrics.prequential_head(head, method, values["log_loss"])
        self.metrics.mixture(self.model.mixture.overall())
        self.metrics.histories(self.histories.users)
