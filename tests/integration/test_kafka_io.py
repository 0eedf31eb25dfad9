"""The Kafka doors against a real broker: what the contract suite, which also runs in memory, cannot ask."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import closing, suppress

import pytest
from confluent_kafka import TopicPartition as Theirs
from confluent_kafka.admin import (
    AdminClient,
)
from kafka_support import CLOCK, LIMITS, T0, make_settings, make_topics, read, values, wait_until, write

from consumer.check import check
from consumer.errors import ConfigError, InputTruncated, StateError, TidemillError
from consumer.kafka_io import (
    KafkaRangeSource,
    KafkaSink,
    KafkaSource,
    KafkaWriter,
    committed_lag,
    create_topics,
    topic_info,
)
from consumer.kafka_io.client import codec
from consumer.ports import OffsetRange, Output, PollLimits, TopicPartition

# --- connecting


WITHOUT_BROKER = """
import threading, time
from consumer.clock import SystemClock
from consumer.errors import BrokerUnavailable
from consumer.kafka_io import KafkaSink, KafkaSource
from consumer.settings import KafkaSettings, Settings

began = time.monotonic()
for door in (KafkaSource, KafkaSink):
    try:
        door(Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", broker_wait_s=1.0)), SystemClock())
    except BrokerUnavailable as error:
        print(error)
while threading.active_count() > 1:
    pass
print(time.monotonic() - began)
"""


def test_no_broker_is_told_within_the_deadline_and_leaves_no_thread():
    """In a process of its own: the client leaves sockets that were refused to the garbage collector."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_BROKER], check=True, capture_output=True, text=True, timeout=60)
    lines = [line for line in ran.stdout.splitlines() if "waiting" not in line]
    for told in lines[:2]:
        assert "no broker at 127.0.0.1:1 answered for 1 s (PLAINTEXT)" in told
        assert "ECONNREFUSED" in told
    assert float(lines[2]) < 8


def test_a_missing_topic_is_named_with_what_to_do_and_not_created(settings):
    with pytest.raises(ConfigError) as caught:
        KafkaSource(settings, CLOCK)
    assert settings.topics.events in str(caught.value)
    assert "tidemill check --create" in str(caught.value)
    assert "kafka-topics.sh --bootstrap-server" in str(caught.value)
    create_topics(settings, {settings.topics.events: 1})
    with pytest.raises(ConfigError) as caught:
        KafkaSink(settings, CLOCK)
    assert settings.topics.drift in str(caught.value)
    assert list(topic_info(settings, [settings.topics.events, settings.topics.drift])) == [settings.topics.events]


def test_creating_topics_twice_changes_nothing(settings):
    name = settings.topics.events
    assert create_topics(settings, {name: 3}, {"retention.ms": "-1"}) == [name]
    assert create_topics(settings, {name: 5}) == []
    info = topic_info(settings, [name])[name]
    assert (info.partitions, info.config["retention.ms"]) == (3, "-1")


def test_check_says_what_is_there_and_what_is_not(settings):
    create_topics(settings, {settings.topics.events: 2})
    write(settings, [b'{"user_id":"u1","item_id":7,"event_type":"view"}', b"no json"])
    report = check(settings, sample=5)
    shown = report.render()
    assert not report.ok
    assert f"topic '{settings.topics.events}': 2 partitions" in shown
    assert f"--create --topic {settings.topics.predictions}" in shown
    assert "user_id='u1' item_id=7 event_type='view'" in shown
    assert "1 of the last 2 records cannot be decoded" in shown
    assert settings.topics.predictions not in topic_info(settings, [settings.topics.predictions])

    report = check(settings, sample=0, create=True)
    assert report.ok
    assert topic_info(settings, [settings.topics.predictions])[settings.topics.predictions].partitions == 2
    assert "transactions: allowed" in report.render()


# --- reading


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_of_kafka_can_be_read(settings, compression):
    make_topics(settings)
    text = [b"%d " % i * 300 for i in range(300)]
    write(settings, text, compression_type=compression)
    with closing(KafkaSource(settings, CLOCK)) as source:
        assert values(read(source, 300)) == text


def test_a_codec_without_its_package_is_a_clear_error_each_time(settings, monkeypatch):
    make_topics(settings)
    write(settings, [b"x" * 1000] * 50, compression_type="zstd")
    monkeypatch.setattr(codec, "zstd", None)
    with closing(KafkaSource(settings, CLOCK)) as source:
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"zstd.*Python package is missing"):
                read(source, 1)


def test_a_large_record_can_be_read(settings):
    make_topics(settings, config={"max.message.bytes": "4000000"})
    large = random.Random(1).randbytes(2_000_000)
    write(settings, [b"a", large, b"b"], message_max_bytes=4_000_000)
    with closing(KafkaSource(settings, CLOCK)) as source:
        assert values(read(source, 3)) == [b"a", large, b"b"]


