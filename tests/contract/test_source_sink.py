"""What every Source and Sink must do. The same cases run over the log in memory and over Kafka."""

from __future__ import annotations

import pytest
from worlds import LIMITS, poll_until, read, wait_until

from consumer.errors import Fenced, LostPartitions, VoidStateError
from consumer.ports import Output, PollLimits, TopicPartition
from consumer.sink_rules import OutputTooLarge

TOO_LARGE = b"x" * 2_000_000


def fill(world, count, partitions=2):
    for i in range(count):
        world.write(b"user-%d" % i, b"value-%d" % i, i % partitions)


def outputs_for(world, batch):
    return [Output(world.predictions, r.key, r.value, (("from", b"%d" % r.offset),)) for r in batch.records]


def values(records):
    return sorted(r.value for r in records)


def test_records_come_whole_and_in_the_order_of_their_partition(make_world):
    world = make_world(2)
    fill(world, 10)
    batches = read(world.source(), 10)

    records = [r for batch in batches for r in batch.records]
    for partition in (0, 1):
        mine = [r for r in records if r.partition == partition]
        assert [r.offset for r in mine] == [0, 1, 2, 3, 4]
        assert [r.value for r in mine] == [b"value-%d" % i for i in range(10) if i % 2 == partition]
    assert {r.timestamp_ms for r in records} == {1_700_000_000_000}
    assert records[0].key is not None
    for batch in batches:
        order = [(r.topic, r.partition, r.offset) for r in batch.records]
        assert order == sorted(order)


def test_ranges_name_what_was_read_and_join_without_a_gap(make_world):
    world = make_world(2)
    fill(world, 10)
    batches = read(world.source(), 10, PollLimits(max_records=3, max_wait_s=0.2))

    position = {TopicPartition(world.events, 0): 0, TopicPartition(world.events, 1): 0}
    for batch in batches:
        for r in batch.ranges:
            assert r.start == position[r.partition]
            assert [x.offset for x in batch.records if (x.topic, x.partition) == r.partition] == list(
                range(r.start, r.stop)
            )
            position[r.partition] = r.stop
    assert set(position.values()) == {5}
    assert batches[-1].assignment == set(position)


def test_a_batch_never_has_more_than_the_limit(make_world):
    world = make_world(3)
    fill(world, 30, partitions=3)
    batches = read(world.source(), 30, PollLimits(max_records=4, max_wait_s=0.2))

    assert max(len(batch.records) for batch in batches) == 4
    assert len({(r.partition, r.offset) for batch in batches for r in batch.records}) == 30


def test_an_idle_topic_gives_an_empty_batch(make_world):
    world = make_world(1)
    source = world.source()
    batch = poll_until(source, lambda seen: bool(seen) and len(seen[-1].assignment) == 1)[-1]

    assert (batch.records, batch.ranges) == ((), ())


def test_seek_back_returns_the_same_records_again(make_world):
    world = make_world(2)
    fill(world, 8)
    source = world.source()
    first = read(source, 1, PollLimits(max_records=3, max_wait_s=0.2))[0]
    source.seek_back(first)
    again = read(source, 8, PollLimits(max_records=3, max_wait_s=0.2))

    records = [r for batch in again for r in batch.records]
    assert len(records) == len(set(records)) == 8
    assert set(first.records) <= set(records)
    source.seek_back(again[-1])
    assert set(read(source, len(again[-1].records))[0].records) == set(again[-1].records)


def test_outputs_and_positions_are_committed_together(make_world):
    world = make_world(2)
    fill(world, 6)
    source, sink = world.source(), world.sink()
    for batch in read(source, 6):
        sink.commit(outputs_for(world, batch), batch)

    assert values(world.visible(world.predictions)) == [b"value-%d" % i for i in range(6)]
    assert world.visible(world.predictions)[0].headers[0][0] == "from"
    assert set(world.committed().values()) == {3}


def test_an_output_goes_to_the_partition_of_its_key_or_to_the_named_one(make_world):
    world = make_world(1)
    fill(world, 1, partitions=1)
    batch = read(world.source(), 1)[0]
    outputs = [Output(world.predictions, b"user-%d" % i, b"by key") for i in range(8)]
    outputs += [Output(world.predictions, b"user-0", b"named", partition=p) for p in (0, 1)]
    world.sink().commit(outputs, batch)

    seen = world.visible(world.predictions)
    assert {r.key: r.partition for r in seen if r.value == b"by key"} == {
        b"user-%d" % i: partition for i, partition in enumerate([1, 0, 0, 1, 1, 0, 1, 0])
    }
    assert sorted(r.partition for r in seen if r.value == b"named") == [0, 1]


