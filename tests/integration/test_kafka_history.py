"""Reading a stretch of a topic's past, on a real broker."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest
from kafka_support import CLOCK, LIMITS, T0, make_topics, read, values, wait_until, write

from consumer.kafka_io import (
    KafkaRangeSource,
    KafkaSink,
    KafkaSource,
    committed_lag,
    read_last,
)
from consumer.ports import Output, PollLimits, TopicPartition


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
