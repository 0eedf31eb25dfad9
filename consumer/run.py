"""`tidemill run`: the worker as a process. Start, loop, stop; every expected end has an exit code.

Start: settings are known good; the state folder is checked; the newest snapshot is loaded; the broker is waited for;
the health port answers. Stop: SIGTERM or SIGINT ends the loop after the micro-batch in hand, a snapshot is saved, the
group is left. What has not ended `worker.stop_after_s` after the signal is abandoned: the uncommitted micro-batch is
read again at the next start.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import structlog

from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import TidemillError, TransientError
from consumer.health import HealthServer, HealthState
from consumer.kafka_io import KafkaSink, KafkaSource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.pipeline import Pipeline
from consumer.replay import begin_from
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consumer.ports import Clock
    from consumer.settings import Settings

log = structlog.get_logger()

ABANDONED = 70
GRACE_SHARE = 0.9
"""Of `stop_after_s`: the rest is for the process to end."""


class StoppedWhileStarting(BaseException):
    """A stop signal came before the loop began. No Exception, so that nothing on the way takes it for an error."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag, and sees to it that the process does end.

    Until `started` is set there is no loop to look at the flag, so the signal raises StoppedWhileStarting.
    """

    def __init__(self, stop_after_s: float) -> None:
        self._stop_after_s = stop_after_s
        self._asked = threading.Event()
        self.started = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    def _ask(self, _number: int, _frame: object) -> None:
        if not self._asked.is_set():
            self._asked.set()
            self._timer = threading.Timer(self._stop_after_s * GRACE_SHARE, os._exit, (ABANDONED,))
            self._timer.daemon = True
            self._timer.start()
            if not self.started:
                raise StoppedWhileStarting


def run_worker(
    settings: Settings,
    *,
    init: Path | None = None,
    max_events: int | None = None,
    until_end: bool = False,
    on_step: Callable[[Pipeline], None] | None = None,
) -> Pipeline | None:
    """Run until stopped, until `max_events` input records, or (`until_end`) until the topic's present end.

    Returns the pipeline as it ended, None where a stop came before it began.
    """
    clock = SystemClock()
    with StopSignal(settings.worker.stop_after_s) as stop, ExitStack() as opened:
        try:
            pipeline = _start(settings, init, clock, opened, until_end=until_end)
            stop.started = True
        except StoppedWhileStarting:
            log.info("stopped before the first record")
            return None
        while not stop.asked and not _finished(pipeline, max_events):
            left = None if max_events is None else max_events - pipeline.records
            _step(pipeline, left)
            if on_step is not None:
                on_step(pipeline)
        log.info("stopping", asked=stop.asked, records=pipeline.records)
        pipeline.parts.save()
    return pipeline


def _finished(pipeline: Pipeline, max_events: int | None) -> bool:
    return pipeline.source.drained or (max_events is not None and pipeline.records >= max_events)


def _step(pipeline: Pipeline, max_records: int | None) -> None:
    try:
        pipeline.step(max_records)
    except TransientError as error:
        log.warning("the broker asks to try again", reason=str(error))
        raise


def _start(settings: Settings, init: Path | None, clock: Clock, opened: ExitStack, *, until_end: bool) -> Pipeline:
    metrics, health = Metrics(clock), HealthState(clock, settings.metrics.live_after_s, settings.kafka.broker_wait_s)
    store = FolderStore(settings.snapshot.dir)
    if settings.metrics.enabled:
        server = HealthServer(settings.metrics, health, metrics)
        opened.callback(server.close)
        log.info("serving metrics and health", host=settings.metrics.host, port=server.port)
    parts = Parts(settings, metrics, health, clock, _snapshots(settings, store))
    _restore(parts, init, settings)
    source = KafkaSource(settings, clock, until_end=until_end)
    opened.callback(source.close)
    sink = KafkaSink(settings, clock, source)
    opened.callback(sink.close)
    log.info("running", group=settings.kafka.group, instance=settings.kafka.instance, delivery=settings.kafka.delivery)
    return Pipeline(settings, source, sink, parts, clock)


def _snapshots(settings: Settings, store: FolderStore) -> Snapshots:
    return Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)


def _restore(parts: Parts, init: Path | None, settings: Settings) -> None:
    complaints: list[str] = []
    snapshot = parts.snapshots.newest(complaints) if parts.snapshots else None
    for complaint in complaints:
        log.warning("a snapshot was passed over", reason=complaint)
    if snapshot is not None:
        parts.restore(snapshot)
        log.info("restored", snapshot=snapshot.name, batch=snapshot.batch)
    elif init is not None:
        begin_from(parts, init, settings)
        log.info("begun from given state")
    else:
        log.info("starting cold")


__all__ = ["StopSignal", "TidemillError", "run_worker"]
