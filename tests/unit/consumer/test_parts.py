from __future__ import annotations

import pytest
import structlog
from support import TOPIC, Stream, event, random_events, record_value, same_state, small_settings

from consumer.ports import OffsetRange, TopicPartition

ZERO, ONE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
T = 1_700_000_000.0


@pytest.mark.parametrize("max_items", [1000, 16])
def test_a_worker_that_was_stopped_and_started_ends_like_one_that_was_not(max_items):
    settings = small_settings(
        model={"max_items": max_items}, history={"length": 8, "max_users": 5}, input={"map": {"event_id": "id"}}
    )
    straight, restarted = Stream(settings, partitions=2), Stream(settings, partitions=2)
    for stream in (straight, restarted):
        stream.put_events(
            event(e.user_id, e.item_id, e.event_time, kind=e.event_type, partition=n % 2)
            for n, e in enumerate(random_events(160, items=40, users=9))
        )
        for _ in range(5):
            stream.pipeline.step()
    restarted.worker.save()
    restarted.worker.close()
    restarted.start()
    for stream in (straight, restarted):
        stream.source._turn = 5  # which partition is read first is the source's affair
        stream.drain()
    assert same_state(straight.state(), restarted.state())
    assert straight.bodies() == restarted.bodies()


def test_the_unit_of_times_is_decided_once_and_kept():
    stream = Stream()
    stream.put(record_value(user_id="u", item_id=1, event_time=T * 1000))
    stream.drain()
    stream.worker.save()
    stream.worker.close()
    stream.start()
    assert stream.parts.decoder.time_unit == "ms"
    stream.put(record_value(user_id="u", item_id=1, event_time=T))  # by its magnitude alone these would be seconds
    stream.drain()
    assert [body["event_time"] for body in stream.bodies()] == [T, T / 1000]


def test_snapshots_are_saved_as_often_as_the_settings_say():
    stream = Stream(small_settings(snapshot={"every_s": 10.0, "keep": 9}))
    stream.put_events(random_events(16 * 5))
    for _ in range(5):
        stream.pipeline.step()
        stream.clock.advance(6.0)
    stream.worker.close()
    assert [int(name[-12:]) for name in stream.snapshots.names()] == [3, 5]
    assert stream.snapshots.newest().positions[ZERO].next_offset == 80


def test_a_snapshot_that_fails_is_counted_and_the_worker_goes_on():
    stream = Stream(small_settings(snapshot={"every_s": 0.1}))
    stream.put_events(random_events(48))
    stream.store.fail_after = 0
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            stream.pipeline.step()
            stream.clock.advance(1.0)
            stream.pipeline.upkeep.save(wait=True)
    assert len(stream.bodies()) == 48
    failed = [line["event"] for line in logs].count("snapshot failed")
    assert failed >= 3
    assert f'tidemill_snapshots_total{{result="failed"}} {failed}.0' in stream.metrics.render().decode()


def test_histories_come_back_with_the_snapshot():
    stream = Stream(partitions=2)
    stream.put_events([event("a", 1, T), event("b", 2, T, partition=1)])
    stream.drain()
    stream.worker.save()
    stream.worker.close()
    stream.start()
    assert stream.parts.histories.users == 2
    assert stream.parts.next_offsets == {ZERO: 1, ONE: 1}
    stream.parts.drop(ZERO)
    assert stream.parts.histories.users == 1
    assert stream.parts.next_offsets == {ONE: 1}


def test_folding_fills_the_histories_and_teaches_nothing():
    stream = Stream()
    stream.put_events(random_events(20))
    stream.parts.begin(ZERO, None)
    before = stream.parts.learner.state()
    stream.parts.fold(stream.log.records(TOPIC), OffsetRange(ZERO, 0, 20))
    assert stream.parts.histories.users > 0
    assert stream.parts.next_offsets == {ZERO: 20}
    assert same_state(before, stream.parts.learner.state())


def test_considering_changes_nothing():
    stream = Stream()
    stream.put_events(random_events(40))
    stream.pipeline.step()
    before = stream.state()
    records = stream.log.records(TOPIC)[16:32]
    considered = stream.parts.consider(records, (OffsetRange(ZERO, 16, 32),))
    assert considered.plan.batch == 2
    assert len(considered.events) == 16
    assert same_state(before, stream.state())


def test_quality_is_told_every_so_many_events():
    stream = Stream(small_settings(worker={"batch_events": 256}))
    stream.put_events(random_events(2304))
    stream.drain()
    text = stream.metrics.render().decode()
    assert 'tidemill_prequential_hit_rate{k="10",method="tidemill"}' in text
    assert 'tidemill_prequential_log_loss{head="event_type",method="tidemill"}' in text
    assert 'tidemill_mixture_weight{component="own_items"}' in text
    assert "tidemill_users 8.0" in text


def test_what_reading_changed_can_be_taken_back():
    stream = Stream()
    take_back = stream.parts.before_reading()
    stream.parts.decoder.load_state({"time_unit": "us"})
    take_back()
    assert stream.parts.decoder.time_unit is None


def test_readiness_follows_the_first_assignment():
    stream = Stream()
    assert not stream.parts.health.ready().ok
    stream.pipeline.step()
    assert stream.parts.health.ready().ok
