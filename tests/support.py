"""What the tests of the core share: small settings, events made by hand, and a worker without its loop."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from consumer.events import DEFAULT_TYPE, Event, key64
from consumer.histories import Histories
from consumer.ports import Record, TopicPartition
from consumer.settings import Settings
from incremental.learner import Learner
from model.model import Model
from model.predictor import Predictor
from model.state import same

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumer.histories import Staged
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
    return Event(
        record=Record(TOPIC, partition, next(_offsets), stamp, str(user).encode(), b"{}"),
        user_id=user,
        item_id=item,
        event_type=kind,
        event_time=time,
        user_key=key64(user),
        item_key=key64(item),
        type_key=key64(kind),
        session_key=key64(session) if session else 0,
        event_key=key64(event_id) if event_id else 0,
        late=late,
    )


def random_events(
    n: int, *, seed: int = 0, users: int = 8, items: int = 30, kinds: Sequence[str] = ("view", "buy"), timed: bool = True
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
        self.histories.assign({TopicPartition(TOPIC, partition) for partition in partitions})
        self.model = Model(self.settings.model, self.settings.worker.seed)
        self.predictor = Predictor(self.model)
        self.learner = Learner(
            self.model, self.settings.learning, self.settings.prediction, self.settings.worker.seed
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
        scores, predictions = self.predictor.predict(staged.contexts, exclude_seen=plan.exclude_seen)
        self.histories.apply(staged, predictions.keys_BK)
        learned = self.learner.learn(staged.contexts, scores, plan)
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
