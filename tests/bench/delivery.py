"""`python -m tests.bench.delivery`: what exactly-once costs, and what a snapshot in progress costs, side by side.

The whole worker on a real local broker, the demo's grocery purchases as input. Deliveries are run in turn (A B A B), so
that a machine that slows down slows down both; figures are medians, the claim is the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.health import HealthState
from consumer.kafka_io import KafkaPast, KafkaSink, KafkaSource, KafkaWriter, create_topics
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.settings import Settings
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from consumer.worker import Doors, Worker
from deploy.broker import LocalBroker
from deploy.demo_data import purchases

NEVER_S = 1e9
WARM_UP_STEPS = 8


def settings_for(broker: str, folder: Path, name: str, batch: int, delivery: str, every_s: float) -> Settings:
    """One run's settings: topics, group and state of its own."""
    topics = {field: f"{name}-{field}" for field in ("predictions", "dead_letters", "drift", "journal")}
    return Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": broker, "group": name, "instance": name, "delivery": delivery},
            "topics": {"events": "events", **topics},
            "worker": {"batch_events": batch},
            "snapshot": {"dir": folder / name, "every_s": every_s, "redo_s": every_s},
            "evaluation": {"baselines": False},
        }
    )


def run(settings: Settings, events: int) -> list[float]:
    """Run a worker over the topic; returns the seconds of each full step, the first few left out."""
    clock = SystemClock()
    topics = settings.topics
    create_topics(settings, dict.fromkeys((topics.predictions, topics.dead_letters, topics.drift, topics.journal), 1))
    parts = Parts(settings, Metrics(clock), HealthState(clock, 60.0))
    store = FolderStore(settings.snapshot.dir)
    snapshots = Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)

    def doors() -> Doors:
        source = KafkaSource(settings, clock)
        return Doors(source, KafkaSink(settings, clock, source), KafkaPast(settings, clock))

    worker = Worker(settings, parts, snapshots, clock, doors)
    try:
        pipeline, seconds = worker.start(), []
        while pipeline.records < events:
            begin, before = clock.monotonic(), pipeline.records
            worker.step()
            if pipeline.records - before == settings.worker.batch_events:
                seconds.append(clock.monotonic() - begin)
        return seconds[WARM_UP_STEPS:]
    finally:
        worker.close()


def fill(broker: str, folder: Path, events: int) -> None:
    """Produce the purchases to the topic `events`."""
    settings = settings_for(broker, folder, "fill", 256, "exactly_once", NEVER_S)
    create_topics(settings, {"events": 1}, {"retention.ms": "-1"})
    writer = KafkaWriter(settings, "events")
    for row in purchases(events):
        writer.write(str(row["user_id"]).encode(), orjson.dumps(row), row["event_time"])
    writer.flush()
    writer.close()


def cost_of_exactly_once(broker: str, folder: Path, events: int, rounds: int) -> list[dict[str, Any]]:
    """Return, for each size of micro-batch, the median step of both deliveries and their ratio."""
    rows = []
    for batch in (64, 256, 1024):
        steps: dict[str, list[float]] = {"exactly_once": [], "at_least_once": []}
        for turn in range(rounds):
            for delivery in steps:
                name = f"{delivery.replace('_', '-')}-{batch}-{turn}"
                steps[delivery] += run(settings_for(broker, folder, name, batch, delivery, NEVER_S), events)
        median = {delivery: statistics.median(seconds) for delivery, seconds in steps.items()}
        rows.append(
            {
                "batch_events": batch,
                **{f"{delivery}_ms": round(1000 * value, 2) for delivery, value in median.items()},
                "ratio": round(median["exactly_once"] / median["at_least_once"], 3),
            }
        )
        say(rows[-1])
    return rows


def cost_of_snapshots(broker: str, folder: Path, events: int, rounds: int) -> dict[str, float]:
    """Return p99 of a step with snapshots written all the time, without any, and their ratio."""
    p99: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(rounds):
        for which, every_s in (("with", 0.01), ("without", NEVER_S)):
            name = f"snapshots-{which}-{turn}"
            seconds = run(settings_for(broker, folder, name, 256, "exactly_once", every_s), events)
            p99[which].append(float(np.percentile(seconds, 99)))
    with_, without = statistics.median(p99["with"]), statistics.median(p99["without"])
    row = {
        "with_ms": round(1000 * with_, 1),
        "without_ms": round(1000 * without, 1),
        "ratio": round(with_ / without, 3),
    }
    say(row)
    return row


def say(row: dict[str, Any]) -> None:
    """Show a figure as soon as it is there."""
    sys.stderr.write(f"{json.dumps(row)}\n")


def main() -> None:
    """Run both and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("exactly_once", "snapshot_p99"), help="one of the two")
    wanted = parser.parse_args()
    parts = {"exactly_once": cost_of_exactly_once, "snapshot_p99": cost_of_snapshots}
    with LocalBroker() as broker, tempfile.TemporaryDirectory() as folder:
        address, path = broker.bootstrap_servers, Path(folder)
        fill(address, path, wanted.events)
        result = {
            name: measure(address, path, wanted.events, wanted.rounds)
            for name, measure in parts.items()
            if wanted.only in {None, name}
        }
    sys.stdout.write(f"{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
