"""The parts between source and sink, built from the settings, and their state as one thing that can be saved."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from consumer.dead_letters import DeadLetterLimit
from consumer.decode import Decoder
from consumer.errors import StateError
from consumer.histories import Histories
from incremental.evaluation import Evaluation
from incremental.learner import Learner
from model.model import Model
from model.predictor import Predictor
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from consumer.health import HealthState
    from consumer.metrics import Metrics
    from consumer.ports import Batch, Clock, TopicPartition
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot, Snapshots
    from incremental.learner import Learned
    from incremental.plan import LearnPlan

log = structlog.get_logger()


class Parts:
    """Decoder, histories, predictor, learner, evaluation; what they hold is what a snapshot holds."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        health: HealthState,
        clock: Clock,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.settings, self.metrics, self.health, self.clock = settings, metrics, health, clock
        self.snapshots = snapshots
        self.lineage = settings.kafka.instance
        self.freeze_after: int | None = None
        self.decoder = Decoder(settings.input)
        self.dead_letter_limit = DeadLetterLimit(settings.input)
        self.histories = Histories(settings.history, settings.input)
        self.model = Model(settings.model, settings.worker.seed)
        self.predictor = Predictor(self.model)
        self.learner = Learner(self.model, settings.learning, settings.prediction, settings.worker.seed)
        self.evaluation = Evaluation(
            settings.evaluation, self.model.mixture.names, settings.history.length, settings.model.epsilon
        )
        self.rejected: Counter[str] = Counter()
        self.next_offsets: dict[TopicPartition, int] = {}
        self._restored: Snapshot | None = None
        metrics.build_info({name: version(name) for name in ("tidemill", "torch", "kafka-python")})

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot holds; histories follow when their partitions are assigned."""
        worker = snapshot.worker()
        self.learner.load(worker.take("learner"))
        self.evaluation.load(worker.take("evaluation"))
        self.decoder.load_state(worker.values["decoder"])
        self._restored = snapshot

    def before_reading(self) -> Callable[[], None]:
        """Return what takes back what reading a micro-batch changes: the unit of times, the run of bad records."""
        decoder, limit = self.decoder.state(), self.dead_letter_limit.copy()

        def take_back() -> None:
            self.decoder.load_state(decoder)
            self.dead_letter_limit = limit

        return take_back

    def follow(self, assignment: AbstractSet[TopicPartition]) -> None:
        """Begin or restore the histories of gained partitions, drop those of revoked ones."""
        gained, revoked = self.histories.assign(assignment)
        for partition in revoked:
            self.next_offsets.pop(partition, None)
        for partition in sorted(gained):
            if self._restored is not None and partition in self._restored.positions:
                self.histories.partitions[partition].load(self._restored.histories(partition))
                self.next_offsets[partition] = self._restored.positions[partition].next_offset
        if gained or revoked:
            log.info("partitions assigned", owned=len(assignment), gained=len(gained), revoked=len(revoked))
        self.health.restored()

    def advance(self, batch: Batch) -> None:
        """Note how far each partition's histories go; say where they do not join what was read."""
        for span in batch.ranges:
            held = self.next_offsets.get(span.partition)
            if held is not None and held != span.start:
                log.warning(
                    "histories do not join the input",
                    topic=span.partition.topic,
                    partition=span.partition.partition,
                    histories_end=held,
                    input_begins=span.start,
                )
            self.next_offsets[span.partition] = span.stop

    def maybe_save(self, batch: int) -> None:
        """Save where the settings ask for it after this micro-batch."""
        every = self.settings.snapshot.every_batches
        if every and batch % every == 0:
            self.save()

    def save(self) -> None:
        """Write a snapshot; a failure is counted and said, and the worker goes on with the older ones."""
        try:
            self.write_snapshot()
        except StateError as error:
            log.error("snapshot failed", reason=str(error))  # noqa: TRY400 - the reason is in the message
            self.metrics.snapshot_failed()

    def write_snapshot(self) -> None:
        """Write a snapshot, where there is a place for it. Raises StateError."""
        if self.snapshots is None:
            return
        begin = self.clock.monotonic()
        histories = {
            partition: (part.state(), self.next_offsets.get(partition, 0))
            for partition, part in self.histories.partitions.items()
        }
        size = self.snapshots.save(self.learner.batch, self.state(), histories)
        seconds = self.clock.monotonic() - begin
        self.metrics.snapshot(seconds, size)
        log.info("snapshot saved", batch=self.learner.batch, bytes=size, seconds=round(seconds, 2))

    def state(self) -> State:
        """Return the worker's state without the histories."""
        state = State(values={"decoder": self.decoder.state()})
        state.put("learner", self.learner.state())
        state.put("evaluation", self.evaluation.state())
        return state

    def report_learning(self, learned: Learned, plan: LearnPlan) -> None:
        """Set what changes with every step."""
        if learned.loss is None:
            self.metrics.learned("skipped")
        else:
            self.metrics.learned("learned" if learned.loss.applied else "nonfinite", plan.learning_rate)
        self.metrics.vocabulary(self.model.items.size, learned.admitted, learned.evicted)

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
