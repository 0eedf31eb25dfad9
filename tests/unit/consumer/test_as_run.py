"""A lineage once more from its journal, and what a live recovery must agree with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from lineages import EVENTS, as_run, assert_same, fresh, restart, save, with_whole_journal
from support import Stream, random_events, same_state, small_settings

from consumer.describe_settings import identity
from consumer.errors import AccessError, InputTruncated, StateError, UsageError
from consumer.journal import Gain, decode
from consumer.memory_io import Fault, MemoryPast
from consumer.replay_as_run import AsRunOptions, replay_lineage
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from incremental.drift import Detection
from incremental.policy import NEW_WORLD
from incremental.settings import LearningSettings
from model.settings import OPERATIONAL


@pytest.fixture
def stream():
    stream = Stream()
    stream.put_events(EVENTS)
    return stream


def test_a_whole_journal_is_begun_cold_and_ends_with_the_same_bytes(stream):
    stream.drain()
    assert_same(as_run(stream), stream.parts)


def test_a_trimmed_journal_is_begun_from_the_oldest_snapshot(stream):
    for _ in range(3):
        stream.pipeline.step()
        save(stream)
    stream.drain()
    journal = stream.log.partitions("journal")[0]
    assert stream.log.start(journal) == 2  # each transaction ends with a marker
    assert_same(as_run(stream), stream.parts)
    stream.log.trim(journal, 4)
    with pytest.raises(StateError, match="begins at micro-batch 3, the oldest snapshot kept is of 1"):
        as_run(stream)
    for name in [name for name in stream.store.names() if "snapshot-000000000001" in name]:
        stream.store.delete(name)
    assert_same(as_run(stream), stream.parts)


def test_a_damaged_oldest_snapshot_is_passed_over(stream):
    for _ in range(3):
        stream.pipeline.step()
        save(stream)
    stream.drain()
    oldest = next(name for name in stream.store.names() if name.endswith("000001/worker.json"))
    stream.store.blobs[oldest] = b"{}"
    assert_same(as_run(stream), stream.parts)


def test_a_damaged_manifest_of_the_oldest_does_not_stop_the_trimming(stream):
    for _ in range(2):
        stream.pipeline.step()
        save(stream)
    oldest = next(name for name in stream.store.names() if name.endswith("000001/manifest.json"))
    stream.store.blobs[oldest] = b"not a manifest"
    assert stream.snapshots.oldest_journal_offset() == 4


def test_a_worker_that_may_not_trim_its_journal_goes_on(stream, monkeypatch):
    def refuse(*_):
        raise AccessError("no right to delete")

    monkeypatch.setattr(MemoryPast, "trim", refuse)
    stream.pipeline.step()
    save(stream)
    stream.drain()
    assert len(stream.log.records("journal")) == stream.parts.batch


@pytest.mark.parametrize("batch", [0, 99])
def test_a_micro_batch_that_is_not_there_is_told(stream, batch):
    stream.pipeline.step()
    stream.pipeline.step()
    save(stream)
    stream.pipeline.step()
    with pytest.raises(StateError, match=f"no state of micro-batch {batch}: there are 2 to 3"):
        as_run(stream, to_batch=batch)
    assert as_run(stream, to_batch=2).batch == 2


def test_other_settings_of_identity_are_refused_also_where_it_begins_cold(stream):
    stream.pipeline.step()
    save(stream)
    with pytest.raises(StateError, match=r"worker\.seed"):
        as_run(stream, small_settings(worker={"batch_events": 16, "seed": 2}))


def test_nothing_in_the_journal_is_told(stream):
    with pytest.raises(StateError, match="nothing of 'tidemill-0'"):
        as_run(stream)


def test_a_journal_of_which_nothing_is_needed_any_more_is_the_snapshot(stream):
    stream.drain()
    save(stream)
    assert_same(as_run(stream), stream.parts)


def test_input_that_is_gone_stops_it_or_is_left_out_as_the_settings_say(stream):
    stream.drain()
    stream.log.trim(stream.log.partitions("events")[0], 20)
    with pytest.raises(InputTruncated):
        as_run(stream)
    settings = small_settings(recovery={"on_truncation": "earliest"})
    assert as_run(stream, settings).batch == stream.parts.batch


def begun(stream, folder):
    """A worker of its own whose lineage began from another's snapshot."""
    other = Stream()
    other.put_events(random_events(48, seed=5))
    other.drain()
    Snapshots(FolderStore(folder), "other", identity(other.settings), 3).save(other.parts.image(0))
    stream.worker.close()
    stream.parts = fresh(stream)
    stream.worker = stream.worker.__class__(
        stream.settings, stream.parts, stream.snapshots, stream.clock, stream._doors
    )
    stream.pipeline = stream.worker.start(folder)
    return other