def test_records_without_key_or_value_and_headers_without_value_can_be_written(make_world):
    world = make_world(1)
    fill(world, 1, partitions=1)
    batch = read(world.source(), 1)[0]
    odd = [Output(world.predictions, None, b"no key"), Output(world.predictions, b"tombstone", None)]
    odd += [Output(world.predictions, None, None), Output(world.predictions, b"k", b"null header", (("h", None),))]
    world.sink().commit(odd, batch)

    assert len(world.visible(world.predictions)) == 4


def test_neither_is_visible_after_an_abort_and_the_same_sink_goes_on(make_world):
    world = make_world(2)
    fill(world, 6)
    source, sink = world.source(), world.sink()
    batch = read(source, 1)[0]
    outputs = outputs_for(world, batch)
    with pytest.raises(OutputTooLarge) as caught:
        sink.commit([*outputs, Output(world.predictions, b"user", TOO_LARGE)], batch)

    assert caught.value.index == len(outputs)
    assert world.visible(world.predictions) == []
    assert world.committed() == {}

    source.seek_back(batch)
    for again in read(source, 6):
        sink.commit(outputs_for(world, again), again)
    assert values(world.visible(world.predictions)) == [b"value-%d" % i for i in range(6)]


def test_the_index_of_an_output_that_only_the_broker_refuses_is_told(make_world):
    world = make_world(1)
    if world.__class__.__name__ == "MemoryWorld":
        world.log.max_value_bytes = 500_000
    fill(world, 1, partitions=1)
    batch = read(world.source(), 1)[0]
    import random

    noise = random.Random(1).randbytes(800_000)  # does not compress; under the client's own limit
    sink = world.sink()
    with pytest.raises(OutputTooLarge) as caught:
        sink.commit(
            [
                Output(world.predictions, b"a", b"small"),
                Output(world.predictions, b"a", noise),
                *outputs_for(world, batch),
            ],
            batch,
        )

    assert (caught.value.index, caught.value.size) == (1, 800_000)
    sink.commit(outputs_for(world, batch), batch)
    assert values(world.visible(world.predictions)) == [b"value-0"]


def test_a_restart_goes_on_at_the_committed_position(make_world):
    world = make_world(2)
    fill(world, 8)
    source, sink = world.source(), world.sink()
    batch = read(source, 1, PollLimits(max_records=3, max_wait_s=0.2))[0]
    sink.commit(outputs_for(world, batch), batch)
    read(source, 2, PollLimits(max_records=2, max_wait_s=0.2))  # read, but never committed
    source.close()
    sink.close()
    sink.close()
    source.close()

    source, sink = world.source(), world.sink()
    for rest in read(source, 8 - len(batch.records)):
        sink.commit(outputs_for(world, rest), rest)
    assert values(world.visible(world.predictions)) == [b"value-%d" % i for i in range(8)]


def test_the_lag_reaches_zero_behind_the_markers_of_transactions(make_world):
    world = make_world(2)
    fill(world, 4)
    source, sink = world.source(), world.sink()
    for batch in read(source, 4):  # writes into the topic that it reads: its partitions end in markers
        outputs = [Output(world.events, b"k", b"again", partition=p) for p in (0, 1)] if batch.ranges else []
        sink.commit(outputs, batch)
    poll_until(source, lambda seen: bool(seen) and _commit_nonempty(sink, seen[-1]) and not any(source.lag().values()))

    assert set(source.lag().values()) == {0}
    ends = world.committed()
    assert len(ends) == 2
    assert all(end > 2 for end in ends.values())
    source.close()
    follower = world.source()
    poll_until(follower, lambda seen: bool(seen) and len(seen[-1].assignment) == 2)
    assert set(follower.lag().values()) == {0}


def _commit_nonempty(sink, batch):
    sink.commit([], batch)
    return True


def test_an_empty_batch_commits_nothing(make_world):
    world = make_world(1)
    source, sink = world.source(), world.sink()
    batch = poll_until(source, lambda seen: bool(seen) and len(seen[-1].assignment) == 1)[-1]
    sink.commit([], batch)

    assert world.committed() == {}


def test_outputs_without_a_position_are_written_alone(make_world):
    world = make_world(1)
    source, sink = world.source(), world.sink()
    batch = poll_until(source, lambda seen: bool(seen) and len(seen[-1].assignment) == 1)[-1]
    sink.commit([Output(world.predictions, b"k", b"note")], batch)

    assert values(world.visible(world.predictions)) == [b"note"]
    assert world.committed() == {}


