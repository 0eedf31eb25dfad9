"""The input: events with unique ids, written by an independent client, never far ahead of the outputs.

Staying only a little ahead makes every fault fall into the middle of the run: there is always work in flight.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.cluster import Cluster

T0 = 1_700_000_000
USERS_PER_PARTITION = 12
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
    aborted: float = 0.0
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
        self.free = threading.Event()  # set: do not wait for the outputs any more
        self.sent = 0
        self.acked = 0
        self.failed: list[str] = []
        self._partitions = cluster.partitions
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.broker.bootstrap_servers,
                "log_level": 0,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
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
        pause_s, due = self.shape.at_least_s / self.total, time.monotonic()
        for number in range(self.total):
            due = max(due + pause_s, time.monotonic())
            while time.monotonic() < due and not self.free.is_set() and not self._asked.is_set():
                self._producer.poll(0.002)
            while self.sent - self._progress() > self.shape.keep_ahead and not self.free.is_set():
                self._producer.poll(0.01)
                if self._asked.is_set():
                    return
            if self._asked.is_set():
                return
            self._send(number)
        self._producer.flush(120)

    def stop(self) -> None:
        """End now; what was sent is flushed."""
        self._asked.set()
        self.join(30)
        self._producer.flush(30)

    @property
    def done(self) -> bool:
        return not self.is_alive() and self.acked == self.sent

    def _send(self, number: int) -> None:
        draw = self._draw
        partition = draw.randrange(self._partitions)
        user = f"u{partition}-{draw.randrange(USERS_PER_PARTITION)}"
        seconds = T0 + number
        event: dict[str, object] = {
            "user_id": user,
            "item_id": draw.randrange(ITEMS),
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
        while True:
            try:
                self._producer.produce(
                    self.cluster.topic("events"),
                    value,
                    user.encode(),
                    partition,
                    timestamp=seconds * 1000,
                    headers=headers,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self.sent += 1
        self._producer.poll(0)

    def _delivered(self, error: object, _message: object) -> None:
        if error is None:
            self.acked += 1
        else:
            self.failed.append(str(error))
