"""What the tests of the core share: small settings, events made by hand, and a worker without its loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from consumer.clock import ManualClock
from consumer.describe_settings import identity
from consumer.errors import StateError
from consumer.events import DEFAULT_TYPE, Event, event_of, key64
from consumer.health import HealthState
from consumer.histories import Histories
from consumer.memory_io import MemoryLog, MemoryPast, MemorySink, MemorySource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.ports import Record, TopicPartition
from consumer.settings import Settings
from consumer.snapshots import Snapshots
from consumer.worker import Doors
from consumer.worker import Worker as LiveWorker
from incremental.learner import Learner
from model.model import Model
from model.predictor import Predictor
from model.state import same

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumer.histories import Staged
    from consumer.pipeline import StepReport
    from incremental.learner import Learned
    from incremental.plan import LearnPlan
    from model.predictor import Predictions, Scores
    from model.state import State

TOPIC = "events"
SMALL: dict[str, dict[str, Any]] = {
    "history": {"length": 12},
    "model": {"dim": 8, "layers": 1, "heads": 2, "context": 8, "dropout": 0.1, "max_items": 1000, "proposals": 20},
    "learning": {"negatives": 64, "rehearsal_windows": 128, "rehearsal_capacity": 50, "rehearsal_length": 8},
    "worker": {"batch_events": 16},
    "metrics": {"enabled": False},
}


def small_settings(**sections: dict[str, Any]) -> Settings:
    """Return settings that make everything small; each section given is laid over these."""
    names = SMALL.keys() | sections.keys()
    return Settings.model_validate({name: SMALL.get(name, {}) | sections.get(name, {}) for name in names})


_offsets = count()


def event(
    user: str | int,
    item: str | int,
    time: float = nan,
    *,
    kind: str = DEFAULT_TYPE,
    partition: int = 0,
    event_id: str | None = None,
    session: str | None = None,
    late: bool = False,
) -> Event:
    """Return one accepted event, as the decoder would."""
    stamp = -1 if isnan(time) else round(time * 1000)
    return event_of(
        Record(TOPIC, partition, next(_offsets), stamp, str(user).encode(), b"{}"),
        user,
        item,
        kind,
        time,
        session_key=key64(session) if session else 0,
        event_key=key64(event_id) if event_id else 0,
        late=late,
    )


def random_events(
    n: int,
    *,
    seed: int = 0,
    users: int = 8,
    items: int = 30,
    kinds: Sequence[str] = ("view", "buy"),
    timed: bool = True,
) -> list[Event]:
    """Return a stream without any pattern."""
    draw = np.random.default_rng(seed)
    time, events = 1_700_000_000.0, []
    for _ in range(n):
        time += float(draw.exponential(60.0))
        user, item = f"u{draw.integers(users)}", int(draw.integers(items))
        events.append(event(user, item, time if timed else nan, kind=str(draw.choice(kinds))))
    return events


@dataclass(frozen=True, slots=True)
class Step:
    """Everything that one micro-batch was and led to."""

    staged: Staged
    scores: Scores
    predictions: Predictions
    plan: LearnPlan
    learned: Learned


class Worker:
    """Histories, model, predictor and learner, without source, sink and evaluation."""

    def __init__(self, settings: Settings | None = None, partitions: Iterable[int] = (0,)) -> None:
        self.settings = settings or small_settings()
        self.histories = Histories(self.settings.history, self.settings.input)
        for partition in partitions:
            self.histories.begin(TopicPartition(TOPIC, partition))
        self.model = Model(self.settings.model, self.settings.worker.seed)
        self.predictor = Predictor(self.model)
        self.learner = Learner(
            self.model,
            self.settings.learning,
            self.settings.prediction,
            self.settings.policy,
            self.settings.worker.seed,
        )

    def look(self, events: Sequence[Event], *, exclude_seen: bool = False) -> tuple[Staged, Scores, Predictions]:
        """Stage and predict; changes nothing."""
        staged = self.histories.stage(events)
        scores, predictions = self.predictor.predict(staged.contexts, exclude_seen=exclude_seen)
        return staged, scores, predictions

    def step(self, events: Sequence[Event], *, learn: bool = True) -> Step:
        """Do what `Pipeline.step` does between poll and snapshot."""
        staged = self.histories.stage(events)
        plan = self.learner.plan(staged.contexts, learn=learn)
        staged = replace(staged, contexts=self.learner.show(staged.contexts, plan))
        scores, predictions = self.predictor.predict(staged.contexts, exclude_seen=plan.exclude_seen)
        self.histories.apply(staged, predictions.keys_BK)
        learned = self.learner.learn(staged.contexts, scores, plan, self.learner.left_out(plan))
        return Step(staged, scores, predictions, plan, learned)

    def run(self, events: Sequence[Event], batch: int = 16) -> list[Step]:
        """Step through a stream."""
        return [self.step(events[start : start + batch]) for start in range(0, len(events), batch)]


def same_state(left: State, right: State) -> bool:
    """Whether two states hold the same bytes and values, also after a trip through JSON."""
    return same(left.arrays, right.arrays) and orjson.dumps(left.values) == orjson.dumps(right.values)


def record_value(**fields: Any) -> bytes:
    """Return an event as a record's value."""
    return orjson.dumps(fields)


