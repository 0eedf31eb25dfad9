"""Micro-batches that a recovery leaves out: on record, and left out again by whoever redoes them."""

from __future__ import annotations

import pytest
from lineages import EVENTS, as_run, assert_same, restart, save, with_whole_journal
from support import Stream, random_events

from consumer.errors import TransientError
from consumer.journal import decode
from consumer.memory_io import MemoryPast
from consumer.parts import Parts
from consumer.redo_marker import skip_in_next_recovery


@pytest.fixture
def stream():
    stream = Stream()
    stream.put_events(EVENTS)
    return stream


def test_what_was_left_out_is_left_out_again_by_whoever_redoes_it(monkeypatch):
    """Also by a recovery that begins before what was left out."""
    stream = with_whole_journal()
    for _ in range(3):
        stream.pipeline.step()
    skip_in_next_recovery(stream.store, "tidemill-0", 2)
    learned = []
    learn = Parts.learn
    monkeypatch.setattr(
        Parts, "learn", lambda self, considered: (learned.append(considered.plan.batch), learn(self, considered))[1]
    )
    restart(stream)
    assert learned == [1, 3]
    stream.pipeline.step()
    assert [decode(record.value).skipped for record in stream.log.records("journal")] == [(), (), (), (2,)]
    learned.clear()
    save(stream)  # so that none is being written
    stream.store.blobs.clear()
    restart(stream)
    assert learned == [1, 3, 4]
    stream.drain()
    assert [decode(record.value).skipped for record in stream.log.records("journal")][4:] == [()] * 6
    assert_same(as_run(stream), stream.parts)


def test_what_was_left_out_is_on_record_also_where_nothing_came_until_the_stop(stream):
    stream.drain()
    skip_in_next_recovery(stream.store, "tidemill-0", 2)
    restart(stream)
    save(stream)
    stream.worker.close()
    restart(stream)
    stream.put_events(random_events(16, seed=9))
    stream.drain()
    assert decode(stream.log.records("journal")[-1].value).skipped == (2,)
    assert_same(as_run(stream), stream.parts)


def test_a_skipped_micro_batch_is_not_even_predicted(stream, monkeypatch):
    """Predicting may be what ends the process."""
    for _ in range(3):
        stream.pipeline.step()
    skip_in_next_recovery(stream.store, "tidemill-0", 2)
    consider = Parts.consider

    def deadly(self, records, ranges, **named):
        assert named["plan"].batch != 2
        return consider(self, records, ranges, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "consider", deadly)
        restart(stream)
    assert stream.parts.batch == 3
    stream.drain()
    assert_same(as_run(stream), stream.parts)


def test_the_order_to_skip_is_forgotten_when_a_recovery_has_come_to_its_end(stream):
    stream.pipeline.step()
    skip_in_next_recovery(stream.store, "tidemill-0", 7)
    assert "tidemill-0/redo.json" in stream.store.names()
    restart(stream)
    assert "tidemill-0/redo.json" not in stream.store.names()


def test_a_broker_that_is_away_during_recovery_condemns_no_micro_batch(stream, monkeypatch):
    for _ in range(3):
        stream.pipeline.step()

    def away(self, span):
        if span.partition.topic == "events":
            raise TransientError("the broker is away")
        return read(self, span)

    read = MemoryPast.read
    with monkeypatch.context() as patch:
        patch.setattr(MemoryPast, "read", away)
        for _ in range(5):
            with pytest.raises(TransientError):
                restart(stream)
    restart(stream)
    stream.drain()
    assert all(not decode(record.value).skipped for record in stream.log.records("journal"))
    assert_same(as_run(stream), stream.parts)


def test_a_damaged_note_of_deaths_stops_nothing(stream):
    stream.pipeline.step()
    stream.store.write("tidemill-0/redo.json", b"\0")
    restart(stream)
    assert "tidemill-0/redo.json" not in stream.store.names()
    stream.drain()
    assert_same(as_run(stream), stream.parts)
