"""Recovery on the in-memory log: whatever ends a worker, its successor comes to the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import structlog

import consumer.redo
from consumer.as_run import AsRun, replay_as_run
from consumer.clock import ManualClock
from consumer.describe_settings import identity
from consumer.errors import Fenced, InputTruncated, LostPartitions, StateError, TooManyBadEvents, UnknownOutcome
from consumer.health import HealthState
from consumer.journal import Gain, decode
from consumer.memory_io import Fault, MemoryLog, MemoryPast, MemorySink, MemorySource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.settings import Settings
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from consumer.worker import Doors, Worker
from model.state import same


def small(**sections):
    base = {
        "model": {"dim": 8, "layers": 1, "heads": 1, "context": 8},
        "history": {"length": 12},
        "learning": {"rehearsal_capacity": 64, "rehearsal_length": 8, "negatives": 64},
        "worker": {"batch_events": 32},
        "evaluation": {"baselines": False},
    }
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return Settings.model_validate(base)


def fill(log, events, seed=0, users=20, start=0, *, ids=True):
    draw = np.random.default_rng(seed)
    for number in range(start, start + events):
        user, item = int(draw.integers(users)), int(draw.integers(30))
        body = {"user_id": user, "item_id": item, "event_time": 1_700_000_000 + number}
        body |= {"event_id": number + 1} if ids else {}
        log.append(
            "events", str(user).encode(), json.dumps(body).encode(), timestamp_ms=(1_700_000_000 + number) * 1000
        )


class Stage:
    """A log, a folder, and workers on them that come and go."""

    def __init__(self, folder, partitions=2, **sections):
        self.settings = small(**sections)
        self.log = MemoryLog({"events": partitions, "predictions": 2, "dead-letters": 1, "drift": 1, "journal": 3})
        self.folder = folder
        self.clock = ManualClock()

    def parts(self, settings=None):
        settings = settings or self.settings
        return Parts(settings, Metrics(self.clock), HealthState(self.clock, 60.0))

    def snapshots(self, settings=None):
        settings = settings or self.settings
        kafka, keep, whole = settings.kafka, settings.snapshot.keep, settings.recovery.journal_keep == "all"
        return Snapshots(FolderStore(self.folder), kafka.instance, identity(settings), keep, keep_gains=whole)

    def worker(self, settings=None, init=None):
        settings = settings or self.settings
        kafka = settings.kafka

        def doors():
            skips = settings.recovery.on_truncation != "stop"
            source = MemorySource(
                self.log, "events", kafka.group, instance=kafka.instance, until_end=True, skips_gone=skips
            )
            sink = MemorySink(self.log, kafka.group, instance=kafka.instance)
            return Doors(source, sink, MemoryPast(self.log))

        worker = Worker(settings, self.parts(settings), self.snapshots(settings), self.clock, doors)
        worker.start(init)
        return worker

    def as_run(self, settings=None, **wanted):
        settings = settings or self.settings
        parts = self.parts(settings)
        replay_as_run(settings, parts, self.snapshots(settings), MemoryPast(self.log), AsRun(**wanted))
        return parts

    def outputs(self):
        sources = []
        for record in self.log.records("predictions"):
            source = json.loads(record.value)["source"]
            sources.append((source["partition"], source["offset"]))
        return sources


def steps(worker, count):
    for _ in range(count):
        worker.step()


def drain(worker):
    for _ in range(1000):
        worker.step()
        if worker.doors.source.drained:
            return
    raise AssertionError("not drained after 1000 steps")


def assert_same(left, right):
    first, second = left.image(0), right.image(0)
    assert first.batch == second.batch
    assert first.worker.values == second.worker.values
    assert same(first.worker.arrays, second.worker.arrays)
    assert first.histories.keys() == second.histories.keys()
    for partition, (state, offset) in first.histories.items():
        assert second.histories[partition][1] == offset
        assert same(state.arrays, second.histories[partition][0].arrays)


def assert_exactly_once(stage, events):
    sources = stage.outputs()
    assert len(sources) == len(set(sources)) == events


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
    fill(stage.log, 100)
    worker = stage.worker()
    drain(worker)
    worker.save()
    worker.close()
    rewind(stage, 10)
    with pytest.raises(StateError, match="emit_only"):
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


def full_disk(_store, name, _data):
    raise StateError(f"{name} cannot be written: no space left on device")


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
