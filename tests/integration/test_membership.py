"""How a member comes back into its group, on a real broker."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from confluent_kafka.admin import (
    AdminClient,
    NewPartitions,
)
from kafka_support import CLOCK, LIMITS, make_settings, make_topics, read, wait_until, write

from consumer.errors import Fenced, LostPartitions
from consumer.kafka_io import (
    KafkaSource,
)
from consumer.kafka_io.admin import admin_client
from consumer.kafka_io.client import MemberToRemove
from consumer.ports import PollLimits, TopicPartition

SHORT = PollLimits(max_records=10, max_wait_s=0.001)
RESTARTS = 6


def test_a_leader_that_comes_back_and_polls_for_moments_only_disturbs_nobody(broker, unique_name):
    """With such polls, as in a recovery, joins end between them; each restart of the leader was a rebalance or several."""
    settings = [make_settings(broker.bootstrap_servers, unique_name, instance=f"w{number}") for number in range(2)]
    make_topics(settings[0], partitions=4)
    ended = threading.Event()

    def has_joined(source: KafkaSource, partitions: int) -> bool:
        source.poll(SHORT)
        return len(source.positions()) == partitions

    def go_on_polling(source: KafkaSource) -> None:
        while not ended.is_set():
            source.poll(SHORT)

    leader = KafkaSource(settings[0], CLOCK)
    wait_until(lambda: has_joined(leader, 4))
    with closing(KafkaSource(settings[1], CLOCK)) as other:
        thread = threading.Thread(target=go_on_polling, args=(other,))
        thread.start()
        try:
            wait_until(lambda: has_joined(leader, 2) and len(other.positions()) == 2)
            before = leader._consumer.group_metadata().generation_id
            for _ in range(RESTARTS):
                leader.close()
                leader = KafkaSource(settings[0], CLOCK)
                wait_until(lambda source=leader: has_joined(source, 2))
            assert leader._consumer.group_metadata().generation_id == before
            assert len(leader.positions()) == len(other.positions()) == 2
        finally:
            ended.set()
            thread.join()
            leader.close()


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
