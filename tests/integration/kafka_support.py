"""What the tests of the Kafka doors share: settings and topics of their own, reading, writing, waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Producer

from consumer.clock import SystemClock
from consumer.kafka_io import create_topics
from consumer.ports import PollLimits
from consumer.settings import KafkaSettings, Settings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK = SystemClock()
LIMITS = PollLimits(max_records=500, max_wait_s=0.2)
DEADLINE_S = 60.0
T0 = 1_700_000_000_000


def make_settings(bootstrap_servers: str, name: Callable[[str], str], **kafka: object) -> Settings:
    topics = {what: name(what) for what in ("events", "predictions", "dead_letters", "drift", "journal")}
    options = {"broker_wait_s": 20.0, "session_timeout_ms": 6000, "group": name("group"), **kafka}
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=bootstrap_servers, **options),
        topics=TopicSettings(**topics),
    )


def make_topics(settings: Settings, partitions: int = 1, config: dict[str, str] | None = None) -> None:
    topics = settings.topics
    names = (topics.events, topics.predictions, topics.dead_letters, topics.drift, topics.journal)
    create_topics(settings, dict.fromkeys(names, partitions), config)


def write(
    settings: Settings, values: list[bytes], partition: int = 0, times: list[int] | None = None, **options: object
):
    address = {"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0}
    producer = Producer({**address, **{name.replace("_", "."): value for name, value in options.items()}})
    for i, value in enumerate(values):
        producer.produce(settings.topics.events, value, b"k", partition, timestamp=times[i] if times else T0 + i)
    assert producer.flush(30) == 0


def read(source, count: int, limits: PollLimits = LIMITS):
    """Poll until so many records have come; returns the batches that hold any."""
    deadline, batches = CLOCK.monotonic() + DEADLINE_S, []
    while sum(len(batch.records) for batch in batches) < count:
        assert CLOCK.monotonic() < deadline, "the deadline has passed"
        batch = source.poll(limits)
        if batch.records:
            batches.append(batch)
    return batches


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + DEADLINE_S
    while not condition():
        assert CLOCK.monotonic() < deadline, "the deadline has passed"


def values(batches) -> list[bytes]:
    return [record.value for batch in batches for record in batch.records]