def test_a_lineage_that_began_from_a_snapshot_needs_that_one(stream, tmp_path):
    begun(stream, tmp_path)
    stream.drain()
    assert_same(as_run(stream, init=tmp_path), stream.parts)
    assert_same(as_run(stream), stream.parts)  # from its own snapshot of the beginning
    for name in stream.store.names():
        stream.store.delete(name)
    with pytest.raises(StateError, match="--init"):
        as_run(stream)
    further = Stream()
    further.put_events(random_events(96, seed=6))
    further.drain()
    Snapshots(FolderStore(tmp_path), "other", identity(further.settings), 3).save(further.parts.image(0))
    with pytest.raises(StateError, match="--init"):
        as_run(stream, init=tmp_path)


def test_one_that_began_cold_takes_no_init(stream, tmp_path):
    stream.drain()
    with pytest.raises(StateError, match="leave --init away"):
        as_run(stream, init=tmp_path)


@pytest.mark.parametrize("init", [False, True])
def test_a_restart_without_a_snapshot_begins_as_the_lineage_did(tmp_path, init):
    stream = with_whole_journal()
    other = begun(stream, tmp_path)
    stream.pipeline.step()
    for name in stream.store.names():
        stream.store.delete(name)
    with pytest.raises(StateError, match="began from a snapshot that is not in"):
        restart(stream)
    if not init:  # whoever wrote it has it in the same store
        Snapshots(stream.store, "other", identity(other.settings), 3).save(other.parts.image(0))
    stream.parts = fresh(stream)
    again = stream.worker.__class__(stream.settings, stream.parts, stream.snapshots, stream.clock, stream._doors)
    stream.pipeline = again.start(tmp_path if init else None)
    stream.drain()
    entries = [decode(record.value) for record in stream.log.records("journal")]
    assert [entry.begun_from is not None for entry in entries] == [True] + [False] * (len(entries) - 1)
    assert_same(as_run(stream, init=tmp_path), stream.parts)


def test_a_new_worker_begins_with_what_its_group_has_learned(stream):
    stream.drain()
    save(stream)
    stream.worker.close()
    heir = Stream(small_settings(kafka={"instance": "heir"}, recovery={"journal_keep": "all"}), log=stream.log)
    heir.store = stream.store
    heir.start()
    assert same_state(heir.parts.model.state(), stream.parts.model.state())
    stream.put_events(random_events(64, seed=3, users=12))
    heir.drain()
    assert heir.bodies()[-1]["model_version"] == "heir@3"
    entries = [decode(record.value) for record in stream.log.records("journal")]
    assert [entry.begun_from is not None for entry in entries if entry.lineage == "heir"] == [True, False, False, False]
    for name in heir.store.names("tidemill-0/"):
        heir.store.delete(name)
    assert_same(as_run(heir), heir.parts)
    restart(heir)
    assert_same(as_run(heir), heir.parts)


def test_nothing_is_taken_over_from_another_application(stream):
    stream.drain()
    save(stream)
    for change in ({"kafka": {"group": "another", "instance": "heir"}}, {"model": {"dim": 24}}):
        heir = Stream(small_settings(**{"kafka": {"instance": "heir"}, **change}), log=stream.log)
        heir.store = stream.store
        heir.start()
        assert heir.parts.model.items.size == 0
        heir.worker.close()


def test_a_damaged_snapshot_of_the_group_is_passed_over(stream):
    stream.drain()
    save(stream)
    stream.put_events(random_events(32, seed=9))
    stream.drain()
    save(stream)
    older, newer = stream.snapshots.names()
    stream.store.blobs[f"{newer}/worker.json"] = b"{}"
    heir = Stream(small_settings(kafka={"instance": "heir"}))  # its journal is another one
    heir.store = stream.store
    heir.start()
    assert heir.worker._recovery.notes.begun_from == stream.snapshots.open(older).manifest_sha256


