"""Recovery on the in-memory log: whatever ends a worker, its successor comes to the same bytes."""

from __future__ import annotations

import json

import pytest
from recovery_stage import Stage, assert_exactly_once, assert_same, drain, fill, full_disk, small, steps

from consumer.errors import Fenced, StateError, TooManyBadEvents, UnknownOutcome
from consumer.journal import decode
from consumer.memory_io import Fault
from consumer.parts import Parts
from consumer.state_store import FolderStore
from model.state import same


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_a_killed_worker_ends_with_the_bytes_of_as_run(stage):
    fill(stage.log, 400)
    first = stage.worker()
    steps(first, 5)
    second = stage.worker()  # the first one was killed: nothing of it was closed
    steps(second, 4)
    second.save()
    steps(second, 2)
    third = stage.worker()
    drain(third)
    assert_exactly_once(stage, 400)
    assert_same(third.parts, stage.as_run())


def test_the_killed_worker_equals_one_that_was_never_killed(tmp_path):
    killed, whole = Stage(tmp_path / "killed"), Stage(tmp_path / "whole")
    for stage in (killed, whole):
        fill(stage.log, 300)
    for _ in range(6):
        steps(killed.worker(), 2)
    last = killed.worker()
    drain(last)
    undisturbed = whole.worker()
    drain(undisturbed)
    first, second = last.parts.learner.state(), undisturbed.parts.learner.state()
    assert decode(killed.log.records("journal")[-1].value).batch == last.parts.batch  # the oldest may be trimmed
    assert set(first.arrays) == set(second.arrays)


def test_as_run_up_to_a_batch_is_the_state_of_that_moment(stage):
    fill(stage.log, 300)
    worker = stage.worker()
    steps(worker, 5)
    before = worker.parts.image(0)
    drain(worker)
    parts = stage.as_run(to_batch=before.batch)
    assert same(before.worker.arrays, parts.image(0).worker.arrays)
    assert parts.batch < worker.parts.batch


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_COMMITTED, Fault.UNKNOWN_OPEN, Fault.LOST_PARTITIONS, Fault.ABORT])
def test_a_fault_at_commit_loses_and_doubles_nothing(stage, fault):
    fill(stage.log, 300)
    worker = stage.worker()
    for after in (1, 4):
        stage.log.inject(fault, after=after)
    drain(worker)
    assert not stage.log.missed_faults()
    assert_exactly_once(stage, 300)
    assert_same(worker.parts, stage.as_run())


def test_a_fence_ends_the_worker_and_the_other_goes_on(stage):
    fill(stage.log, 200)
    zombie = stage.worker()
    steps(zombie, 3)
    heir = stage.worker()
    with pytest.raises(Fenced):
        zombie.step()
    drain(heir)
    assert_exactly_once(stage, 200)
    assert_same(heir.parts, stage.as_run())


def test_recoveries_in_a_row_are_bounded(stage):
    fill(stage.log, 100)
    worker = stage.worker()
    for _ in range(20):
        stage.log.inject(Fault.UNKNOWN_OPEN)
    with pytest.raises(UnknownOutcome):
        drain(worker)


def test_a_full_disk_costs_the_count_of_deaths_and_nothing_else(stage, monkeypatch):
    fill(stage.log, 200)
    steps(stage.worker(), 3)
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", full_disk)
        stage.log.inject(Fault.UNKNOWN_OPEN)
        worker = stage.worker()
        drain(worker)
    assert_exactly_once(stage, 200)
    assert_same(worker.parts, stage.as_run())


def test_as_run_knows_of_a_partition_that_was_not_read_yet(stage):
    for number in range(100):
        body = {"user_id": number % 7, "item_id": number % 5, "event_time": 1_700_000_000 + number}
        stage.log.append("events", b"u", json.dumps(body).encode(), partition=1, timestamp_ms=1_700_000_000_000)
    worker = stage.worker()
    drain(worker)
    assert len(worker.parts.histories.partitions) == 2
    assert_same(worker.parts, stage.as_run())


