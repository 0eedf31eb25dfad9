"""An independent reader of what is committed: one that reads all the time, also during the faults, and one at the end."""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Theirs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from confluent_kafka import Message

    from tests.faults.cluster import Cluster

OFFSETS_TOPIC = "__consumer_offsets"
READ_S = 60.0
ERROR_PREFIX = "__streams.errors."

Place = tuple[str, int, int]
"""Topic, partition, offset."""
Source = tuple[int, int]
"""Partition and offset in the input topic."""


class Seen(NamedTuple):
    """One record as it was read. A tombstone has the value None."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    at: float = 0.0

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset

    def header(self, name: str) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction or a dead letter: which record it answers, and where it stands."""

    source: Source
    kind: str
    key: bytes | None
    lineage: str
    batch: int
    seen: Seen


def answer_of(seen: Seen, kind: str) -> Answer:
    """Read a prediction or a dead letter."""
    if kind == "predictions":
        body = json.loads(seen.value or b"")
        source = body["source"]
        lineage = body["model_version"].rpartition("@")[0]
        return Answer((source["partition"], source["offset"]), kind, seen.key, lineage, body["batch"], seen)
    where = tuple(int(seen.header(ERROR_PREFIX + name) or -1) for name in ("partition", "offset"))
    return Answer((where[0], where[1]), kind, seen.key, "", 0, seen)


class Commit(NamedTuple):
    """One committed offset of the group, in the order in which they were committed."""

    partition: int
    offset: int


@dataclass(slots=True)
class GroupLog:
    """What `__consumer_offsets` says of one group: its commits on one topic, and its generations."""

    commits: list[Commit] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)


def group_log(records: Sequence[Seen], group: str, topic: str) -> GroupLog:
    """Read the records of `__consumer_offsets` (versions 0 and 1 of the key: an offset; 2: the group itself)."""
    log = GroupLog()
    for seen in records:
        if seen.key is None or seen.value is None:
            continue
        (version,) = struct.unpack_from(">h", seen.key)
        name, at = _text(seen.key, 2)
        if name != group:
            continue
        if version <= 1:
            its_topic, at = _text(seen.key, at)
            if its_topic == topic:
                log.commits.append(
                    Commit(struct.unpack_from(">i", seen.key, at)[0], struct.unpack_from(">q", seen.value, 2)[0])
                )
        elif version == 2:
            _, at = _text(seen.value, 2)
            log.generations.append(struct.unpack_from(">i", seen.value, at)[0])
    return log


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + length].decode(), at + 2 + length


def read_all(cluster: Cluster, topics: Sequence[str], *, committed: bool = True) -> dict[str, list[Seen]]:
    """Read whole topics with a new consumer; each in the order of its partitions. Raises TimeoutError."""
    found: dict[str, list[Seen]] = {topic: [] for topic in topics}
    for seen in _to_the_end(cluster, topics, committed=committed):
        found[seen.topic].append(seen)
    for records in found.values():
        records.sort(key=lambda seen: (seen.partition, seen.offset))
    return found


def consumer_of(cluster: Cluster, *, committed: bool = True) -> Consumer:
    """Return a consumer that belongs to no group in use and never commits."""
    return Consumer(
        {
            "bootstrap.servers": cluster.broker.bootstrap_servers,
            "group.id": f"{cluster.name}-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "reconnect.backoff.max.ms": 300,
            "log_level": 0,
        }
    )


def _to_the_end(cluster: Cluster, topics: Sequence[str], *, committed: bool) -> Iterator[Seen]:
    consumer = consumer_of(cluster, committed=committed)
    try:
        left = set(assign(consumer, topics))
        deadline = time.monotonic() + READ_S
        while left:
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    yield seen_of(message)
                elif message.error().code() == _EOF:
                    left.discard((message.topic(), message.partition()))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} could not be read in {READ_S:g} s")
    finally:
        consumer.close()


_EOF = -191  # librdkafka: the end of a partition


def assign(consumer: Consumer, topics: Sequence[str]) -> list[tuple[str, int]]:
    """Assign all partitions of the topics from their beginning. Raises TimeoutError where a topic stays unknown."""
    found = [(topic, partition) for topic in topics for partition in partitions_of(consumer, topic)]
    consumer.assign([Theirs(topic, partition, 0) for topic, partition in found])
    return found


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Return a topic's partitions; a topic that was made a moment ago has none yet, and is asked for again."""
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        known = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        if known:
            return known
        time.sleep(0.05)
    raise TimeoutError(f"{topic} is not known")


def seen_of(message: Message) -> Seen:
    """Return the client's message as a record."""
    return Seen(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
        time.monotonic(),
    )


class Reader(threading.Thread):
    """Reads predictions, dead letters and journal with read_committed while everything goes on."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="reader", daemon=True)
        self._cluster = cluster
        self._asked = threading.Event()
        self._answers = {cluster.topic(kind) for kind in ("predictions", "dead_letters")}
        self.records: list[Seen] = []
        self.sources: set[Source] = set()
        self.arrivals: list[tuple[float, str]] = []
        self.broken: str | None = None

    @property
    def progress(self) -> int:
        """How many input records have an answer."""
        return len(self.sources)

    def run(self) -> None:
        consumer = consumer_of(self._cluster)
        topics = [self._cluster.topic(kind) for kind in ("predictions", "dead_letters", "journal")]
        assign(consumer, topics)
        try:
            while not self._asked.is_set():
                for message in consumer.consume(500, 0.05):
                    if message.error() is None:
                        self._note(seen_of(message))
        except KafkaException as error:
            self.broken = str(error)
        finally:
            consumer.close()

    def _note(self, seen: Seen) -> None:
        self.records.append(seen)
        if seen.topic in self._answers:
            kind = "predictions" if seen.topic == self._cluster.topic("predictions") else "dead_letters"
            answer = answer_of(seen, kind)
            self.sources.add(answer.source)
            self.arrivals.append((seen.at, answer.lineage))

    def stop(self) -> None:
        self._asked.set()
        self.join(30)
