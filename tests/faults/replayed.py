"""Whether the state that a lineage ended with is what its journal says, replayed from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from consumer.as_run import AsRun, replay_as_run
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import TidemillError
from consumer.health import HealthState
from consumer.kafka_io import KafkaPast
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.ports import TopicPartition
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from model.state import same
from tests.faults.cluster import JOURNALS

if TYPE_CHECKING:
    from collections.abc import Container

    from consumer.ports import Past
    from consumer.settings import Settings
    from model.state import State
    from tests.faults.cluster import Cluster


def state_differs(cluster: Cluster, lineages: Container[str]) -> tuple[int, list[str]]:
    """Replay each lineage's journal as it ran; returns how many parts were compared and which differ from its newest snapshot."""
    compared, problems = 0, []
    for number in range(JOURNALS):
        settings = cluster.settings(number)
        if settings.kafka.instance not in lineages:
            newest = _snapshots(settings).newest()
            if newest is not None and newest.batch:
                problems.append(f"{settings.kafka.instance}: a snapshot of micro-batch {newest.batch}, but no journal")
            continue
        try:
            count, differing = _compare_on_kafka(settings)
        except TidemillError as error:
            problems.append(f"{settings.kafka.instance}: {type(error).__name__}: {error}")
            continue
        compared += count
        problems += differing
        if not count and not differing:
            problems.append(f"{settings.kafka.instance}: there was nothing to compare")
    return compared, problems


def _snapshots(settings: Settings) -> Snapshots:
    store = FolderStore(settings.snapshot.dir)
    return Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)


def _compare_on_kafka(settings: Settings) -> tuple[int, list[str]]:
    past = KafkaPast(settings, SystemClock())
    try:
        return compare(settings, _snapshots(settings), past)
    finally:
        past.close()


def compare(settings: Settings, snapshots: Snapshots, past: Past) -> tuple[int, list[str]]:
    """Replay one lineage up to its newest snapshot; returns how many parts were compared, and what differs."""
    clock, lineage = SystemClock(), settings.kafka.instance
    newest = snapshots.newest()
    if newest is None:
        return 0, []
    parts = Parts(settings, Metrics(clock), HealthState(clock, 60.0))
    replay_as_run(settings, parts, snapshots, past, AsRun(to_batch=newest.batch))
    if parts.batch != newest.batch:
        return 0, [f"{lineage}: the journal ends at {parts.batch}, the newest snapshot is of {newest.batch}"]
    differing = _differences(f"{lineage}@{newest.batch} worker", newest.worker(), parts.state())
    compared = 1
    for partition, position in newest.positions.items():
        mine = parts.histories.partitions.get(TopicPartition(*partition))
        if mine is not None and parts.next_offsets.get(partition) == position.next_offset:
            compared += 1
            name = f"{lineage}@{newest.batch} histories of {partition.partition}"
            differing += _differences(name, newest.histories(partition), mine.state())
    return compared, differing


def _differences(name: str, left: State, right: State) -> list[str]:
    problems = []
    if not same(left.arrays, right.arrays):
        names = [k for k in left.arrays if k not in right.arrays or not same({k: left.arrays[k]}, {k: right.arrays[k]})]
        problems.append(f"{name}: {len(names)} arrays differ, e.g. {names[:3]}")
    if orjson.dumps(left.values, option=orjson.OPT_SORT_KEYS) != orjson.dumps(
        right.values, option=orjson.OPT_SORT_KEYS
    ):
        problems.append(f"{name}: values differ")
    return problems
