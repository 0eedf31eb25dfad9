"""Filling a topic fast: for the demo, and for dead letters that go back. The worker itself writes through `KafkaSink`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from consumer.clock import SystemClock
from consumer.kafka_io.admin import require_topics
from consumer.kafka_io.client import KafkaProducer
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect
from consumer.kafka_io.errors import translate
from consumer.kafka_io.options import producer_options
from consumer.kafka_io.sink import abandon
from consumer.sink_rules import partition_of

if TYPE_CHECKING:
    from consumer.ports import Clock, Headers
    from consumer.settings import Settings

_UNSENT = 20_000
_WAIT_S = 60.0


class KafkaWriter:
    """An idempotent producer on one topic with large batches; at most 20,000 records wait for their acknowledgement.

    Raises ConfigError when the topic is missing. Call `flush` at the end: only then is everything written.
    """

    def __init__(self, settings: Settings, topic: str, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._topic = topic
        self.partitions = require_topics(settings.kafka, [topic], clock)[topic].partitions
        self._waiting: deque[Any] = deque()
        options = {**producer_options(settings.kafka), "linger_ms": 20, "batch_size": 524_288}
        self._producer: Any = connect(KafkaProducer, options, settings.kafka, clock)

    def write(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        partition: int | None = None,
        headers: Headers = (),
    ) -> None:
        """Write one record; waits where too many are unacknowledged. Raises for an earlier record that failed.

        The client takes no null header and no record without key and value: they are written empty.
        """
        if partition is None and key is not None:
            partition = partition_of(key, self.partitions)
        try:
            if len(self._waiting) >= _UNSENT:
                self._waiting.popleft().get(timeout=_WAIT_S)
            self._waiting.append(
                self._producer.send(
                    self._topic,
                    key=key,
                    value=b"" if key is None and value is None else value,
                    headers=[(name, b"" if text is None else text) for name, text in headers],
                    timestamp_ms=timestamp_ms,
                    partition=partition,
                )
            )
        except k.KafkaError as error:
            raise translate(error, f"writing to topic {self._topic}") from error

    def flush(self) -> None:
        """Wait until every record is acknowledged. Raises for one that was not."""
        try:
            self._producer.flush(timeout=_WAIT_S)
            while self._waiting:
                self._waiting.popleft().get(timeout=_WAIT_S)
        except k.KafkaError as error:
            raise translate(error, f"writing to topic {self._topic}") from error

    def close(self) -> None:
        """Release the connection; what was not flushed may be lost."""
        abandon(self._producer)