def test_a_new_group_can_begin_at_the_end(settings):
    make_topics(settings)
    write(settings, [b"old"] * 5)
    kafka = settings.kafka.model_copy(update={"auto_offset_reset": "latest"})
    with closing(KafkaSource(settings.model_copy(update={"kafka": kafka}), CLOCK)) as source:
        wait_until(lambda: bool(source.poll(LIMITS).assignment))
        write(settings, [b"new"])
        assert values(read(source, 1)) == [b"new"]


def test_a_position_that_the_topic_no_longer_holds_is_an_error_not_a_jump(settings):
    make_topics(settings)
    write(settings, [b"%d" % i for i in range(10)])
    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK)) as sink:
        sink.commit([], read(source, 2, PollLimits(2, 0.2))[0])
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for future in admin.delete_records([Theirs(settings.topics.events, 0, 6)]).values():
        future.result(30)
    with closing(KafkaSource(settings, CLOCK)) as source, pytest.raises(StateError, match="no longer holds"):
        read(source, 1)
    with (
        closing(KafkaRangeSource(settings, settings.topics.events, start={0: 2})) as history,
        pytest.raises(StateError),
    ):
        history.poll(LIMITS)


@pytest.mark.parametrize("on_truncation", ["stop", "earliest", "fresh"])
def test_retention_that_overtakes_a_reader_is_dealt_with_as_the_settings_say(settings, on_truncation):
    recovery = settings.recovery.model_copy(update={"on_truncation": on_truncation})
    settings = settings.model_copy(update={"recovery": recovery})
    make_topics(settings)
    write(settings, [b"%d" % i for i in range(10)])
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    with closing(KafkaSource(settings, CLOCK)) as source:
        batch = read(source, 2, PollLimits(2, 0.2))[0]
        for future in admin.delete_records([Theirs(settings.topics.events, 0, 6)]).values():
            future.result(30)
        source.seek_back(batch)  # the client had fetched further already
        if on_truncation == "stop":
            with pytest.raises(InputTruncated, match=r"partition 0 at 0, begins at 6 now.*recovery\.on_truncation"):
                read(source, 1)
            return
        later = read(source, 4)
        assert values(later) == [b"6", b"7", b"8", b"9"]
        assert later[0].ranges == (OffsetRange(TopicPartition(settings.topics.events, 0), 6, 10),)


# --- writing


def test_the_writer_fills_a_topic(settings):
    make_topics(settings, partitions=4)
    with closing(KafkaWriter(settings, settings.topics.events)) as writer:
        for i in range(25_000):
            writer.write(b"user-%d" % (i % 100), b"%d" % i, T0 + i)
        writer.flush()
    with closing(KafkaRangeSource(settings, settings.topics.events)) as history:
        records = history.poll(PollLimits(30_000, 0.2)).records
    assert [int(r.value) for r in records] == list(range(25_000))
    assert len({(r.key, r.partition) for r in records}) == 100


def test_the_lag_of_the_group_is_what_it_has_not_committed(settings):
    make_topics(settings, partitions=2)
    write(settings, [b"x"] * 5, 0)
    write(settings, [b"x"] * 3, 1)
    parts = [TopicPartition(settings.topics.events, p) for p in (0, 1)]
    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK)) as sink:
        for batch in read(source, 8):
            sink.commit([Output(settings.topics.events, b"k", b"more", partition=0)], batch)
        wait_until(lambda: committed_lag(settings)[parts[1]] == 0 < committed_lag(settings)[parts[0]])

        def caught_up() -> bool:
            sink.commit([], source.poll(LIMITS))
            return not any(committed_lag(settings).values())

        wait_until(caught_up)


def test_the_journal_lacks_the_partition_of_this_worker(broker, unique_name):
    settings = make_settings(broker.bootstrap_servers, unique_name)
    make_topics(settings)
    later = settings.model_copy(update={"topics": settings.topics.model_copy(update={"journal_partition": 3})})
    with pytest.raises(ConfigError, match=r"has 1 partitions, but topics\.journal_partition is 3"):
        KafkaSink(later, CLOCK)
    assert "4 partitions now" in check(later, create=True).render()
    with closing(KafkaSink(later, CLOCK)):
        assert topic_info(later, [later.topics.journal])[later.topics.journal].partitions == 4


def test_a_deleted_topic_is_not_made_again_by_who_reads_or_writes_it(broker, unique_name):
    """The broker makes topics that it is asked for, with its default partitions, where the client does not forbid it."""
    settings = make_settings(broker.bootstrap_servers, unique_name)
    make_topics(settings, 2)
    write(settings, [b"v"] * 4)
    topics = (settings.topics.events, settings.topics.predictions)
    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaWriter(settings, topics[1])) as writer:
        read(source, 4)
        writer.write(b"k", b"v", T0)
        writer.flush()
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        for future in admin.delete_topics(list(topics)).values():
            future.result(30)
        end = CLOCK.monotonic() + 6.0
        while CLOCK.monotonic() < end:
            with suppress(TidemillError):
                source.poll(LIMITS)
        with suppress(TidemillError):
            writer.write(b"k", b"v", T0)
            writer.flush()
        assert topic_info(settings, topics) == {}
