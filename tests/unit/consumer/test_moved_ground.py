"""Partitions that move, offsets and inputs that somebody moved: recovery on the in-memory log."""

from __future__ import annotations

import numpy as np
import pytest
import structlog
from recovery_stage import Stage, assert_exactly_once, assert_same, drain, fill, full_disk, small, steps

import consumer.redo
from consumer.errors import InputTruncated, LostPartitions, StateError
from consumer.journal import Gain, decode
from consumer.memory_io import MemoryPast
from consumer.parts import Parts
from consumer.state_store import FolderStore
from model.state import same


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_a_partition_that_moves_brings_its_histories(tmp_path):
    stage = Stage(tmp_path, partitions=2)
    fill(stage.log, 200)
    one = stage.worker()
    drain(one)
    one.save()
    held = {tp: part.state() for tp, part in one.parts.histories.partitions.items()}
    other = small(kafka={"instance": "tidemill-1"}, topics={"journal_partition": 1})
    two = stage.worker(other)
    steps(two, 1)
    steps(one, 1)
    (moved,) = two.parts.histories.partitions
    for name, array in held[moved].arrays.items():
        if name != "emitted":
            assert np.array_equal(
                array, two.parts.histories.partitions[moved].state().arrays[name], equal_nan=array.dtype.kind == "f"
            )
    assert moved not in one.parts.histories.partitions
    fill(stage.log, 100, seed=1, start=200)
    for _ in range(6):
        steps(two, 1)
        steps(one, 1)
    assert_exactly_once(stage, 300)
    assert_same(two.parts, stage.as_run(other))
    assert_same(one.parts, stage.as_run())


def moved_and_dropped(stage, heir_settings):
    """A worker goes, another takes its partitions over, and then what it took over from is deleted."""
    fill(stage.log, 300, ids=False)  # so that an event that is taken in twice is not recognised
    one = stage.worker()
    steps(one, 3)
    one.save()
    steps(one, 1)
    one.close()
    heir = stage.worker(heir_settings)
    steps(heir, 2)
    heir.close()
    store = FolderStore(stage.folder)
    for name in store.names("tidemill-0/"):
        store.delete(name)
    fresh = stage.worker(heir_settings)
    drain(fresh)
    assert_exactly_once(stage, 300)
    return fresh


HEIR = small(kafka={"instance": "heir"}, topics={"journal_partition": 1}, recovery={"journal_keep": "all"})


def test_a_gain_is_redone_also_when_the_snapshot_it_came_from_is_gone(stage):
    heir = moved_and_dropped(stage, HEIR)
    assert_same(heir.parts, stage.as_run(HEIR))
    store, (made_of_the_gain,) = (
        FolderStore(stage.folder),
        [name for name in stage.snapshots(HEIR).names() if "-001" in name],
    )
    for name in store.names(f"{made_of_the_gain}/"):
        store.delete(name)
    with pytest.raises(StateError, match=r"tidemill-0/snapshot-000000000003.*nor is there a snapshot of 'heir'"):
        stage.as_run(HEIR)


def test_a_journal_that_is_kept_whole_keeps_the_snapshot_of_a_gain(stage):
    moved_and_dropped(stage, HEIR).close()
    for number in range(4):
        fill(stage.log, 40, seed=number, start=300 + 40 * number)
        drain(stage.worker(HEIR))
        stage.worker(HEIR).save()
    names = stage.snapshots(HEIR).names()
    assert names[:2] == ["heir/snapshot-000000000000", "heir/snapshot-000000000000-001"]  # begun, then gained
    assert len(names) == HEIR.snapshot.keep + 2
    assert_same(stage.worker(HEIR).parts, stage.as_run(HEIR))


def test_a_take_over_that_is_cut_short_is_taken_up_where_it_was(stage, monkeypatch):
    fill(stage.log, 300)
    one = stage.worker()
    steps(one, 2)
    one.save()
    steps(one, 4)
    one.close()
    monkeypatch.setattr(consumer.redo, "FOLD_AT_ONCE", 10)
    heir = stage.worker(HEIR)
    fold, folds = Parts.fold, []

    def cut_short(self, records, span):
        folds.append(span)
        if len(folds) == 3:
            raise LostPartitions("injected: in the midst of taking over")
        fold(self, records, span)

    monkeypatch.setattr(Parts, "fold", cut_short)
    drain(heir)
    assert len(folds) > 3
    assert_exactly_once(stage, 300)
    assert_same(heir.parts, stage.as_run(HEIR))


