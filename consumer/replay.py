"""`tidemill replay`: the production pipeline over a file or a topic's past, as fast as it can, and a report.

Micro-batches have exactly `worker.batch_events` records; no decision hangs on time or lag; nothing is written but
what was asked for. So two replays of one input with one seed print the same metrics, and the replay of a topic with
one partition equals the replay of the file behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumer.account import Account, prepare_report
from consumer.begin import begin_from
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import UsageError
from consumer.file_io import open_source, shuffle_ties
from consumer.health import HealthState
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.pipeline import Pipeline
from consumer.progress import Progress
from consumer.snapshots import Snapshots
from consumer.state_store import open_store, same_place
from consumer.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.ports import Batch, Clock, Output, Source
    from consumer.settings import Settings

TOPIC_PREFIX = "topic:"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to read and what to do with it. Times in ms since the epoch; `source` is a path or topic:NAME."""

    source: str
    limit: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    from_datetime: int | None = None
    to_datetime: int | None = None
    freeze_after: int | None = None
    shuffle_ties: bool = False
    save: str | Path | None = None
    init: str | Path | None = None
    report: Path | None = None
    progress: bool = False


class Discard:
    """A sink that keeps nothing: a replay publishes nothing."""

    def commit(self, outputs: Sequence[Output], batch: Batch) -> None:
        """Take note of nothing."""

    def close(self) -> None:
        """Nothing is open."""


def replay(settings: Settings, options: ReplayOptions, clock: Clock | None = None) -> dict[str, Any]:
    """Run the whole source through the pipeline; returns the summary of version 1."""
    clock = clock or SystemClock()
    _check_options(settings, options)
    source = _source(settings, options, clock)
    try:
        return _run(settings, options, source, clock)
    finally:
        source.close()


def _check_options(settings: Settings, options: ReplayOptions) -> None:
    """Refuse what makes no sense together, and missing extras, before anything is read."""
    is_topic = options.source.startswith(TOPIC_PREFIX)
    ranged = (options.from_offset, options.to_offset, options.from_datetime, options.to_datetime)
    if not is_topic and any(bound is not None for bound in ranged):
        raise UsageError("offsets and times select from a topic (topic:NAME); of a file, --limit reads the first part")
    if options.save is not None and same_place(options.save, settings.snapshot.dir):
        raise UsageError(
            f"--save {options.save}: is the state folder of `tidemill run` (snapshot.dir), which would go on from the "
            "replay; name another"
        )
    prepare_report(options.report)


def _source(settings: Settings, options: ReplayOptions, clock: Clock) -> Source:
    if options.source.startswith(TOPIC_PREFIX):
        source = _topic_source(settings, options, clock)
    else:
        source = open_source(Path(options.source), settings.input, options.limit)
    return shuffle_ties(source, settings.worker.seed) if options.shuffle_ties else source


def _topic_source(settings: Settings, options: ReplayOptions, clock: Clock) -> Source:
    from consumer.kafka_io import KafkaRangeSource  # noqa: PLC0415 - a file needs no Kafka client

    return KafkaRangeSource(
        settings,
        options.source.removeprefix(TOPIC_PREFIX),
        start=_bound(options.from_offset, options.from_datetime),
        stop=_bound(options.to_offset, options.to_datetime),
        clock=clock,
    )


def _bound(offset: int | None, time_ms: int | None) -> int | datetime | None:
    return datetime.fromtimestamp(time_ms / 1000, UTC) if time_ms is not None else offset


def _run(settings: Settings, options: ReplayOptions, source: Source, clock: Clock) -> dict[str, Any]:
    warm_up()
    store = None if options.save is None else open_store(options.save)
    parts = Parts(settings, Metrics(clock), HealthState(clock, settings.metrics.live_after_s))
    parts.freeze_after = options.freeze_after
    if options.init is not None:
        begin_from(parts, options.init, settings)
    pipeline = Pipeline(settings, source, Discard(), parts, clock)
    account = Account(clock)
    with Progress(enabled=options.progress, total=options.limit or getattr(source, "total", None)) as progress:
        while not source.drained and (options.limit is None or pipeline.records < options.limit):
            report = pipeline.step(None if options.limit is None else options.limit - pipeline.records)
            account.note(pipeline, report)
            progress.show(pipeline)
    summary = account.summary(settings, pipeline)
    if store is not None:
        Snapshots(store, parts.lineage, identity(settings), settings.snapshot.keep).save(parts.image(0))
    if options.report is not None:
        account.write_report(summary, options.report)
    return summary
