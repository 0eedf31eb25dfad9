"""The input: events with unique ids, written by an independent client, never far ahead of the outputs.

Staying only a little ahead makes every fault fall into the middle of the run: there is always work in flight.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import Message

    from tests.faults.cluster import Cluster

T0 = 1_700_000_000
USERS_PER_PARTITION = 12
CHUNK = 40
"""Records in a transaction, where the input has such."""
ITEMS = 40
POISON = "poison"
"""Header of the records that must become dead letters: what is expected stands in the input itself."""

GARBAGE: tuple[bytes | None, ...] = (
    None,
    b"",
    b"{not json",
    b"[1, 2]",
    b'{"item_id": 3}',
    b'{"user_id": 1.5, "item_id": 3}',
    b'{"user_id": "u", "item_id": ""}',
    b"\xff\xfe",
    b"[" * 4000 + b"]" * 4000,
)


@dataclass(slots=True)
class Shape:
    """What the events look like: how many are poison, and what makes an event special (`strange`)."""

    poison: float = 0.0
    strange: float = 0.0
    make_strange: Callable[[random.Random, dict[str, object]], bytes] | None = None
    strange_is_poison: bool = False
    users: int = USERS_PER_PARTITION
    """Users in each partition; 0: every event has a user of its own."""
    items: int = ITEMS
    aborted: float | None = None
    """Write in transactions, this share of which is aborted; None: without transactions."""
    keep_ahead: int = 400
    at_least_s: float = 0.0
    """Spread the events over at least so many seconds, for faults that take their time."""


class Traffic(threading.Thread):
    """Writes `total` events; `progress` tells how many outputs there are."""

    def __init__(self, cluster: Cluster, total: int, seed: int, shape: Shape, progress: Callable[[], int]) -> None:
        super().__init__(name="traffic", daemon=True)
        self.cluster, self.total, self.shape = cluster, total, shape
        self._progress = progress
        self._draw = random.Random(seed)
        self._asked = threading.Event()
        self.sent = 0
        self.acked = 0
        self.acked_in: Counter[int] = Counter()  # by partition
        self.places: set[tuple[int, int]] = set()  # where the broker said that they are
        self.acked_twice = self.acked_nowhere = 0  # records with the place of another, with none
        self.failed: list[str] = []
        self._partitions = cluster.partitions
        transactions = {} if shape.aborted is None else {"transactional.id": f"{cluster.name}-traffic"}
        self._producer = Producer(
            {
                **transactions,
                "bootstrap.servers": cluster.broker.bootstrap_servers,
                "log_level": 0,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 55_000 if transactions else 600_000,
                "message.max.bytes": 4_000_000,
                "reconnect.backoff.max.ms": 500,
            }
        )

    def add_partitions(self, count: int) -> None:
        """Write to so many partitions from now on; users stay where they are, new ones come to the new partitions."""
        topic = self.cluster.topic("events")
        while len(self._producer.list_topics(topic, timeout=30).topics[topic].partitions) < count:
            time.sleep(0.05)
        self._partitions = count

    def run(self) -> None:
        if self.shape.aborted is not None:
            self._producer.init_transactions()
        pause_s, due = self.shape.at_least_s / self.total, time.monotonic()
        for number in range(self.total):
            due = max(due + pause_s, time.monotonic())
            while time.monotonic() < due and not self._asked.is_set():
                self._producer.poll(0.002)
            while self.sent - self._progress() > self.shape.keep_ahead:
                self._producer.poll(0.01)
                if self._asked.is_set():
                    return
            if self._asked.is_set():
                return
            if self.shape.aborted is not None and number % CHUNK == 0:
                self._next_transaction(number, self.shape.aborted)
            self._send(number)
        self._flush()

    def _next_transaction(self, number: int, aborted: float) -> None:
        """Commit what was sent; now and then write records that are never committed; begin anew."""
        if number:
            self._producer.commit_transaction()
        if self._draw.random() < aborted:
            self._producer.begin_transaction()
            for ghost in range(CHUNK):
                self._produce(self._draw.randrange(self._partitions), f"ghost{ghost}", b'{"user_id": 0, "item_id": 0}')
            self._producer.flush(60)
            self._producer.abort_transaction()
        self._producer.begin_transaction()

    def _flush(self) -> None:
        self._producer.flush(120)
        if self.shape.aborted is not None and self.sent:
            self._producer.commit_transaction()

    def stop(self) -> None:
        """End now; what was sent is flushed."""
        self._asked.set()
        self.join(30)
        self._producer.flush(30)  # what an open transaction holds is aborted by the broker in the end

    @property
    def done(self) -> bool:
        return not self.is_alive() and self.acked == self.sent

    def _send(self, number: int) -> None:
        draw = self._draw
        partition = draw.randrange(self._partitions)
        user = f"u{partition}-{draw.randrange(self.shape.users) if self.shape.users else number}"
        seconds = T0 + number
        event: dict[str, object] = {
            "user_id": user,
            "item_id": draw.randrange(self.shape.items),
            "event_type": draw.choice(("view", "buy")),
            "event_time": seconds,
            "event_id": number + 1,
        }
        value: bytes | None = json.dumps(event).encode()
        headers: list[tuple[str, str | bytes]] = [("number", str(number).encode())]
        kind = draw.random()
        if kind < self.shape.poison:
            value = draw.choice(GARBAGE)
            headers.append((POISON, b"1"))
        elif kind < self.shape.poison + self.shape.strange and self.shape.make_strange is not None:
            value = self.shape.make_strange(draw, event)
            if self.shape.strange_is_poison:
                headers.append((POISON, b"1"))
        more = {"timestamp": seconds * 1000, "headers": headers, "on_delivery": self._delivered}
        self._produce(partition, user, value, **more)
        self.sent += 1
        self._producer.poll(0)

    def _produce(self, partition: int, user: str, value: bytes | None, **more: Any) -> None:
        """Write one record, waiting where the client's buffer is full."""
        while True:
            try:
                self._producer.produce(self.cluster.topic("events"), value, user.encode(), partition, **more)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: object, message: Message) -> None:
        if error is None:
            self.acked += 1
            self.acked_in[message.partition()] += 1
            place = message.partition(), message.offset()
            self.acked_nowhere += place[1] < 0
            self.acked_twice += place in self.places
            self.places.add(place)
        else:
            self.failed.append(str(error))