class MemoryStore:
    """A StateStore in a dict. `fail_after`: so many more writes succeed, then StateError."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.written: dict[str, int] = {}
        self.fail_after: int | None = None

    def write(self, name: str, data: bytes) -> None:
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise StateError(f"{name} cannot be written: injected")
            self.fail_after -= 1
        self.blobs[name] = data
        self.written[name] = len(self.written)

    def modified(self, name: str) -> float:
        self.read(name)
        return float(self.written[name])

    def read(self, name: str) -> bytes:
        if name not in self.blobs:
            raise StateError(f"{name} cannot be read: there is no such file")
        return self.blobs[name]

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.blobs if name.startswith(prefix))

    def delete(self, name: str) -> None:
        self.blobs.pop(name, None)


class Stream:
    """A log in memory with a pipeline over it: what `tidemill run` is, without the process."""

    def __init__(self, settings: Settings | None = None, *, partitions: int = 1, log: MemoryLog | None = None) -> None:
        self.settings = settings or small_settings()
        topics = dict.fromkeys(("predictions", "dead-letters", "drift", "journal"), 1)
        self.log = log or MemoryLog({TOPIC: partitions} | topics)
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.start()

    def start(self) -> None:
        """Begin as a new process would, from the newest snapshot where there is one."""
        settings = self.settings
        self.snapshots = Snapshots(self.store, settings.kafka.instance, identity(settings), settings.snapshot.keep)
        self.metrics = Metrics(self.clock)
        health = HealthState(self.clock, 60.0)
        self.parts = Parts(settings, self.metrics, health)
        self.worker = LiveWorker(settings, self.parts, self.snapshots, self.clock, self._doors)
        self.pipeline = self.worker.start()

    def _doors(self) -> Doors:
        self.source = MemorySource(self.log, TOPIC, "tidemill", until_end=True)
        self.sink = MemorySink(self.log, "tidemill")
        return Doors(self.source, self.sink, MemoryPast(self.log))

    def put(
        self, *values: bytes | None, key: bytes = b"u", partition: int = 0, time_ms: int = 1_700_000_000_000
    ) -> None:
        """Append raw records."""
        for value in values:
            self.log.append(TOPIC, key, value, partition=partition, timestamp_ms=time_ms)

    def put_events(self, events: Iterable[Event]) -> None:
        """Append events as plain JSON."""
        for one in events:
            fields = {"user_id": one.user_id, "item_id": one.item_id, "event_type": one.event_type}
            if not isnan(one.event_time):
                fields["event_time"] = one.event_time
            stamp = 1_700_000_000_000 if isnan(one.event_time) else round(one.event_time * 1000)
            key = str(one.user_id).encode()
            self.put(record_value(**fields), key=key, partition=one.record.partition, time_ms=stamp)

    def drain(self) -> list[StepReport]:
        """Step until everything that waits is done."""
        reports = [self.pipeline.step()]
        while not self.source.drained:
            reports.append(self.pipeline.step())
        return reports

    def bodies(self, topic: str = "predictions") -> list[dict[str, Any]]:
        """Return what a reader of a topic sees, decoded."""
        return [orjson.loads(record.value or b"null") for record in self.log.records(topic)]

    def sources(self) -> list[tuple[int, int]]:
        """Return (partition, offset) of every record that was answered for, by a prediction or a dead letter."""
        answered = [(body["source"]["partition"], body["source"]["offset"]) for body in self.bodies()]
        for record in self.log.records("dead-letters"):
            headers = dict(record.headers)
            where = (headers[f"__streams.errors.{name}"] or b"" for name in ("partition", "offset"))
            answered.append((int(next(where)), int(next(where))))
        return sorted(answered)

    def state(self) -> State:
        """Return everything that the worker holds."""
        state = self.parts.state()
        for partition, part in self.parts.histories.partitions.items():
            state.put(f"histories-{partition.partition}", part.state())
        state.values["next_offsets"] = sorted([*tp, offset] for tp, offset in self.parts.next_offsets.items())
        return state
