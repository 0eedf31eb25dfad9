from __future__ import annotations

import pytest

from consumer.clock import ManualClock
from consumer.errors import (
    Aborted,
    ConfigError,
    Fenced,
    LostPartitions,
    StateError,
    TransientError,
    UnknownOutcome,
)
from consumer.memory_io import Fault, MemoryLog, MemorySink, MemorySource
from consumer.ports import Output, PollLimits, TopicPartition
from consumer.sink_rules import murmur2, partition_of

LIMITS = PollLimits(max_records=100, max_wait_s=0.5)
OUTPUT = Output("predictions", b"k", b"p")
P0 = TopicPartition("events", 0)


def make_log(events=4, partitions=1):
    log = MemoryLog({"events": partitions, "predictions": 1})
    for i in range(events):
        log.append("events", b"k", b"%d" % i, partition=i % partitions)
    return log


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_values_of_the_java_client(key, expected):
    assert murmur2(key) == expected % 2**32
    assert partition_of(key, 7) == (expected & 0x7FFFFFFF) % 7


def test_a_missing_topic_is_named():
    log = make_log()
    with pytest.raises(ConfigError, match="'nowhere' does not exist"):
        log.append("nowhere", b"k", b"v")
    with pytest.raises(ConfigError, match="exists already"):
        log.create_topic("events", 2)
    with pytest.raises(ValueError, match="no partition 5"):
        log.append("events", b"k", b"v", partition=5)


def test_records_without_a_key_are_spread():
    log = make_log(0, partitions=3)
    assert [log.append("events", None, b"v").partition for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_aborted_commit_leaves_nothing_to_read_but_takes_offsets():
    log = make_log()
    source, sink = MemorySource(log, "events", "g"), MemorySink(log, "g")
    batch = source.poll(LIMITS)
    log.inject(Fault.ABORT)
    with pytest.raises(Aborted):
        sink.commit([OUTPUT], batch)

    assert log.records("predictions") == []
    assert log.committed("g") == {}
    assert log.end(TopicPartition("predictions", 0)) == 2  # the record and the marker
    sink.commit([OUTPUT], batch)
    assert [r.offset for r in log.records("predictions")] == [2]


def test_an_unknown_outcome_may_have_happened():
    log = make_log()
    source, sink = MemorySource(log, "events", "g"), MemorySink(log, "g")
    log.inject(Fault.UNKNOWN_COMMITTED)
    with pytest.raises(UnknownOutcome):
        sink.commit([OUTPUT], source.poll(LIMITS))

    assert len(log.records("predictions")) == 1
    assert log.committed("g") == {P0: 4}


def test_an_unknown_outcome_that_did_not_happen_hides_what_follows_until_a_successor_starts():
    log = make_log()
    source, sink = MemorySource(log, "events", "g"), MemorySink(log, "g")
    log.inject(Fault.UNKNOWN_OPEN)
    with pytest.raises(UnknownOutcome):
        sink.commit([OUTPUT], source.poll(LIMITS))
    log.append("predictions", b"k", b"later")
    assert log.records("predictions") == []
    assert log.stable_end(TopicPartition("predictions", 0)) == 0

    MemorySink(log, "g")
    assert [r.value for r in log.records("predictions")] == [b"later"]
    assert log.committed("g") == {}


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.FENCE, Fenced), (Fault.LOST_PARTITIONS, LostPartitions), (Fault.ABORT, Aborted)]
)
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_injected_faults_keep_the_positions(fault, error, delivery):
    log = make_log()
    source, sink = MemorySource(log, "events", "g"), MemorySink(log, "g", delivery=delivery)
    log.inject(fault)
    with pytest.raises(error):
        sink.commit([OUTPUT], source.poll(LIMITS))

    assert log.committed("g") == {}
    assert len(log.records("predictions")) == (0 if delivery == "exactly_once" else 1)
    assert log.missed_faults() == []


def test_a_fault_waits_for_its_call():
    log = make_log()
    source, sink = MemorySource(log, "events", "g"), MemorySink(log, "g")
    log.inject(Fault.ABORT, after=2)
    log.inject(Fault.POLL_ERROR, after=1)
    batch = source.poll(PollLimits(1, 0.1))
    sink.commit([OUTPUT], batch)
    with pytest.raises(TransientError):
        source.poll(LIMITS)
    sink.commit([OUTPUT], source.poll(PollLimits(1, 0.1)))
    assert log.missed_faults() == [Fault.ABORT]
    with pytest.raises(Aborted):
        sink.commit([OUTPUT], source.poll(LIMITS))


def test_no_partition_starves_behind_a_full_one():
    log = make_log(0, partitions=2)
    for i in range(50):
        log.append("events", b"k", b"%d" % i, partition=0)
    log.append("events", b"k", b"other", partition=1)
    source = MemorySource(log, "events", "g")

    seen = [r.partition for _ in range(2) for r in source.poll(PollLimits(5, 0.1)).records]
    assert 1 in seen


def test_a_position_that_was_trimmed_is_an_error():
    log = make_log()
    source = MemorySource(log, "events", "g")
    MemorySink(log, "g").commit([], source.poll(PollLimits(1, 0.1)))
    log.trim(P0, 3)
    source.close()

    with pytest.raises(StateError, match="no longer holds offset 1"):
        MemorySource(log, "events", "g").poll(LIMITS)
    assert [r.offset for r in MemorySource(log, "events", "new").poll(LIMITS).records] == [3]


def test_a_new_group_can_begin_at_the_end():
    log = make_log()
    source = MemorySource(log, "events", "g", auto_offset_reset="latest")
    assert source.poll(LIMITS).records == ()
    log.append("events", b"k", b"new")
    assert [r.value for r in source.poll(LIMITS).records] == [b"new"]


def test_a_rebalance_takes_positions_from_what_was_committed():
    log = make_log(8, partitions=2)
    source, sink = MemorySource(log, "events", "g", instance="a"), MemorySink(log, "g", instance="a")
    sink.commit([], source.poll(PollLimits(3, 0.1)))
    source.poll(LIMITS)  # read, but not committed
    other = MemorySource(log, "events", "g", instance="b")
    other.close()

    assert sum(len(source.poll(LIMITS).records) for _ in range(2)) == 5


def test_only_an_empty_poll_waits():
    log, clock = make_log(), ManualClock()
    source = MemorySource(log, "events", "g", clock=clock)
    source.poll(LIMITS)
    assert clock.monotonic() == 0
    source.poll(LIMITS)
    assert clock.monotonic() == 0.5


def test_a_member_that_was_removed_must_recover():
    log = make_log()
    source = MemorySource(log, "events", "g")
    source.poll(LIMITS)
    source.close()
    with pytest.raises(LostPartitions):
        source.poll(LIMITS)
