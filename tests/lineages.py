"""A lineage in tests: its worker again after a kill, and the same once more from its journal."""

from __future__ import annotations

from support import Stream, random_events, same_state, small_settings

from consumer.as_run import AsRun, replay_as_run
from consumer.describe_settings import identity
from consumer.health import HealthState
from consumer.memory_io import MemoryPast
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.snapshots import Snapshots

EVENTS = random_events(160, users=12)


def fresh(stream, settings=None):
    return Parts(settings or stream.settings, Metrics(stream.clock), HealthState(stream.clock, 60.0))


def as_run(stream, settings=None, **wanted):
    settings = settings or stream.settings
    parts = fresh(stream, settings)
    snapshots = Snapshots(stream.store, settings.kafka.instance, identity(settings), settings.snapshot.keep)
    replay_as_run(settings, parts, snapshots, MemoryPast(stream.log), AsRun(**wanted))
    return parts


def assert_same(left, right):
    first, second = left.image(0), right.image(0)
    assert first.batch == second.batch
    assert same_state(first.worker, second.worker)
    assert first.histories.keys() == second.histories.keys()
    for partition, (state, offset) in first.histories.items():
        assert second.histories[partition][1] == offset
        assert same_state(state, second.histories[partition][0])


def save(stream):
    stream.worker.save()


def restart(stream):
    """As after kill -9: nothing is closed, nothing is saved."""
    stream.start()


def with_whole_journal():
    stream = Stream(small_settings(recovery={"journal_keep": "all"}))
    stream.put_events(EVENTS)
    return stream