def test_a_bounded_source_is_drained_at_the_end_that_it_found(make_world):
    world = make_world(2)
    fill(world, 7)
    source = world.source(until_end=True)
    assert not source.drained
    batches = poll_until(source, lambda _: source.drained, PollLimits(max_records=2, max_wait_s=0.2))

    assert values(r for b in batches for r in b.records) == sorted(b"value-%d" % i for i in range(7))
    assert not world.source("b").drained


def test_an_unbounded_source_is_never_drained(make_world):
    world = make_world(1)
    source = world.source()
    poll_until(source, lambda seen: bool(seen) and len(seen[-1].assignment) == 1)

    assert not source.drained


def test_two_members_share_the_partitions_and_the_records(make_world):
    world = make_world(4)
    first, sink = world.source("a"), world.sink("a")
    poll_until(first, lambda seen: bool(seen) and len(seen[-1].assignment) == 4)
    second, second_sink = world.source("b"), world.sink("b")
    wait_until(lambda: [len(member.poll(LIMITS).assignment) for member in (first, second)] == [2, 2])
    fill(world, 20, partitions=4)
    _copy(world, {first: sink, second: second_sink}, 20)

    assert values(world.visible(world.predictions)) == sorted(b"value-%d" % i for i in range(20))
    assert set(world.committed().values()) == {5}


def _copy(world, members, count):
    done = 0

    def copied():
        nonlocal done
        for source, sink in members.items():
            batch = source.poll(LIMITS)
            sink.commit(outputs_for(world, batch), batch)
            done += len(batch.records)
        return done >= count

    wait_until(copied)


def test_a_batch_read_before_a_rebalance_cannot_be_committed_after_it(make_world):
    world = make_world(2)
    fill(world, 4)
    first, sink = world.source("a"), world.sink("a")
    batch = read(first, 1)[0]
    second = world.source("b")
    wait_until(lambda: [len(member.poll(LIMITS).assignment) for member in (first, second)] == [1, 1])

    with pytest.raises(LostPartitions):
        sink.commit(outputs_for(world, batch), batch)
    assert world.visible(world.predictions) == []
    with pytest.raises(LostPartitions):
        sink.commit([], batch)


def test_a_zombie_is_fenced_by_its_successor(make_world):
    world = make_world(2)
    fill(world, 4)
    zombie, zombie_sink = world.source(), world.sink()
    stale = read(zombie, 1)[0]
    source, sink = world.source(), world.sink()
    batches = read(source, 4)

    with pytest.raises((Fenced, LostPartitions)):
        zombie_sink.commit(outputs_for(world, stale), stale)
    with pytest.raises(VoidStateError):
        zombie_sink.commit(outputs_for(world, stale), stale)
    for batch in batches:
        sink.commit(outputs_for(world, batch), batch)
    assert values(world.visible(world.predictions)) == [b"value-%d" % i for i in range(4)]


def test_a_zombie_of_the_group_alone_is_refused_too(make_world):
    world = make_world(1)
    fill(world, 2, partitions=1)
    zombie, sink = world.source(), world.sink()
    stale = read(zombie, 2)[0]
    successor = world.source()
    read(successor, 2)

    with pytest.raises((Fenced, LostPartitions)):
        sink.commit(outputs_for(world, stale), stale)
    assert world.visible(world.predictions) == []


def test_an_idle_member_that_was_fenced_commits_nothing_more(make_world):
    """It may notice only when it commits: Kafka's client keeps what a heartbeat was told to itself."""
    world = make_world(1)
    zombie, sink = world.source(), world.sink()
    poll_until(zombie, lambda batches: bool(batches and batches[-1].assignment))
    successor = world.source()
    poll_until(successor, lambda batches: bool(batches and batches[-1].assignment))
    fill(world, 1, partitions=1)

    def go_on():
        for batch in read(zombie, 1):
            sink.commit(outputs_for(world, batch), batch)

    with pytest.raises((Fenced, LostPartitions)):
        go_on()
    assert world.visible(world.predictions) == []
    assert values(record for batch in read(successor, 1) for record in batch.records) == [b"value-0"]


def test_at_least_once_writes_outputs_before_positions(make_world):
    world = make_world(2)
    fill(world, 6)
    source = world.source()
    sink = world.sink(source=source, delivery="at_least_once")
    for batch in read(source, 6):
        sink.commit(outputs_for(world, batch), batch)
    assert values(world.visible(world.predictions)) == [b"value-%d" % i for i in range(6)]
    assert set(world.committed().values()) == {3}

    fill(world, 2)
    late = read(source, 2)[0]
    successor = world.source()
    read(successor, 2)
    with pytest.raises((Fenced, LostPartitions)):
        sink.commit(outputs_for(world, late), late)
    assert len(world.visible(world.predictions)) > 6
    assert set(world.committed().values()) == {3}
