"""Two worlds with one face: the log in memory, and a real Kafka broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

from consumer.clock import SystemClock
from consumer.memory_io import MemoryLog, MemorySink, MemorySource
from consumer.ports import Batch, PollLimits, Record, Sink, Source, TopicPartition
from consumer.settings import KafkaSettings, Settings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable

Delivery = Literal["exactly_once", "at_least_once"]
DEADLINE_S = 60.0
LIMITS = PollLimits(max_records=1000, max_wait_s=0.2)


class World(Protocol):
    """A place with three topics and a group, seen from outside."""

    events: str
    predictions: str

    def source(self, instance: str = "a", *, until_end: bool = False) -> Source: ...
    def sink(
        self, instance: str = "a", *, source: Source | None = None, delivery: Delivery = "exactly_once"
    ) -> Sink: ...
    def write(self, key: bytes, value: bytes, partition: int) -> None: ...
    def visible(self, topic: str) -> list[Record]: ...
    def committed(self) -> dict[TopicPartition, int]: ...
    def close(self) -> None: ...


class MemoryWorld:
    events, predictions = "events", "predictions"

    def __init__(self, partitions: int) -> None:
        self.log = MemoryLog({"events": partitions, "predictions": 2, "dead-letters": 1, "drift": 1})

    def source(self, instance="a", *, until_end=False) -> Source:
        return MemorySource(self.log, self.events, "group", instance=instance, until_end=until_end)

    def sink(self, instance="a", *, source=None, delivery="exactly_once") -> Sink:  # noqa: ARG002 - Kafka's needs it
        return MemorySink(self.log, "group", instance=instance, delivery=delivery)

    def write(self, key, value, partition) -> None:
        self.log.append(self.events, key, value, partition=partition, timestamp_ms=1_700_000_000_000)

    def visible(self, topic) -> list[Record]:
        return self.log.records(topic)

    def committed(self) -> dict[TopicPartition, int]:
        return self.log.committed("group")

    def close(self) -> None:
        return


class KafkaWorld:
    def __init__(self, bootstrap_servers: str, partitions: int) -> None:
        from consumer.kafka_io import create_topics

        run = uuid4().hex[:8]
        self.events, self.predictions = f"events-{run}", f"predictions-{run}"
        topics = {
            self.events: partitions,
            self.predictions: 2,
            f"dead-{run}": 1,
            f"drift-{run}": 1,
            f"journal-{run}": 1,
        }
        self.clock = SystemClock()
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=bootstrap_servers, group=f"group-{run}", broker_wait_s=30.0),
            topics=TopicSettings(
                events=self.events,
                predictions=self.predictions,
                dead_letters=f"dead-{run}",
                drift=f"drift-{run}",
                journal=f"journal-{run}",
            ),
        )
        create_topics(self.settings, topics, {"max.message.bytes": "500000"})
        self._opened: list[Any] = []
        self._producer: Any = None

    def source(self, instance="a", *, until_end=False) -> Source:
        from consumer.kafka_io import KafkaSource

        return self._keep(KafkaSource(self._as(instance), self.clock, until_end=until_end))

    def sink(self, instance="a", *, source=None, delivery="exactly_once") -> Sink:
        from consumer.kafka_io import KafkaSink

        return self._keep(KafkaSink(self._as(instance, delivery), self.clock, source))

    def write(self, key, value, partition) -> None:
        """Through a client of another make, so that nothing is only readable to its own writer."""
        if self._producer is None:
            from confluent_kafka import Producer

            self._producer = Producer({"bootstrap.servers": self.settings.kafka.bootstrap_servers, "linger.ms": 1})
        self._producer.produce(self.events, value, key, partition=partition, timestamp=1_700_000_000_000)
        assert self._producer.flush(30) == 0

    def visible(self, topic) -> list[Record]:
        """What a read_committed reader sees, once the markers of ended transactions are written: that takes a moment."""
        from confluent_kafka import Consumer
        from confluent_kafka import TopicPartition as Theirs

        wait_until(lambda: self._ends(topic, committed=True) == self._ends(topic, committed=False))
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "group.id": uuid4().hex,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        partitions = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([Theirs(topic, p, 0) for p in partitions])
        records, ended = [], set()
        while len(ended) < len(partitions):
            message = consumer.poll(30)
            assert message is not None
            if message.error():
                ended.add(message.partition())
            else:
                time_ms = message.timestamp()[1]
                headers = tuple(message.headers() or ())
                at = (topic, message.partition(), message.offset())
                records.append(Record(*at, time_ms, message.key(), message.value(), headers))
        consumer.close()
        return sorted(records)

    def committed(self) -> dict[TopicPartition, int]:
        """The group's offsets, once none of them is pending in an ended transaction."""
        from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException

        group, admin = self.settings.kafka.group, self._admin()
        listed: list[Any] = []

        def stable() -> bool:
            asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], require_stable=True)
            try:
                listed.append(asked[group].result(timeout=30))
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNSTABLE_OFFSET_COMMIT:
                    raise
            return bool(listed)

        wait_until(stable)
        return {TopicPartition(tp.topic, tp.partition): tp.offset for tp in listed[0].topic_partitions}

    def _ends(self, topic: str, *, committed: bool) -> list[int]:
        from confluent_kafka import IsolationLevel
        from confluent_kafka import TopicPartition as Theirs
        from confluent_kafka.admin import OffsetSpec

        admin = self._admin()
        partitions = sorted(admin.list_topics(topic, timeout=30).topics[topic].partitions)
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        asked = admin.list_offsets({Theirs(topic, p): OffsetSpec.latest() for p in partitions}, isolation_level=level)
        return [asked[tp].result(30).offset for tp in sorted(asked, key=lambda tp: tp.partition)]

    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers, "log_level": 0})

    def close(self) -> None:
        for opened in reversed(self._opened):
            opened.close()

    def _as(self, instance: str, delivery: Delivery = "exactly_once") -> Settings:
        short = {"instance": instance, "delivery": delivery, "session_timeout_ms": 6000}
        return self.settings.model_copy(update={"kafka": self.settings.kafka.model_copy(update=short)})

    def _keep(self, opened: Any) -> Any:
        self._opened.append(opened)
        return opened


def wait_until(condition: Callable[[], bool]) -> None:
    """Call until it is true; what it does is up to it."""
    clock = SystemClock()
    deadline = clock.monotonic() + DEADLINE_S
    while not condition():
        assert clock.monotonic() < deadline, "the deadline has passed"


def poll_until(source: Source, enough: Callable[[list[Batch]], bool], limits: PollLimits = LIMITS) -> list[Batch]:
    """Poll until the batches are enough; all of them are returned, the empty ones too."""
    batches: list[Batch] = []

    def polled() -> bool:
        if enough(batches):
            return True
        batches.append(source.poll(limits))
        return False

    wait_until(polled)
    return batches


def read(source: Source, count: int, limits: PollLimits = LIMITS) -> list[Batch]:
    """Poll until `count` records have come; return the batches that hold any."""
    batches = poll_until(source, lambda seen: sum(len(b.records) for b in seen) >= count, limits)
    return [batch for batch in batches if batch.records]
