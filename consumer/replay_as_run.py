"""`tidemill replay topic:NAME --as-run`: the redo of a lineage's journal, wired to Kafka and the state folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from consumer.account import summary_of
from consumer.as_run import AsRun, replay_as_run
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import UsageError
from consumer.health import HealthState
from consumer.kafka_io import KafkaPast
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.snapshots import Snapshots
from consumer.state_store import open_store, same_place
from consumer.summary import Seconds

if TYPE_CHECKING:
    from pathlib import Path

    from consumer.parts import Considered
    from consumer.ports import Clock, Past, StateStore
    from consumer.settings import Settings
    from incremental.drift import Detection

log = structlog.get_logger()

SAY_EVERY_BATCHES = 1000


@dataclass(frozen=True, slots=True)
class AsRunOptions:
    """Up to which micro-batch, from which state where the lineage did, and where the result is saved."""

    to_batch: int | None = None
    init: str | Path | None = None
    save: str | Path | None = None


def replay_lineage(
    settings: Settings, options: AsRunOptions, clock: Clock | None = None, past: Past | None = None
) -> dict[str, Any]:
    """Redo the journal of the settings' lineage into fresh parts; returns the summary of version 1.

    The state folder is only read. Raises UsageError where the result would be saved into it.
    """
    clock = clock or SystemClock()
    if options.save is not None and same_place(options.save, settings.snapshot.dir):
        raise UsageError(f"--save {options.save}: is the lineage's own state folder (snapshot.dir); name another")
    saved = None if options.save is None else _snapshots(settings, open_store(options.save))
    parts = Parts(settings, Metrics(clock), HealthState(clock, settings.metrics.live_after_s))
    kept = _snapshots(settings, open_store(settings.snapshot.dir, read_only=True))
    past = past or KafkaPast(settings, clock)
    account, begin = _Account(parts), clock.monotonic()
    try:
        count = replay_as_run(settings, parts, kept, past, AsRun(options.to_batch, options.init), account.note)
    finally:
        past.close()
    log.info("journal redone", batches=count, batch=parts.batch)
    if saved is not None:
        saved.save(parts.image(0))
    seconds = Seconds(0.0, 0.0, clock.monotonic() - begin)
    return summary_of(settings, parts, account.events, account.detections, seconds)


def _snapshots(settings: Settings, store: StateStore) -> Snapshots:
    return Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)


class _Account:
    """Notes of each micro-batch what the summary needs and the parts do not keep."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.events = 0
        self.detections: list[Detection] = []

    def note(self, considered: Considered) -> None:
        self.events += 0 if considered.scored is None else len(considered.events)  # none of one that was skipped
        before = self._parts.events - self.events  # detections tell the events of the lineage; here those redone count
        self.detections += [replace(found, event=found.event - before) for found in self._parts.unsent]
        self._parts.count(considered)
        if considered.plan.batch % SAY_EVERY_BATCHES == 0:
            log.info("redoing the journal", batch=considered.plan.batch)
