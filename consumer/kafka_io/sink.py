"""The output: records and the progress of the source, in one transaction (or one after the other)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from consumer.errors import Aborted, BrokerUnavailable, ConfigError, TidemillError, UnknownOutcome, VoidStateError
from consumer.kafka_io.admin import admin_client, no_such_journal_partition, require_topics
from consumer.kafka_io.client import KafkaProducer
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect
from consumer.kafka_io.errors import TOO_LARGE, after_the_end, before_the_end, describe, translate
from consumer.kafka_io.hanging import MarkerAdmin, end_hanging, find_hanging
from consumer.kafka_io.options import producer_options, transactional_options
from consumer.kafka_io.source import positions
from consumer.sink_rules import OutputTooLarge, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumer.kafka_io.source import KafkaSource
    from consumer.ports import Batch, Clock, Output, TopicInfo
    from consumer.settings import KafkaSettings, Settings

_DOING = "committing a micro-batch"
_CLOSE_S = 1.0


class KafkaSink:
    """Where predictions, dead letters and the positions of the source go.

    Making one waits for a broker, and with exactly-once delivery fences any older instance of the same name and ends
    what that left open: what was not committed is aborted, and what hangs is ended as it was decided (`hanging`).
    Raises BrokerUnavailable, also where a partition has no leader for so long, AccessError, or ConfigError when an
    output topic or the journal's partition is missing.
    With at-least-once delivery the positions go through `source`, which is then required.

    After Fenced, LostPartitions or UnknownOutcome this sink refuses every commit: its producer is never used again.
    """

    def __init__(self, settings: Settings, clock: Clock, source: KafkaSource | None = None) -> None:
        topics = settings.topics
        self._exactly_once = settings.kafka.delivery == "exactly_once"
        if source is None and not self._exactly_once:
            raise ValueError("at-least-once delivery commits through the source: pass it")
        self._source = source
        self._flush_s = 3 * settings.kafka.request_timeout_ms / 1000
        self._void: VoidStateError | None = None
        names = [topics.predictions, topics.dead_letters, topics.drift, topics.journal]
        written = [name for name in names if name != topics.drift or settings.drift.enabled]
        found = require_topics(settings.kafka, names, clock, {"WRITE": written})
        if found[topics.journal].partitions <= topics.journal_partition:
            raise ConfigError(no_such_journal_partition(settings, found[topics.journal].partitions))
        options = transactional_options if self._exactly_once else producer_options
        self._producer: Any = connect(KafkaProducer, options(settings.kafka), settings.kafka, clock)
        if self._exactly_once:
            self._begin(settings.kafka, found.values(), clock)

    def commit(self, outputs: Sequence[Output], batch: Batch) -> None:
        """Write the outputs and the positions after `batch`; nothing to write and no position: nothing is done.

        Exactly once:
        1. begin a transaction;
        2. send all outputs into it;
        3. flush;
        4. check every record's own future: the commit can succeed although records are missing, only these tell;
        5. add the positions, with the proof of membership that was taken when the batch was read;
        6. commit. Before this call nothing can become visible; after it, without an answer, nobody knows.

        At least once: send, flush, check every future, then store the positions.

        Raises OutputTooLarge or another Aborted where the abort was carried out, else Fenced, LostPartitions,
        UnknownOutcome or AccessError. No call has a timeout of its own but the flush: the watchdog ends a hang.
        """
        if not outputs and not batch.ranges:
            return
        if self._void is not None:
            raise self._void
        if self._exactly_once:
            self._commit_exactly_once(outputs, batch)
        else:
            self._commit_at_least_once(outputs, batch)

    def close(self) -> None:
        """Flush nothing, abort what is open, release the connection; safe to call twice."""
        abandon(self._producer)

    def _begin(self, kafka: KafkaSettings, outputs: Iterable[TopicInfo], clock: Clock) -> None:
        """Be the only one of this name, with nothing left open by the last one."""
        with admin_client(kafka, clock, MarkerAdmin) as admin:
            hanging = find_hanging(admin, kafka, outputs, clock)
            begin_alone(self._producer, kafka, clock)
            end_hanging(admin, kafka, hanging, clock)

    def _commit_exactly_once(self, outputs: Sequence[Output], batch: Batch) -> None:
        futures: list[Any] = []
        try:
            self._producer.begin_transaction()  # 1
            self._send(outputs, futures)  # 2
            self._flush()  # 3
            self._check(futures)  # 4
            if batch.ranges:
                self._producer.send_offsets_to_transaction(positions(batch), batch.owner)  # 5
        except k.KafkaError as error:
            raise self._undo(error, outputs, futures) from error
        try:
            self._producer.commit_transaction()  # 6
        except k.KafkaError as error:
            raise self._remember(after_the_end(error)(describe(error, _DOING))) from error

    def _commit_at_least_once(self, outputs: Sequence[Output], batch: Batch) -> None:
        futures: list[Any] = []
        try:
            self._send(outputs, futures)
            self._flush()
            self._check(futures)
        except k.KafkaError as error:
            index, cause = _cause(error, futures)
            raise self._explain(cause, index, outputs) from error
        if batch.ranges and self._source is not None:
            try:
                self._source.commit(batch)
            except VoidStateError as error:
                raise self._remember(error) from error.__cause__

    def _send(self, outputs: Sequence[Output], futures: list[Any]) -> None:
        """Send all, noting the future of each. The client takes no null header and no record without key and value."""
        partitions = {topic: len(self._producer.partitions_for(topic)) for topic in {o.topic for o in outputs}}
        for o in outputs:
            partition = o.partition
            if partition is None and o.key is not None:
                partition = partition_of(o.key, partitions[o.topic])
            futures.append(
                self._producer.send(
                    o.topic,
                    key=o.key,
                    value=b"" if o.key is None and o.value is None else o.value,
                    headers=[(name, b"" if value is None else value) for name, value in o.headers],
                    partition=partition,
                    timestamp_ms=o.timestamp_ms,
                )
            )

    def _flush(self) -> None:
        """Send what lingers. A batch that was split because of its size looks unfinished here: its futures decide."""
        with suppress(k.UnknownError):
            self._producer.flush(timeout=self._flush_s)

    def _check(self, futures: list[Any]) -> None:
        for future in futures:
            if not future.succeeded():
                future.get(timeout=self._flush_s)

    def _undo(self, error: k.KafkaError, outputs: Sequence[Output], futures: list[Any]) -> TidemillError:
        """Abort where the broker is known to answer, and return what to raise."""
        index, cause = _cause(error, futures)
        if before_the_end(cause).abort:
            try:
                self._producer.abort_transaction()
            except k.KafkaError as second:
                return self._remember(UnknownOutcome(describe(second, f"aborting after {type(cause).__name__}")))
        return self._explain(cause, index, outputs)

    def _explain(self, cause: k.KafkaError, index: int, outputs: Sequence[Output]) -> TidemillError:
        reaction = before_the_end(cause)
        if isinstance(cause, TOO_LARGE):
            return OutputTooLarge(index, len(outputs[index].value or b""))
        return self._remember(reaction.error(describe(cause, _DOING)))

    def _remember(self, error: TidemillError) -> TidemillError:
        """Never use this producer again, unless the transaction was aborted in good order."""
        if isinstance(error, VoidStateError):
            self._void = error
        elif not isinstance(error, Aborted):
            self._void = UnknownOutcome(f"this sink has failed before: {error}")
        return error


def begin_alone(producer: Any, kafka: KafkaSettings, clock: Clock) -> None:
    """Fence older producers of the same transactional id and end what they left open, inside `broker_wait_s`."""
    deadline = clock.monotonic() + kafka.broker_wait_s
    while True:
        try:
            producer.init_transactions()
        except k.KafkaError as error:
            if error.retriable and clock.monotonic() < deadline:
                continue  # each attempt waits max_block_ms, and goes on where the last one stopped
            abandon(producer)
            if error.retriable:
                raise BrokerUnavailable(describe(error, "starting transactions")) from error
            raise translate(error, "starting transactions") from error
        return


def abandon(producer: Any) -> None:
    """Close without waiting for anything unsent; an open transaction is aborted by the next producer of its name."""
    try:
        producer.close(timeout=_CLOSE_S)
    except k.KafkaTimeoutError:
        producer._sender.force_close()  # noqa: SLF001 - close() has no way to give up records that cannot be sent
        with suppress(k.KafkaTimeoutError):  # its thread is a daemon: it ends with the process at the latest
            producer.close(timeout=_CLOSE_S)


def _cause(error: k.KafkaError, futures: list[Any]) -> tuple[int, k.KafkaError]:
    """Return which output failed first for a reason of its own, and that reason; else the error that was raised."""
    if isinstance(error, TOO_LARGE) and all(not future.failed() for future in futures):
        return len(futures), error  # refused by the client before it was sent
    failed = [(i, future.exception) for i, future in enumerate(futures) if future.failed()]
    too_large = [(i, cause) for i, cause in failed if isinstance(cause, TOO_LARGE)]
    own = [(i, cause) for i, cause in failed if not isinstance(cause, k.TransactionAbortedError)]
    return (too_large or own or [(-1, error)])[0]