def test_a_snapshot_that_its_owner_drops_this_moment_is_replaced_by_the_next(stage, monkeypatch):
    fill(stage.log, 200)
    one = stage.worker()
    for _ in range(2):
        steps(one, 2)
        one.save()
    one.close()
    first, last = stage.snapshots().names()
    heir = stage.worker(HEIR)
    begin = Parts.begin

    def drop_then_begin(self, partition, snapshot):
        if snapshot is not None and snapshot.name == last:
            store = FolderStore(stage.folder)
            for name in store.names(last):
                store.delete(name)
        begin(self, partition, snapshot)

    monkeypatch.setattr(Parts, "begin", drop_then_begin)
    drain(heir)
    gains = [gain for record in stage.log.records("journal") for gain in decode(record.value).gains]
    assert [gain.snapshot for gain in gains if gain.snapshot] == [first, first]
    assert_exactly_once(stage, 200)
    assert_same(heir.parts, stage.as_run(HEIR))


def told(logs, event):
    return [line for line in logs if line["event"].startswith(event)]


def test_offsets_set_forward_are_said_and_what_lies_between_is_history(stage):
    stage = Stage(stage.folder, partitions=1)
    fill(stage.log, 200)
    worker = stage.worker()
    steps(worker, 2)
    worker.close()
    forward(stage, 100)
    with structlog.testing.capture_logs() as logs:
        again = stage.worker()
        drain(again)
    (line,) = told(logs, "the committed offset is ahead of what was learned here")
    assert (line["learned_up_to"], line["events_to_read"]) == (64, 36)
    assert len(stage.outputs()) == 64 + 100
    assert again.parts.events == 64 + 100
    assert_same(again.parts, stage.as_run())


@pytest.mark.parametrize("shared", [True, False])
def test_a_partition_whose_owner_is_gone_is_taken_over_with_or_without_its_snapshots(stage, tmp_path, shared):
    fill(stage.log, 200)
    one = stage.worker()
    steps(one, 4)
    one.save()
    one.close()
    if not shared:
        stage.folder = tmp_path / "of another host"
    with structlog.testing.capture_logs() as logs:
        heir = stage.worker(HEIR)
        drain(heir)
    taken = told(logs, "partition gained")
    assert len(taken) == 2
    assert all(("no snapshot holds its histories" in line["event"]) is not shared for line in taken)
    assert sum(line["events_to_read"] for line in taken) == (0 if shared else 128)
    assert_exactly_once(stage, 200)
    assert_same(heir.parts, stage.as_run(HEIR))


def test_offsets_set_back_stop_the_worker_with_advice(stage):
    learn_and_close(stage)
    rewind(stage, 10)
    with pytest.raises(StateError, match="emit_only"):
        steps(stage.worker(), 2)


def test_an_offset_beyond_the_end_stops_the_worker_at_once(stage):
    """Records that cannot exist are not waited for."""
    learn_and_close(stage)
    forward(stage, 9_999)
    with pytest.raises(StateError, match=r"is 9999, but the topic ends at \d+: .*made anew.*new lineage"):
        steps(stage.worker(), 2)


@pytest.mark.parametrize("on_rewind", ["stop", "emit_only"])
def test_a_topic_that_ends_before_what_was_learned_is_another_one(tmp_path, monkeypatch, on_rewind):
    stage = Stage(tmp_path, partitions=1, recovery={"on_rewind": on_rewind})
    learn_and_close(stage)
    rewind(stage, 0)
    bounds = MemoryPast.bounds
    monkeypatch.setattr(MemoryPast, "bounds", lambda self, tp: (0, 5) if tp.topic == "events" else bounds(self, tp))
    with pytest.raises(StateError, match=r"events-0 ends at offset 5, but events up to 100 were learned: .*made anew"):
        steps(stage.worker(), 2)


def test_emit_only_predicts_again_and_learns_nothing_twice(tmp_path):
    stage = Stage(tmp_path, partitions=1, recovery={"on_rewind": "emit_only"})
    fill(stage.log, 100)
    worker = stage.worker()
    drain(worker)
    weights = worker.parts.learner.state().arrays
    histories = worker.parts.histories.users
    worker.save()
    worker.close()
    rewind(stage, 40)
    again = stage.worker()
    drain(again)
    assert len(stage.outputs()) == 160
    assert again.parts.histories.users == histories
    assert same(weights, again.parts.learner.state().arrays)
    assert_same(again.parts, stage.as_run())


