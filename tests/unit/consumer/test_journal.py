from __future__ import annotations

import orjson
import pytest

from consumer.errors import StateError
from consumer.journal import READ_AT_ONCE, VERSION, Entry, Gain, Journal, decode, encode
from consumer.memory_io import MemoryLog, MemoryPast
from consumer.ports import OffsetRange, TopicPartition
from incremental.plan import LearnPlan

JOURNAL = TopicPartition("journal", 1)
ONE, TWO = TopicPartition("events", 0), TopicPartition("events", 1)


def entry(batch, **more):
    plan = LearnPlan(batch, True, 0.1 + batch / 3, 7, 9, 0.5, 3, 2**62 + batch, False)
    return Entry("w", plan, (OffsetRange(TWO, 3, 9), OffsetRange(ONE, 0, 5)), **more)


def full(batch):
    return entry(
        batch,
        gains=(Gain(ONE, "v/snapshot-000000000007", "ab" * 32, 4, 90), Gain(TWO, None, None, 0, 3)),
        dropped=(TWO, ONE),
        rewound=((ONE, 44),),
        skipped=(3, 5),
        begun_from="cd" * 32,
    )


class Stage:
    def __init__(self):
        self.log = MemoryLog({"journal": 2})
        self.journal = Journal(MemoryPast(self.log), JOURNAL, "w")

    def write(self, *entries):
        for one in entries:
            output = one.output(JOURNAL)
            self.log.append(output.topic, output.key, output.value, partition=output.partition)

    def batches(self, *args):
        return [journaled.entry.batch for journaled in self.journal.after(*args)]


@pytest.fixture
def stage():
    return Stage()


@pytest.mark.parametrize("one", [entry(1), full(12)])
def test_an_entry_comes_back_as_it_was(one):
    assert decode(encode(one)) == one


def test_what_is_empty_takes_no_room():
    assert orjson.loads(encode(entry(4))).keys() == {"version", "lineage", "batch", "ranges", "plan"}


def test_it_goes_to_its_lineages_partition():
    output = entry(1).output(JOURNAL)
    assert (output.topic, output.partition, output.key) == ("journal", 1, b"w")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"version": 2}',
        encode(entry(1)).replace(b'"seed"', b'"sead"'),
        encode(entry(1)).replace(b'["events",1,3,9]', b'["events",1,3]'),
    ],
)
def test_what_is_no_entry_is_told_from_one(value):
    with pytest.raises(StateError, match="cannot be read"):
        decode(value)


def test_another_version_is_told():
    with pytest.raises(StateError, match=f"version 1, this program reads {VERSION}"):
        decode(encode(entry(1)).replace(b'"version":%d' % VERSION, b'"version":1'))


def test_what_is_behind_a_micro_batch_comes_in_order_with_its_offset(stage):
    stage.write(*(entry(batch) for batch in range(1, 6)))
    assert stage.batches(0) == [1, 2, 3, 4, 5]
    assert stage.batches(3) == [4, 5]
    assert stage.batches(3, 1) == [4, 5]
    assert stage.batches(5) == []
    assert [journaled.offset for journaled in stage.journal.after(2)] == [2, 3, 4]


def test_an_offset_that_is_too_late_is_a_gap(stage):
    stage.write(*(entry(batch) for batch in range(1, 6)))
    with pytest.raises(StateError, match="goes on with micro-batch 5 where 4 is needed"):
        stage.batches(3, 4)


def test_a_journal_that_was_trimmed_serves_those_who_need_no_more(stage):
    stage.write(*(entry(batch) for batch in range(1, 6)))
    stage.log.trim(JOURNAL, 2)
    assert stage.batches(2) == [3, 4, 5]
    assert stage.batches(4, 1) == [5]
    with pytest.raises(StateError, match="micro-batch 3 where 2 is needed"):
        stage.batches(1)


def test_a_state_from_beyond_the_end_is_not_of_this_lineage(stage):
    stage.write(*(entry(batch) for batch in range(1, 6)))
    with pytest.raises(StateError, match="ends with micro-batch 5, before 7"):
        stage.batches(7)


def test_a_gap_in_the_middle_is_told_also_to_who_reads_everything(stage):
    stage.write(entry(1), entry(2), entry(4))
    with pytest.raises(StateError, match="micro-batch 4 where 3 is needed"):
        stage.batches(0)
    with pytest.raises(StateError, match="micro-batch 4 where 3 is needed"):
        list(stage.journal.everything())


def test_another_lineages_records_are_told(stage):
    stage.write(entry(1), Entry("v", entry(2).plan, ()))
    with pytest.raises(StateError, match=r"of 'v', not of 'w'.*journal_partition"):
        stage.batches(0)


def test_a_journal_of_many_entries_is_read_in_parts(stage):
    stage.write(*(entry(batch) for batch in range(1, 2 * READ_AT_ONCE + 4)))
    assert stage.batches(0) == list(range(1, 2 * READ_AT_ONCE + 4))
    assert stage.batches(READ_AT_ONCE, READ_AT_ONCE)[0] == READ_AT_ONCE + 1


def test_an_empty_journal_has_nothing(stage):
    assert stage.batches(7) == []
