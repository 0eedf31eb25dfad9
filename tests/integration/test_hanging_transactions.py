"""A transaction that its coordinator calls complete while partitions wait for its end, on a real broker."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from kafka_support import CLOCK, make_settings, make_topics, read, values, wait_until, write

from consumer.kafka_io import KafkaSink, KafkaSource, committed_lag, read_last
from consumer.kafka_io.client import KafkaPartition, KafkaProducer
from consumer.kafka_io.options import transactional_options
from consumer.kafka_io.sink import abandon
from consumer.kafka_io.source import positions
from consumer.ports import Output, PollLimits
from deploy.broker import LocalBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.ports import Batch
    from consumer.settings import Settings

ONE = PollLimits(max_records=1, max_wait_s=0.2)


@pytest.fixture(scope="module")
def gullible() -> Iterator[LocalBroker]:
    """A broker that takes records of a transaction without asking its coordinator."""
    with LocalBroker(properties={"transaction.partition.verification.enable": "false"}) as broker:
        yield broker


def leave_hanging(settings: Settings, value: bytes, batch: Batch, *, commit: bool) -> None:
    """End one transaction, then add a record and offsets of which its coordinator is never told.

    The client is loaded here, after `consumer.kafka_io.client` has: that silences its warnings.
    """
    from kafka.producer import transaction_manager as client

    predictions = KafkaPartition(settings.topics.predictions, 0)
    producer = KafkaProducer(**transactional_options(settings.kafka))
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(settings.topics.drift, key=b"k", value=b"other", partition=0).get(timeout=10)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    producer.begin_transaction()
    manager = producer._transaction_manager
    manager._partitions_in_transaction.add(predictions)  # so that the coordinator is not asked
    producer.send(predictions.topic, key=b"k", value=value, partition=0).get(timeout=10)
    done, offsets = client.TransactionalRequestResult(), manager._pending_txn_offset_commits
    offsets.update(positions(batch))
    with manager._lock:
        manager._enqueue_request(client.TxnOffsetCommitHandler(manager, batch.owner, offsets, done))
    producer._sender.wakeup()
    assert done.wait(10_000)
    abandon(producer)


@pytest.mark.parametrize("commit", [True, False])
def test_the_next_worker_ends_it_as_it_was_decided(gullible, unique_name, commit):
    settings = make_settings(gullible.bootstrap_servers, unique_name)
    make_topics(settings)
    topic = settings.topics.predictions
    write(settings, [b"v1", b"v2"])
    with closing(KafkaSource(settings, CLOCK)) as source:
        with closing(KafkaSink(settings, CLOCK, source)) as sink:
            sink.commit([Output(topic, b"k", b"p1")], read(source, 1, ONE)[0])
        leave_hanging(settings, b"p2", read(source, 1, ONE)[0], commit=commit)
    assert [record.value for record in read_last(settings, topic, 10)] == [b"p1"]

    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK, source)) as sink:
        if commit:
            wait_until(lambda: len(read_last(settings, topic, 10)) == 2)
            write(settings, [b"v3"])
        later = read(source, 1)[0]
        assert values([later]) == [b"v3" if commit else b"v2"]
        sink.commit([Output(topic, b"k", b"later")], later)
    wait_until(lambda: set(committed_lag(settings).values()) == {0})
    found = [record.value for record in read_last(settings, topic, 10)]
    assert found == ([b"p1", b"p2", b"later"] if commit else [b"p1", b"later"])