def test_one_that_began_cold_is_not_restarted_with_init(stream, tmp_path):
    stream.pipeline.step()
    other = Stream()
    other.put_events(random_events(48, seed=5))
    other.drain()
    Snapshots(FolderStore(tmp_path), "other", identity(other.settings), 3).save(other.parts.image(0))
    again = stream.worker.__class__(stream.settings, fresh(stream), stream.snapshots, stream.clock, stream._doors)
    with pytest.raises(StateError, match="began without --init"):
        again.start(tmp_path)


# --- what a recovery and as-run must agree on


def test_a_gain_whose_commit_had_no_answer_is_said_once(stream):
    """Else as-run takes the partition over a second time, and loses what came between."""
    stream.drain()
    save(stream)
    follower = Stream(small_settings(kafka={"instance": "heir"}), log=stream.log)
    stream.worker.close()
    follower.store = stream.store
    follower.start()
    stream.put_events(random_events(64, seed=3, users=12))
    stream.log.inject(Fault.UNKNOWN_COMMITTED)
    for _ in range(1000):
        follower.worker.step()
        if follower.worker.doors.source.drained:
            break
    assert not stream.log.missed_faults()
    entries = [decode(record.value) for record in stream.log.records("journal")]
    gains = [entry.gains for entry in entries if entry.lineage == "heir"]
    assert [len(gain) for gain in gains] == [1] + [0] * (len(gains) - 1)


def test_a_gain_is_said_also_where_the_process_ends_between_its_snapshot_and_the_first_commit():
    stream = Stream(partitions=1)
    stream.put_events(EVENTS[:64])
    stream.drain()
    save(stream)
    stream.worker.close()
    heir = Stream(small_settings(kafka={"instance": "heir"}), log=stream.log)
    heir.store = stream.store
    stream.log.inject(Fault.UNKNOWN_OPEN)
    stream.put_events(EVENTS[64:])
    heir.start()
    heir.worker.step()
    assert heir.snapshots.names() == ["heir/snapshot-000000000000", "heir/snapshot-000000000000-001"]  # begun, gained
    heir.start()
    assert heir.parts.histories.users > 0
    heir.drain()
    entries = [decode(record.value) for record in stream.log.records("journal")]
    assert [len(entry.gains) for entry in entries if entry.lineage == "heir"] == [1, 0, 0, 0, 0, 0]
    for name in heir.store.names("heir/"):
        heir.store.delete(name)
    assert_same(as_run(heir), heir.parts)


def test_a_partition_that_came_and_went_before_a_commit_was_never_there(stream):
    recovery = stream.worker._recovery
    stream.drain()
    (partition,) = stream.parts.histories.partitions
    batch = SimpleNamespace(assignment=frozenset(), ranges=())
    recovery.notes.gains.append(Gain(partition, None, None, 0, 5))
    recovery.follow(batch, stream.source, MemoryPast(stream.log))
    assert recovery.notes.values() == {"dropped": [["events", 0]]}


def test_what_a_lineage_began_from_is_said_also_after_a_stop_before_its_first_record(tmp_path):
    stream = Stream()
    begun(stream, tmp_path)
    save(stream)
    stream.worker.close()
    restart(stream)
    stream.put_events(EVENTS)
    stream.drain()
    assert decode(stream.log.records("journal")[0].value).begun_from is not None
    assert_same(as_run(stream, init=tmp_path), stream.parts)


def rewind(stream, offset):
    log = stream.log
    member = log.join("tidemill", "operator", "events")
    owner = log.membership("tidemill", "operator", member)
    log.commit(owner, dict.fromkeys(log.partitions("events"), offset))
    log.leave("tidemill", "operator", member)


def times(parts):
    """The times of all events in the histories."""
    (state,) = [part.state() for part in parts.histories.partitions.values()]
    return sorted(state.arrays["times"].tolist())


def test_what_was_set_back_is_known_after_a_snapshot_too():
    """A snapshot in the midst of events that are only predicted again must not make them learned again."""
    stream = Stream(small_settings(recovery={"on_rewind": "emit_only"}))
    stream.put_events(EVENTS)
    stream.drain()
    stream.worker.close()
    before = stream.parts
    rewind(stream, 32)
    restart(stream)
    for _ in range(3):
        stream.pipeline.step()
    save(stream)
    stream.pipeline.step()
    assert len(stream.bodies()) == 160 + 4 * 16
    restart(stream)
    stream.drain()
    assert len(stream.bodies()) == 160 + 128
    assert same_state(stream.parts.model.state(), before.model.state())
    assert times(stream.parts) == times(before)
    assert_same(as_run(stream), stream.parts)


