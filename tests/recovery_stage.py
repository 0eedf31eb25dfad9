"""A worker on the in-memory log with its state in a folder, as the tests of recovery want it."""

from __future__ import annotations

import json

import numpy as np

from consumer.as_run import AsRun, replay_as_run
from consumer.clock import ManualClock
from consumer.describe_settings import identity
from consumer.errors import StateError
from consumer.health import HealthState
from consumer.memory_io import MemoryLog, MemoryPast, MemorySink, MemorySource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.settings import Settings
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from consumer.worker import Doors, Worker
from model.state import same


def small(**sections):
    base = {
        "model": {"dim": 8, "layers": 1, "heads": 1, "context": 8},
        "history": {"length": 12},
        "learning": {"rehearsal_capacity": 64, "rehearsal_length": 8, "negatives": 64},
        "worker": {"batch_events": 32},
        "evaluation": {"baselines": False},
    }
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return Settings.model_validate(base)


def fill(log, events, seed=0, users=20, start=0, *, ids=True):
    draw = np.random.default_rng(seed)
    for number in range(start, start + events):
        user, item = int(draw.integers(users)), int(draw.integers(30))
        body = {"user_id": user, "item_id": item, "event_time": 1_700_000_000 + number}
        body |= {"event_id": number + 1} if ids else {}
        log.append(
            "events", str(user).encode(), json.dumps(body).encode(), timestamp_ms=(1_700_000_000 + number) * 1000
        )


class Stage:
    """A log, a folder, and workers on them that come and go."""

    def __init__(self, folder, partitions=2, **sections):
        self.settings = small(**sections)
        self.log = MemoryLog({"events": partitions, "predictions": 2, "dead-letters": 1, "drift": 1, "journal": 3})
        self.folder = folder
        self.clock = ManualClock()

    def parts(self, settings=None):
        settings = settings or self.settings
        return Parts(settings, Metrics(self.clock), HealthState(self.clock, 60.0))

    def snapshots(self, settings=None):
        settings = settings or self.settings
        kafka, keep, whole = settings.kafka, settings.snapshot.keep, settings.recovery.journal_keep == "all"
        return Snapshots(FolderStore(self.folder), kafka.instance, identity(settings), keep, keep_gains=whole)

    def worker(self, settings=None, init=None):
        settings = settings or self.settings
        kafka = settings.kafka

        def doors():
            skips = settings.recovery.on_truncation != "stop"
            source = MemorySource(
                self.log, "events", kafka.group, instance=kafka.instance, until_end=True, skips_gone=skips
            )
            sink = MemorySink(self.log, kafka.group, instance=kafka.instance)
            return Doors(source, sink, MemoryPast(self.log))

        worker = Worker(settings, self.parts(settings), self.snapshots(settings), self.clock, doors)
        worker.start(init)
        return worker

    def as_run(self, settings=None, **wanted):
        settings = settings or self.settings
        parts = self.parts(settings)
        replay_as_run(settings, parts, self.snapshots(settings), MemoryPast(self.log), AsRun(**wanted))
        return parts

    def outputs(self):
        sources = []
        for record in self.log.records("predictions"):
            source = json.loads(record.value)["source"]
            sources.append((source["partition"], source["offset"]))
        return sources


def steps(worker, count):
    for _ in range(count):
        worker.step()


def drain(worker):
    for _ in range(1000):
        worker.step()
        if worker.doors.source.drained:
            return
    raise AssertionError("not drained after 1000 steps")


def assert_same(left, right):
    first, second = left.image(0), right.image(0)
    assert first.batch == second.batch
    assert first.worker.values == second.worker.values
    assert same(first.worker.arrays, second.worker.arrays)
    assert first.histories.keys() == second.histories.keys()
    for partition, (state, offset) in first.histories.items():
        assert second.histories[partition][1] == offset
        assert same(state.arrays, second.histories[partition][0].arrays)


def assert_exactly_once(stage, events):
    sources = stage.outputs()
    assert len(sources) == len(set(sources)) == events


def full_disk(_store, name, _data):
    raise StateError(f"{name} cannot be written: no space left on device")
