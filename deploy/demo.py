"""`tidemill demo`: the whole thing on one machine, on real events, on a real broker, checked by an independent client.

1. A broker: a given one, one in Docker, or a local one.
2. Topics of their own, and the events into the input topic at full speed.
3. The real worker (`tidemill run`) as a process of its own, watched through its own metrics.
4. The predictions read back by another client: one for each event, none twice, each user's in order.
5. A table, the throughput, and a report to look at.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
from rich.console import Console

from consumer.clock import SystemClock
from consumer.errors import TidemillError
from consumer.file_io import open_source
from consumer.kafka_io import KafkaWriter, create_topics
from consumer.load_settings import show
from consumer.ports import PollLimits
from consumer.settings import Settings
from consumer.summary import render_table
from deploy.any_broker import any_broker
from deploy.demo_check import Findings, check_predictions
from deploy.demo_data import purchases
from deploy.demo_view import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.ports import Clock, Record

EVENTS = 100_000
PRODUCE_AT_ONCE = 1000
WIDTH = 110
"""Of lines that go to a file or a pipe."""
FOREVER = {"retention.ms": "-1"}
"""The events are of years ago: a topic with a retention would drop them at once."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to run on: a file with its mapping, or the packaged purchases; and where the results go."""

    file: Path | None = None
    settings: Settings = field(default_factory=Settings)
    events: int = EVENTS
    report: Path = Path("tidemill-demo")
    json: Path | None = None


class DemoFailed(TidemillError):  # noqa: N818 - it names the outcome
    """The worker failed, or its predictions are not what they must be."""

    exit_code = 70


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run the demo; returns the worker's summary. Raises DemoFailed, or what the parts of it raise."""
    clock, console = SystemClock(), Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    with any_broker() as broker:
        console.print(f"broker: {broker.kind}, at {broker.bootstrap_servers}")
        settings = _settings(options, broker.bootstrap_servers)
        produced, seconds = _produce(options, settings, clock)
        console.print(
            f"{produced:,} events produced to {settings.topics.events!r}, {produced / seconds:,.0f} per second"
        )
        summary = _work(options, settings, console, clock)
        findings = check_predictions(settings, clock)
        console.print(findings.text())
        _judge(findings, summary, produced)
    console.print(render_table(summary))
    speed = summary["speed"]["events_per_s"]
    console.print(f"through Kafka, {settings.kafka.delivery.replace('_', ' ')}: {speed:,.0f} events per second")
    console.print(f"report: {options.report / 'report.html'}")
    return summary


def _settings(options: DemoOptions, address: str) -> Settings:
    """Return the settings of this run: names of its own, a state folder below the report's."""
    name = f"demo-{uuid4().hex[:8]}"
    topics = {
        field: f"{name}-{field.replace('_', '-')}" for field in ("events", "predictions", "dead_letters", "drift")
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = options.settings
    return given.model_copy(
        update={
            "kafka": given.kafka.model_copy(update={"bootstrap_servers": address, "group": name, "instance": name}),
            "topics": given.topics.model_copy(update={**topics, "journal": f"{name}-journal"}),
            "snapshot": given.snapshot.model_copy(update={"dir": str(options.report / "state" / name)}),
            "metrics": given.metrics.model_copy(update={"enabled": True, "host": "127.0.0.1", "port": port}),
        }
    )


def _produce(options: DemoOptions, settings: Settings, clock: Clock) -> tuple[int, float]:
    """Create the topics and write all events, keyed by user; returns how many, and the seconds it took."""
    topics = settings.topics
    names = (topics.events, topics.predictions, topics.dead_letters, topics.drift, topics.journal)
    create_topics(settings, dict.fromkeys(names, 1), FOREVER)
    writer = KafkaWriter(settings, topics.events)
    begin, count = clock.monotonic(), 0
    try:
        for key, value, timestamp_ms in _events(options):
            writer.write(key, value, timestamp_ms)
            count += 1
        writer.flush()
    finally:
        writer.close()
    return count, clock.monotonic() - begin


def _events(options: DemoOptions) -> Iterator[tuple[bytes | None, bytes, int | None]]:
    if options.file is None:
        for row in purchases(options.events):
            yield str(row["user_id"]).encode(), orjson.dumps(row), row["event_time"]
        return
    source = open_source(options.file, options.settings.input, options.events)
    try:
        while not source.drained:
            for record in source.poll(PollLimits(PRODUCE_AT_ONCE, 0.0)).records:
                yield _key(record, options.settings), record.value or b"", _time(record)
    finally:
        source.close()


def _key(record: Record, settings: Settings) -> bytes | None:
    """Return the record's key, or the user's id where it has none: upstream keys by user."""
    if record.key is not None:
        return record.key
    from consumer.decode import Decoder  # noqa: PLC0415 - only a file without keys needs it
    from consumer.errors import BadEvent  # noqa: PLC0415 - the same

    event = Decoder(settings.input).decode(record)
    return None if isinstance(event, BadEvent) else str(event.user_id).encode()


def _time(record: Record) -> int | None:
    return record.timestamp_ms if record.timestamp_ms >= 0 else None


def _work(options: DemoOptions, settings: Settings, console: Console, clock: Clock) -> dict[str, Any]:
    """Run `tidemill run` until the topic's end, showing what it does; returns its summary."""
    folder = options.report
    folder.mkdir(parents=True, exist_ok=True)
    config, target, log = folder / "demo.toml", options.json or folder / "summary.json", folder / "worker.log"
    config.write_text(show(settings), encoding="utf-8")
    command = [sys.executable, "-m", "consumer.cli", "run", "-c", str(config), "--until-end"]
    command += ["--json", str(target), "--report", str(folder)]
    console.print(f"worker: tidemill run -c {config} --until-end (its log: {log})")
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=_environment()) as process:  # noqa: S603 - our own command
        try:
            with Watch(console, settings.metrics.port, clock) as watch:
                while process.poll() is None:
                    watch.look()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise DemoFailed(f"the worker ended with exit code {process.returncode}: {''.join(last)}")
    summary: dict[str, Any] = orjson.loads(target.read_bytes())
    return summary


def _environment() -> dict[str, str]:
    """Return the environment without settings of somebody else's run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}


def _judge(findings: Findings, summary: dict[str, Any], produced: int) -> None:
    """Raise DemoFailed where the predictions are not one per accepted event."""
    rejected = sum(summary["rejected"].values())
    if findings.ok and findings.predictions == summary["events"] == produced - rejected:
        return
    raise DemoFailed(
        f"{produced:,} events were produced, {rejected:,} rejected and {summary['events']:,} accepted, but "
        f"{findings.predictions:,} predictions were read back: {findings.text()}"
    )
