"""The command `tidemill replay`: which records are read, and what becomes of the summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer import cli_options as options
from consumer.cli_values import duration_s, epoch_ms, within_reach
from consumer.clock import SystemClock
from consumer.errors import TooManyBadEvents, UsageError
from consumer.loading import loading

if TYPE_CHECKING:
    from consumer.ports import Clock
    from consumer.settings import Settings

TOPIC_PREFIX = "topic:"


def replay_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A .parquet, .csv or .jsonl file, or topic:NAME.")],
    *,
    config: options.Config = None,
    brokers: options.Brokers = None,
    group: options.Group = None,
    properties: options.Properties = None,
    sets: options.Sets = None,
    maps: options.Maps = None,
    from_beginning: options.FromBeginning = False,
    from_offset: Annotated[int | None, typer.Option(min=0, help="First offset of each partition.")] = None,
    to_offset: Annotated[int | None, typer.Option(min=0, help="Stop before this offset of each partition.")] = None,
    from_datetime: Annotated[str | None, typer.Option(metavar="ISO", help="Begin at this record time.")] = None,
    to_datetime: Annotated[str | None, typer.Option(metavar="ISO", help="Stop before this record time.")] = None,
    by_duration: Annotated[str | None, typer.Option(metavar="7d|12h|PT1H", help="Begin this long ago.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many input records.")] = None,
    freeze_after: Annotated[
        int | None, typer.Option(min=0, help="Learn from so many records, and the rest of their micro-batch.")
    ] = None,
    shuffle_ties: Annotated[
        bool, typer.Option("--shuffle-ties", help="Shuffle (seeded) a user's events of equal time.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Sets worker.seed.")] = None,
    json: options.Json = None,
    report: options.Report = None,
    save: Annotated[
        str | None, typer.Option(metavar="DIR", help="Save the state at the end; a folder or a URL.")
    ] = None,
    init: options.Init = None,
    as_run: Annotated[
        bool,
        typer.Option("--as-run", help="Redo this worker's own journal: the same batches and plans, the same state."),
    ] = False,
    to_batch: Annotated[int | None, typer.Option(min=1, help="With --as-run: stop after this micro-batch.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be read, and stop.")] = False,
) -> None:
    """Run the pipeline over a file or a topic's past, as fast as it can, and report. Touches no live group."""
    _check_as_run(
        source,
        to_batch,
        {
            "--from-beginning": from_beginning or None,
            "--from-offset": from_offset,
            "--to-offset": to_offset,
            "--from-datetime": from_datetime,
            "--to-datetime": to_datetime,
            "--by-duration": by_duration,
            "--limit": limit,
            "--freeze-after": freeze_after,
            "--shuffle-ties": shuffle_ties or None,
            "--seed": seed,
            "--report": report,
        },
        as_run=as_run,
    )
    begin = _begin(from_datetime, by_duration, SystemClock())
    _check_range(from_beginning=from_beginning, from_offset=from_offset, begin=begin)
    _check_source(source)
    file = options.json_target(json)
    if as_run:
        topic = source.removeprefix(TOPIC_PREFIX)
        settings = options.Shared(config, brokers, topic, group, properties, sets, maps).settings()
        chosen: dict[str, Any] = {"to_batch": to_batch, "init": init, "save": save}
        _as_run(settings, chosen, json is not None, file, dry_run=dry_run)
        return
    more = () if seed is None else (f"worker.seed={seed}",)
    settings = options.Shared(config, brokers, None, group, properties, sets, maps, more).settings()
    chosen = {
        "source": source,
        "limit": limit,
        "from_offset": from_offset,
        "to_offset": to_offset,
        "from_datetime": begin,
        "to_datetime": None if to_datetime is None else epoch_ms(to_datetime, "--to-datetime"),
        "freeze_after": freeze_after,
        "shuffle_ties": shuffle_ties,
        "save": save,
        "init": init,
        "report": report,
        "progress": sys.stderr.isatty(),
    }
    if dry_run:
        print(_plan(settings, chosen))
    else:
        _replay(settings, chosen, wants_json=json is not None, file=file)


def _replay(settings: Settings, chosen: dict[str, Any], *, wants_json: bool, file: Path | None) -> None:
    options.start_logging(settings)
    with loading():
        from consumer.replay import ReplayOptions, replay

    summary = replay(settings, ReplayOptions(**chosen))
    _tell(summary, wants_json, file)
    _check_rejected(summary, settings)