def test_a_batch_whose_redo_kills_twice_is_skipped_on_record(stage, monkeypatch):
    fill(stage.log, 300)
    steps(stage.worker(), 5)

    class Killed(BaseException):
        pass

    learn = Parts.learn

    def deadly(self, considered):
        if considered.plan.batch == 3:
            raise Killed
        return learn(self, considered)

    monkeypatch.setattr(Parts, "learn", deadly)
    for _ in range(3):
        with pytest.raises(Killed):
            stage.worker()
    worker = stage.worker()
    drain(worker)
    assert_exactly_once(stage, 300)
    assert_same(worker.parts, stage.as_run())


def test_a_journal_without_its_beginning_needs_a_snapshot(stage):
    fill(stage.log, 200)
    steps(stage.worker(), 4)
    journal = stage.log.partitions("journal")[0]
    stage.log.trim(journal, stage.log.end(journal) // 2)
    with pytest.raises(StateError, match="micro-batch"):
        stage.worker()


def test_snapshots_in_the_background_trim_the_journal(tmp_path):
    stage = Stage(tmp_path, snapshot={"every_s": 1.0, "keep": 2})
    fill(stage.log, 400)
    worker = stage.worker()
    for _ in range(10):
        worker.step()
        stage.clock.advance(1.1)
    worker.save()
    journal = stage.log.partitions("journal")[0]
    assert stage.log.start(journal) > 0
    assert len(stage.snapshots().names()) == 2
    heir = stage.worker()
    drain(heir)
    assert_exactly_once(stage, 400)
    assert_same(heir.parts, stage.as_run())


@pytest.mark.parametrize("saved", [False, True])
def test_a_bad_stretch_is_not_drained_by_starting_again(stage, saved):
    stage = Stage(stage.folder, partitions=1, input={"max_bad_run": 50})
    fill(stage.log, 60)
    for _ in range(400):
        stage.log.append("events", b"u", b"no json", timestamp_ms=1_700_000_000_000)
    worker = stage.worker()
    steps(worker, 3)  # 96 records: a run of 36
    if saved:
        worker.save()
    with pytest.raises(TooManyBadEvents, match="50 records in a row"):
        worker.step()
    for _ in range(3):
        again = stage.worker()
        with pytest.raises(TooManyBadEvents, match="50 records in a row"):
            again.step()
        again.close()
    assert len(stage.log.records("dead-letters")) == 36
    assert_same(stage.worker().parts, stage.as_run())
    tolerant = small(input={"max_bad_run": 10_000, "max_bad_share": 1.0})
    heir = stage.worker(tolerant)
    drain(heir)
    assert len(stage.log.records("dead-letters")) == 400
    assert_same(heir.parts, stage.as_run(tolerant))


def test_a_worker_that_dies_often_has_not_more_to_redo_each_time(tmp_path):
    stage = Stage(tmp_path, snapshot={"every_s": 30.0})
    fill(stage.log, 800)
    redone = []
    for _ in range(6):
        worker = stage.worker()
        redone.append(worker.parts.batch - max((s.batch for s in saved(stage)), default=0))
        steps(worker, 3)
        worker._writer.close()  # what dies leaves its thread here
    assert max(redone) <= 3
    last = stage.worker()
    drain(last)
    assert_same(last.parts, stage.as_run())
    last.close()


def test_a_lost_connection_does_not_put_the_next_snapshot_off(tmp_path):
    stage = Stage(tmp_path, snapshot={"every_s": 30.0})
    fill(stage.log, 800)
    worker = stage.worker()
    for _ in range(4):
        stage.log.inject(Fault.LOST_PARTITIONS, after=1)
        steps(worker, 3)
        stage.clock.advance(10.0)
    worker.close()
    assert saved(stage)


def saved(stage):
    snapshots = stage.snapshots()
    return [snapshots.open(name) for name in snapshots.names()]