def learn_and_close(stage):
    """A worker reads a hundred events, saves, and is stopped."""
    fill(stage.log, 100)
    worker = stage.worker()
    drain(worker)
    worker.save()
    worker.close()


def forward(stage, offset):
    set_offsets(stage, lambda at: max(offset, at))


def rewind(stage, offset):
    set_offsets(stage, lambda at: min(offset, at))


def set_offsets(stage, to):
    group = stage.settings.kafka.group
    member = stage.log.join(group, "operator", "events")
    owner = stage.log.membership(group, "operator", member)
    stage.log.commit(owner, {tp: to(at) for tp, at in stage.log.committed(group).items()})
    stage.log.leave(group, "operator", member)


def test_truncated_input_stops_recovery_or_is_gone_without(tmp_path):
    stage = Stage(tmp_path, partitions=1)
    fill(stage.log, 100)
    steps(stage.worker(), 3)
    (partition,) = stage.log.partitions("events")
    stage.log.trim(partition, 40)
    with pytest.raises(InputTruncated, match="on_truncation"):
        stage.worker()
    going_on = small(recovery={"on_truncation": "earliest"})
    worker = stage.worker(going_on)
    assert worker.parts.events == 96 - 40  # what is left of a micro-batch is redone
    drain(worker)
    assert_exactly_once(stage, 100)
    assert stage.snapshots().names() == []


def journal_batches(stage):
    return [decode(record.value).batch for record in stage.log.records("journal")]


def test_truncated_input_can_begin_a_new_lineage(tmp_path):
    stage = Stage(tmp_path, partitions=1)
    fill(stage.log, 200)
    worker = stage.worker()
    steps(worker, 2)
    worker.save()
    steps(worker, 3)  # 160 records: the snapshot is of 64 of them
    (partition,) = stage.log.partitions("events")
    stage.log.trim(partition, 100)
    anew = stage.worker(small(recovery={"on_truncation": "fresh"}))
    assert stage.snapshots().names() == ["tidemill-0/snapshot-000000000005"]
    assert journal_batches(stage) == []
    drain(anew)
    assert_exactly_once(stage, 200)
    assert journal_batches(stage)[0] == 6  # numbers go on: none is used twice
    assert_same(anew.parts, stage.as_run())  # also where the settings say stop
    assert_same(stage.worker().parts, anew.parts)


def test_a_new_lineage_that_cannot_be_saved_is_begun_at_the_next_start(tmp_path, monkeypatch):
    stage = Stage(tmp_path, partitions=1)
    fill(stage.log, 200)
    worker = stage.worker()
    steps(worker, 2)
    worker.save()
    steps(worker, 2)
    (partition,) = stage.log.partitions("events")
    stage.log.trim(partition, 100)
    settings = small(recovery={"on_truncation": "fresh"})
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", full_disk)
        drain(stage.worker(settings))
    assert_exactly_once(stage, 200)
    assert stage.snapshots().names() == ["tidemill-0/snapshot-000000000002"]
    heir = stage.worker(settings)
    assert stage.snapshots().names() == ["tidemill-0/snapshot-000000000007"]
    assert_same(heir.parts, stage.as_run())


@pytest.mark.parametrize("on_truncation", ["stop", "earliest", "fresh"])
def test_retention_that_overtakes_a_running_worker_follows_the_setting(tmp_path, on_truncation):
    stage = Stage(tmp_path, partitions=2, recovery={"on_truncation": on_truncation})
    fill(stage.log, 300)
    worker = stage.worker()
    steps(worker, 3)
    (partition, _) = stage.log.partitions("events")
    held = worker.parts.next_offsets[partition]
    stage.log.trim(partition, held + 20)
    if on_truncation == "stop":
        with pytest.raises(InputTruncated, match=f"no longer holds offset {held}"):
            drain(worker)
        return
    drain(worker)
    assert_exactly_once(stage, 280)
    gains = [gain for record in stage.log.records("journal") for gain in decode(record.value).gains]
    assert gains == [Gain(partition, None, None, held + 20, held + 20)]
    if on_truncation == "fresh":
        (name,) = stage.snapshots().names()
        assert stage.snapshots().open(name).batch == 3
        assert journal_batches(stage)[0] == 4
        assert_same(worker.parts, stage.as_run(small()))
    assert_same(stage.worker().parts, worker.parts)