def _as_run(settings: Settings, chosen: dict[str, Any], wants_json: bool, file: Path | None, *, dry_run: bool) -> None:
    if dry_run:
        topics, lines = settings.topics, [f"{name}: {value}" for name, value in chosen.items() if value is not None]
        lines += [f"brokers: {settings.kafka.bootstrap_servers}", f"lineage: {settings.kafka.instance}"]
        lines += [f"journal: {topics.journal}-{topics.journal_partition}", f"snapshots: {settings.snapshot.dir}"]
        print("\n".join(lines))
        return
    options.start_logging(settings)
    with loading():
        from consumer.replay_as_run import AsRunOptions, replay_lineage

    summary = replay_lineage(settings, AsRunOptions(**chosen))
    _tell(summary, wants_json, file)


def _tell(summary: dict[str, Any], wants_json: bool, file: Path | None) -> None:
    from consumer.cli_summary import show, write_json

    if not wants_json or file is not None:
        show(summary)
    if wants_json:
        write_json(summary, file)


def _check_rejected(summary: dict[str, Any], settings: Settings) -> None:
    """A source that ends before the limit on bad records could judge it is judged as a whole. Raises TooManyBadEvents."""
    rejected, share = summary["rejected"], settings.input.max_bad_share
    bad, records = sum(rejected.values()), summary["events"] + sum(rejected.values())
    if bad > share * records:
        reasons = ", ".join(
            f"{reason} ({count})" for reason, count in sorted(rejected.items(), key=lambda one: -one[1])[:3]
        )
        raise TooManyBadEvents(
            f"{bad} of {records} records were rejected, mostly {reasons}: compare input.preset and input.map with a record; "
            f"if the events are bad indeed, raise input.max_bad_share = {share}"
        )


def _begin(from_datetime: str | None, by_duration: str | None, clock: Clock) -> int | None:
    """The first record time in ms; a duration counts back from now."""
    if from_datetime is not None and by_duration is not None:
        raise UsageError("--from-datetime and --by-duration: give one of them")
    if by_duration is not None:
        return within_reach(clock.now() - duration_s(by_duration, "--by-duration"))
    return None if from_datetime is None else epoch_ms(from_datetime, "--from-datetime")


def _check_as_run(source: str, to_batch: int | None, others: dict[str, Any], *, as_run: bool) -> None:
    """The journal says what was read and how: nothing else may."""
    if not as_run:
        if to_batch is not None:
            raise UsageError("--to-batch goes with --as-run")
        return
    if not source.startswith(TOPIC_PREFIX):
        raise UsageError(f"--as-run redoes the journal of a topic's worker: SOURCE must be topic:NAME, not {source!r}")
    given = [option for option, value in others.items() if value is not None]
    if given:
        raise UsageError(f"--as-run takes what was read and how from the journal: leave {', '.join(given)} away")


def _check_range(*, from_beginning: bool, from_offset: int | None, begin: int | None) -> None:
    if from_beginning + (from_offset is not None) + (begin is not None) > 1:
        raise UsageError("--from-beginning, --from-offset and --from-datetime or --by-duration: give one of them")


def _check_source(source: str) -> None:
    if source.startswith(TOPIC_PREFIX):
        if source == TOPIC_PREFIX:
            raise UsageError("SOURCE 'topic:': name the topic, as in topic:events")
    elif not Path(source).exists():
        raise UsageError(f"SOURCE {source!r}: there is no such file; a topic is written topic:{source}")


def _plan(settings: Settings, chosen: dict[str, Any]) -> str:
    """What would be read, and which field comes from where."""
    from consumer.mapping import field_mapping

    lines = [f"{name}: {value}" for name, value in chosen.items() if value is not None and name != "progress"]
    if chosen["source"].startswith(TOPIC_PREFIX):
        lines.append(f"brokers: {settings.kafka.bootstrap_servers}")
    else:
        lines.append(f"size: {Path(chosen['source']).stat().st_size:,} bytes")
    mapped = field_mapping(settings.input).fields.values()
    lines += [f"{field.name}: from {field.path}" for field in mapped]
    return "\n".join(lines)
