"""A worker as a process on a real broker, with topics of its own, and an independent reader of what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from consumer.kafka_io import create_topics
from consumer.load_settings import show
from consumer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "context": 16},
    "history": {"length": 24},
    "learning": {"rehearsal_capacity": 256, "rehearsal_length": 16, "negatives": 128},
    "evaluation": {"baselines": False},
    "worker": {"batch_events": 128, "poll_wait_s": 0.1},
    "log": {"format": "json"},
}


def until(condition, seconds: float, what: str):
    """Wait for a condition with a deadline; returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)  # between two looks at the condition
    return found


@dataclass
class Bench:
    """Settings, topics and files of one test."""

    address: str
    folder: Path
    name: str
    partitions: int = 1
    more: dict[str, dict[str, Any]] = field(default_factory=dict)

    def settings(self, **sections: dict[str, Any]) -> Settings:
        topics = ("events", "predictions", "dead_letters", "drift", "journal")
        own = {
            "kafka": {"bootstrap_servers": self.address, "group": self.name, "instance": self.name},
            "topics": {topic: f"{self.name}-{topic}" for topic in topics},
            "snapshot": {"dir": str(self.folder / "state"), "every_s": 1.0},
            "metrics": {"enabled": False},
        }
        tree: dict[str, dict[str, Any]] = {}
        for part in (SMALL, own, self.more, sections):
            for section, values in part.items():
                tree[section] = tree.get(section, {}) | values
        return Settings.model_validate(tree, strict=False)

    def make_topics(self, events_config: dict[str, str] | None = None) -> None:
        topics = self.settings().topics
        create_topics(self.settings(), {topics.events: self.partitions}, events_config)
        others = (topics.predictions, topics.dead_letters, topics.drift, topics.journal)
        create_topics(self.settings(), dict.fromkeys(others, 1))

    def produce(self, values: list[bytes], keys: list[bytes] | None = None, **options: Any) -> None:
        producer = Producer({"bootstrap.servers": self.address, "message.max.bytes": 10_000_000, **options})
        for index, value in enumerate(values):
            key = keys[index] if keys else str(index % 40).encode()
            producer.produce(self.settings().topics.events, value=value, key=key)
        assert producer.flush(60) == 0

    def events(self, count: int, start: int = 0) -> list[bytes]:
        return [
            orjson.dumps(
                {
                    "user_id": number % 40,
                    "item_id": f"item {(number * 7) % 50}",
                    "event_id": number + 1,
                    "event_type": "view" if number % 3 else "buy",
                    "event_time": 1_700_000_000 + number,
                }
            )
            for number in range(start, start + count)
        ]

    def command(self, *options: str, **sections: dict[str, Any]) -> list[str]:
        config = self.folder / "tidemill.toml"
        config.write_text(show(self.settings(**sections)))
        return [sys.executable, "-m", "consumer.cli", "run", "-c", str(config), *options]

    def start(self, *options: str, **sections: dict[str, Any]) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(self.command(*options, **sections), stdout=log, stderr=log, env=environ)

    def run(self, *options: str, seconds: float = 90.0, **sections: dict[str, Any]) -> int:
        process = self.start(*options, **sections)
        try:
            return process.wait(seconds)
        finally:
            process.kill()

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def read(self, topic: str) -> list[Message]:
        """All committed records of a topic, by a client that shares nothing with ours."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": f"{self.name}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        try:
            partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
            return _read(consumer, len(partitions))
        finally:
            consumer.close()

    def predictions(self) -> list[dict[str, Any]]:
        return [json.loads(message.value()) for message in self.read(self.settings().topics.predictions)]

    def sources(self) -> list[tuple[int, int]]:
        return [(body["source"]["partition"], body["source"]["offset"]) for body in self.predictions()]

    def committed(self) -> dict[int, int]:
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": self.name, "log_level": 0})
        try:
            topic = self.settings().topics.events
            found = consumer.committed([TopicPartition(topic, p) for p in range(self.partitions)], timeout=30)
            return {tp.partition: tp.offset for tp in found}
        finally:
            consumer.close()


def _read(consumer: Consumer, partitions: int) -> list[Message]:
    messages: list[Message] = []
    ended, deadline = 0, time.monotonic() + 60
    while ended < partitions:
        assert time.monotonic() < deadline, "the topic does not come to its end"
        for message in consumer.consume(1000, timeout=0.5):
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended += 1
            else:
                raise AssertionError(str(message.error()))
    return messages
