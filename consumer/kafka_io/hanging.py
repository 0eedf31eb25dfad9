"""A transaction that hangs: its coordinator calls it complete, and a partition never got the marker that ends it.

Kafka itself can come to this where a topic has a single replica: a broker that starts or shuts down takes a partition
that has no leader at that moment for deleted, and leaves its marker out. Readers of committed records then stop before
it, and the committed offsets of the group are answered with "unstable", for ever.

Only the worker can tell such a transaction from one that goes on, because it alone owns its transactional id:
1. before it starts transactions it asks the coordinator how the last one of its id ended, and for what the partitions
   still hold open of it;
2. starting transactions fences every older process of the same id: none can add to what was found;
3. it writes the missing markers with the outcome that the coordinator had decided. A partition that has seen a newer
   epoch since then refuses.
This needs the right to describe the output topics' producers (READ) and to write markers (ALTER or CLUSTER_ACTION on the
cluster). Without it the worker says what an operator has to do, and goes on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from consumer.errors import AccessError, BrokerUnavailable, ConfigError, TransientError
from consumer.kafka_io.client import AbortTransactionSpec, KafkaAdminClient, KafkaPartition, TransactionState
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import retry
from consumer.kafka_io.options import transactional_id
from consumer.ports import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consumer.ports import Clock, TopicInfo
    from consumer.settings import KafkaSettings

T = TypeVar("T")

OFFSETS_TOPIC = "__consumer_offsets"

COMMITTED = {TransactionState.COMPLETE_COMMIT: True, TransactionState.COMPLETE_ABORT: False}
UNDER_WAY = (TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)
ADVICE = "end it with kafka-transactions.sh: see TidemillStuck in deploy/RUNBOOK.md"

log = structlog.get_logger(__name__)


class MarkerAdmin(KafkaAdminClient):  # type: ignore[misc]  # the base is untyped
    """The admin client with markers that commit too: its own only ever abort."""

    def write_marker(self, hanging: Hanging) -> None:
        """End what hangs in one partition, as its coordinator had decided."""
        self._commits = hanging.commits
        self.abort_transaction(
            AbortTransactionSpec(
                KafkaPartition(*hanging.partition),
                hanging.producer_id,
                hanging.producer_epoch,
                max(0, hanging.coordinator_epoch),
            )
        )

    def _abort_transaction_request(self, spec: Any) -> Any:
        request = super()._abort_transaction_request(spec)
        for marker in request.markers:
            marker.transaction_result = self._commits
        return request


@dataclass(frozen=True, slots=True)
class Hanging:
    """What a partition holds open of a transaction that is complete; `commits` is None where its outcome is not known."""

    partition: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commits: bool | None


def find_hanging(admin: Any, kafka: KafkaSettings, outputs: Iterable[TopicInfo], clock: Clock) -> list[Hanging]:
    """Return what the outputs and the group's offsets hold open of this worker's last transaction. Only looks.

    Call it before transactions are started: that makes the coordinator forget the outcome. Waits `broker_wait_s` for
    partitions without a leader. Raises BrokerUnavailable.
    """
    partitions = [(topic.name, number) for topic in outputs for number in range(topic.partitions)]
    try:
        ended = _retry(lambda: _ended(admin, transactional_id(kafka)), "looking at the last transaction", kafka, clock)
        if ended is None:
            return []
        partitions += _retry(
            lambda: _offsets_partition(admin, kafka.group), f"looking at {OFFSETS_TOPIC}", kafka, clock
        )
        asked = [KafkaPartition(*partition) for partition in partitions]
        found = _retry(lambda: admin.describe_producers(asked), "looking for what hangs", kafka, clock)
    except (AccessError, ConfigError) as error:  # no right to look, or a broker older than 3.0
        log.info("hanging transactions are not looked for", reason=str(error))
        return []
    return [
        Hanging(
            TopicPartition(*partition),
            state.producer_id,
            state.producer_epoch,
            state.coordinator_epoch,
            COMMITTED.get(ended.state),
        )
        for partition, producers in sorted(found.items())
        for state in producers.active_producers
        if state.producer_id == ended.producer_id and state.current_transaction_start_offset >= 0
    ]


def end_hanging(admin: MarkerAdmin, kafka: KafkaSettings, hanging: Iterable[Hanging], clock: Clock) -> None:
    """Write the markers that are missing. Call it after transactions were started, which fences older processes.

    Raises BrokerUnavailable.
    """
    for one in hanging:
        where = {"topic": one.partition.topic, "partition": one.partition.partition, "committed": one.commits}
        if one.commits is None:
            log.error("a transaction hangs, and how it ended is not known any more", what_to_do=ADVICE, **where)
            continue
        try:
            _retry(partial(_end, admin, one), "ending a hanging transaction", kafka, clock)
        except AccessError as error:
            log.error("a transaction hangs", reason=str(error), what_to_do=ADVICE, **where)  # noqa: TRY400 - no trace
        else:
            log.warning("a transaction hung: the broker had left its end out, it is written now", **where)


def partition_of_group(group: str, partitions: int) -> int:
    """Return which partition of Kafka's offsets topic is the group's: Java's hash of its name decides."""
    hash_ = 0
    for unit in memoryview(group.encode("utf-16-le")).cast("H"):
        hash_ = (31 * hash_ + unit) & 0xFFFFFFFF
    return (hash_ & 0x7FFFFFFF) % partitions


def _retry(call: Callable[[], T], doing: str, kafka: KafkaSettings, clock: Clock) -> T:
    """Wait as long as for a broker: without its outcome a transaction that hangs could not be ended any more."""
    try:
        return retry(call, doing, clock, within_s=kafka.broker_wait_s)
    except TransientError as error:
        raise BrokerUnavailable(str(error)) from error


def _offsets_partition(admin: Any, group: str) -> list[tuple[str, int]]:
    """Return where the group's offsets are kept; nothing where no group has stored any."""
    topic = admin.describe_topics([OFFSETS_TOPIC])[0]
    partitions = len(topic["partitions"])
    return [(OFFSETS_TOPIC, partition_of_group(group, partitions))] if partitions else []


def _ended(admin: Any, transactional_id: str) -> Any:
    """Return the description of the id's last transaction, None where there was none or it will be aborted."""
    try:
        described = admin.describe_transactions([transactional_id])[transactional_id]
    except k.TransactionalIdNotFoundError:
        return None
    if described.state in UNDER_WAY:
        raise k.ConcurrentTransactionsError("the last transaction is about to end")
    return None if described.state == TransactionState.ONGOING else described


def _end(admin: MarkerAdmin, hanging: Hanging) -> None:
    with suppress(k.InvalidProducerEpochError, k.ProducerFencedError):  # ended since then
        admin.write_marker(hanging)