# --- the whole, as the command calls it


@pytest.fixture
def wired(stream, tmp_path):
    """Settings with a state folder, and a past whose closing is noted."""
    settings = small_settings(snapshot={"dir": tmp_path / "state"})
    past = MemoryPast(stream.log)
    closed = []
    past.close = lambda: closed.append(True)
    return SimpleNamespace(settings=settings, past=past, closed=closed, folder=tmp_path)


def test_the_summary_and_what_is_saved(stream, wired):
    stream.put(b"not an event", b"{}")
    stream.drain()
    summary = replay_lineage(wired.settings, AsRunOptions(save=wired.folder / "saved"), stream.clock, wired.past)
    assert summary["events"] == 160
    assert summary["rejected"] == {"invalid_json": 1, "user_id_missing": 1}
    assert summary["metrics"]["tidemill"] == stream.parts.evaluation.prequential.result()["metrics"]["tidemill"]
    snapshots = Snapshots(FolderStore(wired.folder / "saved"), "tidemill-0", {}, 3)
    (name,) = snapshots.names()
    assert snapshots.open(name).batch == stream.parts.batch
    assert same_state(snapshots.open(name).worker(), stream.parts.state())
    assert wired.closed == [True]
    assert not (wired.folder / "state").exists()


def test_the_summary_of_a_trimmed_journal_counts_what_was_redone(stream, wired, monkeypatch):
    while stream.parts.batch < 6:
        stream.pipeline.step()
    store = FolderStore(wired.folder / "state")
    Snapshots(store, "tidemill-0", identity(wired.settings), 3).save(stream.parts.image(0))
    stream.drain()
    stream.log.trim(stream.log.partitions("journal")[0], 4)
    found = Detection(100, "log_loss", "adwin", 1.0, 2.0)
    monkeypatch.setattr(
        "incremental.evaluation.Evaluation.update", lambda *_, event, **__: [replace(found, event=event)]
    )
    summary = replay_lineage(wired.settings, AsRunOptions(), stream.clock, wired.past)
    assert summary["events"] == 64
    assert [one["event"] for one in summary["drift"]] == [0, 16, 32, 48]


def test_the_lineages_own_folder_is_not_written_to(stream, wired):
    with pytest.raises(UsageError, match=r"snapshot\.dir"):
        replay_lineage(wired.settings, AsRunOptions(save=wired.folder / "state"), stream.clock, wired.past)


def test_what_the_policy_did_is_redone_from_the_journal():
    """Live, after kill -9 behind a snapshot that holds a copy of the weights, and as-run: the same bytes."""
    stream = Stream(small_settings(policy={"restart_items": True, "restart_ranker": True, "restart_heads": True}))
    stream.put_events(EVENTS)
    stream.pipeline.step()
    save(stream)
    for action in ("keep_champion", *NEW_WORLD, "restart_type_head"):
        stream.parts.learner.adaptation.order(action)
    stream.pipeline.step()
    save(stream)
    stream.pipeline.step()
    restart(stream)
    stream.drain()
    plans = [decode(record.value).plan for record in stream.log.records("journal")]
    acted = next(number for number, plan in enumerate(plans) if plan.actions)
    assert plans[acted].actions == ("keep_champion", *NEW_WORLD, "restart_type_head")
    assert plans[acted + 1].half_life_events > 0.0
    assert stream.parts.learner.champion is not None
    assert_same(as_run(stream), stream.parts)
    other = small_settings(policy={"enabled": False})
    assert_same(as_run(stream, settings=other), stream.parts)  # what counts is what the plans say


def test_a_redo_learns_as_it_was_planned_whatever_the_settings_of_learning_are_by_then(stream):
    """Every operational setting of learning is another, and only the numbers in the plans decide."""
    stream.drain()
    section = LearningSettings.model_fields
    other = {
        "enabled": False,
        "learning_rate": 1.0,
        "learning_rate_decay_events": 1.0,
        "learning_rate_floor": 1.0,
        "rehearsal_windows": 3,
        "rehearsal_recent_share": 0.5,
        "rehearsal_recent_windows": 2,
    }
    assert other.keys() == {name for name, field in section.items() if field.json_schema_extra == OPERATIONAL}
    assert_same(as_run(stream, settings=small_settings(learning=other)), stream.parts)
