"""How a member comes back into its group, on a real broker."""

from __future__ import annotations

import threading
from contextlib import closing

from test_kafka_io import CLOCK, make_settings, make_topics, wait_until

from consumer.kafka_io import KafkaSource
from consumer.ports import PollLimits

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
