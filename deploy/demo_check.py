"""Reads the predictions back with a client that shares nothing with the worker's, and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from consumer.errors import TransientError

if TYPE_CHECKING:
    from consumer.ports import Clock
    from consumer.settings import Settings

AT_ONCE = 5000
STALLED_S = 30.0
FIELDS = ("user_id", "source", "items", "model_version", "batch")


@dataclass(slots=True)
class Findings:
    """Counts over all committed predictions."""

    predictions: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    malformed: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is nothing to complain about."""
        return not (self.duplicates or self.out_of_order or self.malformed)

    def text(self) -> str:
        """Return one line for people."""
        return (
            f"{self.predictions:,} predictions read back (read_committed, librdkafka): {self.duplicates} twice, "
            f"{self.out_of_order} out of order, {self.malformed} malformed"
        )


def check_predictions(settings: Settings, clock: Clock) -> Findings:
    """Read the whole predictions topic. Raises TransientError where it does not come to its end."""
    topic = settings.topics.predictions
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"{settings.kafka.group}-check",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=STALLED_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        return _read(consumer, len(partitions), clock)
    finally:
        consumer.close()


def _read(consumer: Consumer, partitions: int, clock: Clock) -> Findings:
    findings, ended = Findings(), 0
    seen: set[tuple[int, int]] = set()
    last: dict[str, int] = {}
    deadline = clock.monotonic() + STALLED_S
    while ended < partitions:
        messages = consumer.consume(AT_ONCE, timeout=1.0)
        if messages:
            deadline = clock.monotonic() + STALLED_S
        elif clock.monotonic() > deadline:
            raise TransientError(f"no end of the predictions for {STALLED_S:g} s")
        for message in messages:
            error = message.error()
            if error is None:
                _look_at(message.value(), findings, seen, last)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own name for it
                ended += 1
            else:
                raise TransientError(f"reading the predictions back: {error}")
    return findings


def _look_at(value: bytes, findings: Findings, seen: set[tuple[int, int]], last: dict[str, int]) -> None:
    findings.predictions += 1
    try:
        body = orjson.loads(value)
        source = body["source"]["partition"], body["source"]["offset"]
        user = str(body["user_id"])
        complete = all(body.get(field) is not None for field in FIELDS)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        findings.malformed += 1
        return
    findings.malformed += not complete
    findings.duplicates += source in seen
    findings.out_of_order += source[1] <= last.get(user, -1)
    seen.add(source)
    last[user] = source[1]
