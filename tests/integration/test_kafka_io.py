"""The Kafka doors against a real broker: what the contract suite, which also runs in memory, cannot ask."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as Theirs
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)

from consumer.check import check
from consumer.clock import SystemClock
from consumer.errors import AccessError, ConfigError, Fenced, InputTruncated, LostPartitions, StateError, UnknownOutcome
from consumer.kafka_io import (
    KafkaRangeSource,
    KafkaSink,
    KafkaSource,
    KafkaWriter,
    committed_lag,
    create_topics,
    read_last,
    topic_info,
)
from consumer.kafka_io.admin import admin_client
from consumer.kafka_io.client import MemberToRemove, codec
from consumer.ports import OffsetRange, Output, PollLimits, TopicPartition
from consumer.settings import KafkaSettings, Settings, TopicSettings
from deploy.broker import LocalBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.any_broker import BrokerHandle

CLOCK = SystemClock()
LIMITS = PollLimits(max_records=500, max_wait_s=0.2)
DEADLINE_S = 60.0
T0 = 1_700_000_000_000
ADMIN, USER = "admin", "worker"
PASSWORDS = {ADMIN: "admin-secret", USER: "worker-secret"}


def make_settings(bootstrap_servers: str, name: Callable[[str], str], **kafka: object) -> Settings:
    topics = {what: name(what) for what in ("events", "predictions", "dead_letters", "drift", "journal")}
    options = {"broker_wait_s": 20.0, "session_timeout_ms": 6000, "group": name("group"), **kafka}
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=bootstrap_servers, **options),
        topics=TopicSettings(**topics),
    )


def make_topics(settings: Settings, partitions: int = 1, config: dict[str, str] | None = None) -> None:
    topics = settings.topics
    names = (topics.events, topics.predictions, topics.dead_letters, topics.drift, topics.journal)
    create_topics(settings, dict.fromkeys(names, partitions), config)


def write(
    settings: Settings, values: list[bytes], partition: int = 0, times: list[int] | None = None, **options: object
):
    address = {"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0}
    producer = Producer({**address, **{name.replace("_", "."): value for name, value in options.items()}})
    for i, value in enumerate(values):
        producer.produce(settings.topics.events, value, b"k", partition, timestamp=times[i] if times else T0 + i)
    assert producer.flush(30) == 0


def read(source, count: int, limits: PollLimits = LIMITS):
    """Poll until so many records have come; returns the batches that hold any."""
    deadline, batches = CLOCK.monotonic() + DEADLINE_S, []
    while sum(len(batch.records) for batch in batches) < count:
        assert CLOCK.monotonic() < deadline, "the deadline has passed"
        batch = source.poll(limits)
        if batch.records:
            batches.append(batch)
    return batches


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + DEADLINE_S
    while not condition():
        assert CLOCK.monotonic() < deadline, "the deadline has passed"


def values(batches) -> list[bytes]:
    return [record.value for batch in batches for record in batch.records]


@pytest.fixture
def settings(broker: BrokerHandle, unique_name: Callable[[str], str]) -> Settings:
    return make_settings(broker.bootstrap_servers, unique_name)


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


def test_a_member_that_the_group_has_removed_must_recover(settings):
    make_topics(settings)
    write(settings, [b"1", b"2"])
    with closing(KafkaSource(settings, CLOCK)) as source:
        read(source, 2)
        with admin_client(settings.kafka, CLOCK) as admin:
            admin.remove_group_members(
                settings.kafka.group, [MemberToRemove(group_instance_id=settings.kafka.instance)]
            )
        with pytest.raises(LostPartitions, match="has removed the member"):
            wait_until(lambda: source.poll(LIMITS) is None)


def test_a_member_that_has_nothing_to_do_notices_that_another_has_taken_its_place(settings):
    make_topics(settings)
    with closing(KafkaSource(settings, CLOCK)) as older:
        wait_until(lambda: older.poll(LIMITS).assignment)
        with closing(KafkaSource(settings, CLOCK)) as newer:
            with pytest.raises(Fenced, match="another worker has joined"):
                wait_until(lambda: newer.poll(LIMITS) is None or older.poll(LIMITS) is None)
            wait_until(lambda: newer.poll(LIMITS).assignment)


# --- history


def test_history_is_merged_by_time_and_cut_into_exact_batches(settings):
    make_topics(settings, partitions=3)
    for p in range(3):
        write(settings, [b"%d-%d" % (p, i) for i in range(1000)], p, [T0 + 10 * i + p for i in range(1000)])
    with closing(KafkaRangeSource(settings, settings.topics.events)) as history:
        batches = []
        while not history.drained:
            batches.append(history.poll(PollLimits(700, 0.2)))
        assert history.poll(LIMITS).records == ()

    assert [len(batch.records) for batch in batches] == [700, 700, 700, 700, 200]
    assert values(batches) == [b"%d-%d" % (p, i) for i in range(1000) for p in range(3)]
    position = dict.fromkeys([TopicPartition(settings.topics.events, p) for p in range(3)], 0)
    for r in [r for batch in batches for r in batch.ranges]:
        assert r.start == position[r.partition]
        position[r.partition] = r.stop
    assert set(position.values()) == {1000}
    assert committed_lag(settings) == dict.fromkeys(position, 1000)


def test_history_between_offsets(settings):
    make_topics(settings, partitions=2)
    for p in range(2):
        write(settings, [b"%d-%d" % (p, i) for i in range(10)], p)
    topic = settings.topics.events

    def between(start, stop, partitions=None):
        with closing(KafkaRangeSource(settings, topic, partitions, start, stop)) as history:
            batch = history.poll(LIMITS)
            assert history.drained
            return [r.value for r in batch.records]

    assert between(8, None) == [b"0-8", b"1-8", b"0-9", b"1-9"]
    assert between(None, 1) == [b"0-0", b"1-0"]
    assert between(-1, None) == [b"0-9", b"1-9"]
    assert between({1: 3}, {1: 5}, [1]) == [b"1-3", b"1-4"]
    assert between(5, 5) == []
    assert between(50, None) == []
    assert len(between(-100, 100)) == 20
    assert len(read_last(settings, topic, 3)) == 3


def test_history_between_times_goes_by_the_time_of_each_record(settings):
    make_topics(settings)
    offsets = [0, 50, 20, 90, 40, 10, 70]
    write(settings, [b"%d" % t for t in offsets], times=[T0 + t for t in offsets])
    start = datetime.fromtimestamp((T0 + 20) / 1000, UTC)
    stop = datetime.fromtimestamp((T0 + 70) / 1000, UTC)
    with closing(KafkaRangeSource(settings, settings.topics.events, start=start, stop=stop)) as history:
        batch = history.poll(LIMITS)
    assert [r.value for r in batch.records] == [b"50", b"20", b"40"]
    later = datetime.fromtimestamp(T0 / 1000 + 1000, UTC)
    with closing(KafkaRangeSource(settings, settings.topics.events, start=later)) as history:
        assert history.poll(LIMITS).records == ()
        assert history.drained


def test_history_can_be_handed_out_again_and_hides_what_was_aborted(settings):
    make_topics(settings)
    write(settings, [b"1", b"2"])
    events = settings.topics.events
    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK)) as sink:
        batch = read(source, 2)[0]
        with pytest.raises(Exception, match="larger than its topic allows"):
            sink.commit([Output(events, b"k", b"aborted"), Output(events, b"k", b"x" * 2_000_000)], batch)
        sink.commit([Output(events, b"k", b"3")], batch)
    wait_until(lambda: b"3" in [r.value for r in read_last(settings, events, 5)])  # its marker comes after the commit
    with closing(KafkaRangeSource(settings, events)) as history:
        first = history.poll(PollLimits(2, 0.2))
        history.seek_back(first)
        batches = [history.poll(PollLimits(2, 0.2)), history.poll(PollLimits(2, 0.2))]
        assert history.drained
        assert set(history.lag().values()) == {0}
    assert values(batches) == [b"1", b"2", b"3"]


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


# --- new partitions


def test_new_partitions_are_joined_by_polls_that_are_shorter_than_the_join(settings):
    make_topics(settings, partitions=1)
    topic = settings.topics.events
    with closing(KafkaSource(settings, CLOCK)) as source:
        wait_until(lambda: source.poll(LIMITS).assignment == {TopicPartition(topic, 0)})
        admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0})
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
        wait_until(lambda: len(source.poll(PollLimits(10, 0.001)).assignment) == 2)
        write(settings, [b"one"], partition=1)
        wait_until(lambda: [record.value for record in source.poll(LIMITS).records] == [b"one"])


# --- a broker of its own, with logins and rights, that can be stopped


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalBroker]:
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{ADMIN}",
    }
    with LocalBroker(properties=authorizer, sasl_users=PASSWORDS) as broker:
        yield broker


def login(user: str, password: str | None = None) -> dict[str, object]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_username": user,
        "sasl_password": password or PASSWORDS[user],
    }


def allow(broker: LocalBroker, kind: ResourceType, name: str, operation: AclOperation) -> None:
    admin = AdminClient(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": ADMIN,
            "sasl.password": PASSWORDS[ADMIN],
        }
    )
    pattern, who = ResourcePatternType.LITERAL, f"User:{USER}"
    acl = AclBinding(kind, name, pattern, who, "*", operation, AclPermissionType.ALLOW)
    for future in admin.create_acls([acl]).values():
        future.result(30)


def test_a_wrong_password_is_told_before_the_deadline_and_never_shown(guarded, unique_name):
    wrong = "wrong-secret"
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(USER, wrong))
    for make in (KafkaSource, KafkaSink):
        with pytest.raises(AccessError, match="user name or the password") as caught:
            make(settings, CLOCK)
        assert wrong not in str(caught.value)


def test_each_missing_right_is_an_access_error(guarded, unique_name):
    as_admin = make_settings(guarded.bootstrap_servers, unique_name, **login(ADMIN))
    make_topics(as_admin)
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(USER))
    topics = settings.topics
    with closing(KafkaWriter(as_admin, topics.events)) as writer:
        writer.write(b"k", b"v", T0)
        writer.flush()
    with pytest.raises(AccessError, match=topics.events):
        KafkaSource(settings, CLOCK)

    assert topics.events in check(settings).render()
    allow(guarded, ResourceType.TOPIC, topics.events, AclOperation.DESCRIBE)
    allow(guarded, ResourceType.GROUP, settings.kafka.group, AclOperation.READ)
    with closing(KafkaSource(settings, CLOCK)) as source, pytest.raises(AccessError, match=topics.events):
        read(source, 1)
    allow(guarded, ResourceType.TOPIC, topics.events, AclOperation.READ)

    for name in (topics.predictions, topics.dead_letters, topics.drift, topics.journal):
        allow(guarded, ResourceType.TOPIC, name, AclOperation.DESCRIBE)
    report = check(settings)
    assert f"'{topics.predictions}': this user has no right to write" in report.render()
    assert f"transactional id {settings.kafka.group}-{settings.kafka.instance}" in report.render()
    assert PASSWORDS[USER] not in report.render()
    with pytest.raises(AccessError, match="TransactionalIdAuthorization"):
        KafkaSink(settings, CLOCK)
    transactional_id = f"{settings.kafka.group}-{settings.kafka.instance}"
    allow(guarded, ResourceType.TRANSACTIONAL_ID, transactional_id, AclOperation.WRITE)
    with closing(KafkaSource(settings, CLOCK)) as source:
        batch = read(source, 1)[0]
        with closing(KafkaSink(settings, CLOCK)) as sink:
            with pytest.raises(AccessError, match=topics.predictions):
                sink.commit([Output(topics.predictions, b"k", b"v")], batch)
            with pytest.raises(UnknownOutcome, match="failed before"):
                sink.commit([], batch)
        allow(guarded, ResourceType.TOPIC, topics.predictions, AclOperation.WRITE)
        with closing(KafkaSink(settings, CLOCK)) as sink:
            sink.commit([Output(topics.predictions, b"k", b"v")], batch)
    wait_until(lambda: set(committed_lag(as_admin).values()) == {0})


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_broker_that_stops_answering_leaves_the_outcome_unknown(guarded, unique_name, delivery):
    quick = {"request_timeout_ms": 1000, "transaction_timeout_ms": 10_000, "delivery": delivery}
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(ADMIN), **quick)
    make_topics(settings)
    outputs = [Output(settings.topics.predictions, b"k", b"first")]
    with closing(KafkaWriter(settings, settings.topics.events)) as writer:
        writer.write(b"k", b"v", T0)
        writer.flush()
    source = KafkaSource(settings, CLOCK)
    sink = KafkaSink(settings, CLOCK, source)
    sink.commit(outputs, read(source, 1)[0])
    with closing(KafkaWriter(settings, settings.topics.events)) as writer:
        writer.write(b"k", b"w", T0)
        writer.flush()
    batch = read(source, 1)[0]
    guarded.pause()
    try:
        with pytest.raises(UnknownOutcome):
            sink.commit(outputs, batch)
        with pytest.raises(UnknownOutcome):
            sink.commit(outputs, batch)
        sink.close()
        sink.close()
    finally:
        guarded.resume()
    source.close()

    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK, source)) as sink:
        again = read(source, 1)[0]
        assert [r.value for r in again.records] == [b"w"]
        sink.commit(outputs, again)
    wait_until(lambda: len(read_last(settings, settings.topics.predictions, 10)) >= 2)
    assert delivery == "at_least_once" or len(read_last(settings, settings.topics.predictions, 10)) == 2


def test_the_journal_lacks_the_partition_of_this_worker(broker, unique_name):
    settings = make_settings(broker.bootstrap_servers, unique_name)
    make_topics(settings)
    later = settings.model_copy(update={"topics": settings.topics.model_copy(update={"journal_partition": 3})})
    with pytest.raises(ConfigError, match=r"has 1 partitions, but topics\.journal_partition is 3"):
        KafkaSink(later, CLOCK)
    assert "4 partitions now" in check(later, create=True).render()
    with closing(KafkaSink(later, CLOCK)):
        assert topic_info(later, [later.topics.journal])[later.topics.journal].partitions == 4
