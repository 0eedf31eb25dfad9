"""`tidemill run`: the worker as a process. Start, loop, stop; every expected end has an exit code.

Start: settings are known good; the state folder is checked; the broker is waited for; memory is recovered. Stop: SIGTERM
or SIGINT ends the loop after the micro-batch in hand, or at once where none is, a snapshot is saved (but for a stop amid a
recovery or a take-over), the group is left.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from consumer.account import Account, prepare_report
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.health import HealthServer, HealthState
from consumer.kafka_io import KafkaPast, KafkaSink, KafkaSource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.snapshots import Snapshots
from consumer.state_store import open_store
from consumer.stop_signal import Stopped, StopSignal
from consumer.warm_up import warm_up
from consumer.watchdog import Watchdog
from consumer.worker import Doors, Worker, run_until

if TYPE_CHECKING:
    from pathlib import Path

    from consumer.pipeline import Pipeline
    from consumer.ports import Clock
    from consumer.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a run ends by itself, and what it leaves behind; `init` is what a new lineage begins from."""

    init: str | Path | None = None
    max_events: int | None = None
    until_end: bool = False
    report: Path | None = None


def run_worker(settings: Settings, options: RunOptions | None = None) -> dict[str, Any] | None:
    """Run until stopped, until `max_events` input records, or (`until_end`) until the topic's present end.

    Returns the summary, None where a stop came before the first record.
    """
    options = options or RunOptions()
    prepare_report(options.report)
    clock = SystemClock()
    with StopSignal(settings.worker.stop_after_s) as stop, ExitStack() as opened:
        try:
            with stop.at_once():
                worker = _start(settings, options, clock, opened, stop)
        except Stopped:
            log.info("stopped before the first record")
            return None
        account = Account(clock)
        whole = _loop(worker, options, account, stop)
        summary = account.summary(settings, worker.connected)
        dead = sum(summary["rejected"].values())
        log.info("stopping", asked=stop.asked, batch=worker.parts.batch, events=summary["events"], dead_letters=dead)
        if not stop.asked:
            worker.save()
        elif whole:
            worker.save_last()
    if options.report is not None:
        account.write_report(summary, options.report)
    return summary


def _loop(worker: Worker, options: RunOptions, account: Account, stop: StopSignal) -> bool:
    """Run to the end; false where a stop came amid a recovery or a take-over, so that memory is of no moment to be saved."""
    try:
        run_until(
            worker, lambda p: _finished(p, options.max_events), lambda: stop.asked, options.max_events, account.note
        )
    except Stopped as stopped:
        if not stopped.whole:
            log.info("stopped amid a recovery or a take-over: the next start goes through the journal again")
        return stopped.whole
    finally:
        if stop.asked:
            worker.hurry()
    return True


def _finished(pipeline: Pipeline, max_events: int | None) -> bool:
    return pipeline.source.drained or (max_events is not None and pipeline.records >= max_events)


def _start(settings: Settings, options: RunOptions, clock: Clock, opened: ExitStack, stop: StopSignal) -> Worker:
    metrics = Metrics(clock)
    health = HealthState(clock, settings.metrics.live_after_s, settings.kafka.broker_wait_s)
    store = open_store(settings.snapshot.dir)
    if settings.metrics.enabled:
        server = HealthServer(settings.metrics, health, metrics)
        opened.callback(server.close)
        log.info("serving metrics and health", host=settings.metrics.host, port=server.port)
    warm_up()
    watchdog = Watchdog(clock)
    metrics.watch(watchdog.age_s)
    if settings.watchdog.enabled:
        watchdog.start(min(settings.watchdog.commit_s, settings.watchdog.step_s))
        opened.callback(watchdog.close)
    snapshots = Snapshots(
        store,
        settings.kafka.instance,
        identity(settings),
        settings.snapshot.keep,
        keep_gains=settings.recovery.journal_keep == "all",
    )

    def open_doors() -> Doors:
        source = KafkaSource(settings, clock, until_end=options.until_end)
        return Doors(source, KafkaSink(settings, clock, source), KafkaPast(settings, clock))

    parts = Parts(settings, metrics, health)
    worker = Worker(settings, parts, snapshots, clock, open_doors, watchdog, at_once=stop.at_once)
    opened.callback(worker.close)
    worker.start(options.init)
    log.info("running", group=settings.kafka.group, instance=settings.kafka.instance, delivery=settings.kafka.delivery)
    return worker
