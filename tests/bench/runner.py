"""The worker's own steps over a log, without source and sink: what it runs is `Parts.consider`, `keep` and `learn`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from consumer.clock import SystemClock
from consumer.events import event_of
from consumer.health import HealthState
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.ports import OffsetRange, Record, TopicPartition

PARTITION = TopicPartition("events", 0)


class Decoded:
    """Stands where the decoder stands: the records are events already."""

    def decode_all(self, records):
        return list(records), []

    def state(self):
        return {}

    def load_state(self, state):
        del state


@dataclass
class Trace:
    """What came of each event, in stream order: `scored`, `hit` @10; detections; how many were not learned as bots'."""

    hit: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    detections: list = field(default_factory=list)
    quarantined: int = 0

    def arrays(self):
        return np.concatenate(self.hit), np.concatenate(self.scored)


class Run:
    """A worker that goes through a log; `branch` returns another in the same state, perhaps with other settings."""

    def __init__(self, settings):
        clock = SystemClock()
        self.settings = settings
        self.parts = Parts(settings, Metrics(clock), HealthState(clock, 60.0))
        self.parts.decoder = Decoded()
        self.parts.histories.begin(PARTITION)
        self.offset = 0
        self.trace = Trace()

    def branch(self, settings=None):
        other = Run(settings or self.settings)
        parts, mine = other.parts, self.parts
        state = mine.state()
        parts.learner.load(state.take("learner"))
        parts.evaluation.load(state.take("evaluation"))
        parts.events = mine.events
        parts.histories.partitions[PARTITION].load(mine.histories.partitions[PARTITION].state())
        other.offset = self.offset
        return other

    def go(self, log, *, learn=True):
        """Go through a log; returns the trace of everything so far."""
        size = self.settings.worker.batch_events
        for start in range(0, len(log), size):
            self.step(log[start : start + size], learn=learn)
        return self.trace

    def step(self, part, *, learn):
        events = events_of(part, self.offset)
        ranges = (OffsetRange(PARTITION, self.offset, self.offset + len(events)),)
        parts = self.parts
        considered = parts.consider(events, ranges, learns=learn)
        parts.keep(considered)
        self.trace.quarantined += parts.learn(considered).quarantined
        self.offset += len(events)
        self.note(considered, part.genuine)

    def note(self, considered, genuine):
        scores, contexts = considered.scored.scores, considered.scored.staged.contexts
        scored = ~contexts.first_B & contexts.learn_B & genuine
        trace = self.trace
        trace.hit.append(scores.rank_B < 10)
        trace.scored.append(scored)
        trace.detections += self.parts.unsent


def events_of(part, offset):
    """Return a part of a log as accepted events."""
    users, items, kinds, times = part.user.tolist(), part.item.tolist(), part.kind.tolist(), part.time.tolist()
    return [
        event_of(Record("events", 0, offset + index, round(time * 1000), None, b"{}"), user, item, kind, time)
        for index, (user, item, kind, time) in enumerate(zip(users, items, kinds, times, strict=True))
    ]
