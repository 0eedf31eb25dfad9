from __future__ import annotations

import re

import numpy as np
import orjson
import pytest
from support import MemoryStore, same_state, small_settings

from consumer.describe_settings import identity
from consumer.errors import StateError
from consumer.ports import TopicPartition
from consumer.snapshots import Image, Snapshots
from consumer.state_store import FolderStore
from model.state import State

ZERO, ONE = TopicPartition("events", 0), TopicPartition("events", 1)


def worker_state(number: int) -> State:
    arrays = {
        "floats": np.linspace(0, number, 5, dtype=np.float32),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 3), np.int64),
        "one": np.array(number, np.float32),
        "line": np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::2],
    }
    return State(arrays, {"batch": number, "names": [None, "x", number, 2**62], "rate": 0.1 + number})


def history(number: int) -> State:
    return State({"items": np.arange(number, dtype=np.int64)}, {})


def save(snapshots: Snapshots, batch: int) -> int:
    histories = {ONE: (history(2), 20 + batch), ZERO: (history(3), 10 + batch)}
    return snapshots.save(Image(batch, 7 * batch, worker_state(batch), histories))


def made(store=None, settings=None, keep=3, batches=(1, 2)):
    store = MemoryStore() if store is None else store
    snapshots = Snapshots(store, "me", settings if settings is not None else {"model.dim": 8}, keep)
    for batch in batches:
        save(snapshots, batch)
    return store, snapshots


def newest_name(store) -> str:
    return max(name for name in store.names() if name.endswith("manifest.json")).removesuffix("/manifest.json")


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_was_saved_comes_back_byte_for_byte(where, tmp_path):
    _, snapshots = made(MemoryStore() if where == "memory" else FolderStore(tmp_path))
    snapshot = snapshots.newest()
    assert (snapshot.batch, snapshot.lineage) == (2, "me")
    assert same_state(snapshot.worker(), worker_state(2))
    assert same_state(snapshot.histories(ZERO), history(3))
    assert same_state(snapshot.histories(ONE), history(2))
    assert {p: position.next_offset for p, position in snapshot.positions.items()} == {ZERO: 12, ONE: 22}


def test_without_any_there_is_none():
    assert made(batches=())[1].newest() is None


def test_the_size_is_that_of_the_files():
    store, snapshots = made(batches=())
    size = save(snapshots, 1)
    assert size == sum(len(data) for name, data in store.blobs.items() if not name.endswith("manifest.json"))


def test_the_manifest_is_written_last_and_names_every_file():
    store, _ = made(batches=(1,))
    assert [*store.blobs][-1] == "me/snapshot-000000000001/manifest.json"
    manifest = orjson.loads(store.blobs["me/snapshot-000000000001/manifest.json"])
    others = {name.rpartition("/")[2] for name in store.blobs} - {"manifest.json"}
    assert set(manifest["files"]) == others
    assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for file in manifest["files"].values())


@pytest.mark.parametrize("writes", range(7))
def test_a_store_that_fails_midway_leaves_no_snapshot(writes):
    store, snapshots = made(batches=(1,))
    store.fail_after = writes
    with pytest.raises(StateError, match="injected"):
        save(snapshots, 2)
    store.fail_after = None
    assert snapshots.newest().batch == 1
    save(snapshots, 2)
    assert snapshots.newest().batch == 2


def test_seven_writes_are_a_snapshot():
    store, snapshots = made(batches=(1,))
    store.fail_after = 7
    save(snapshots, 2)
    assert snapshots.newest().batch == 2


FILES = ("worker.safetensors", "worker.json", "histories-0.safetensors", "histories-1.json", "manifest.json")


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGED = [(file, damage) for file in FILES for damage in ("flip", "truncate", "empty", "gone")]
# without a manifest there is no snapshot to complain about, and one flipped bit may leave a manifest that reads well
DAMAGED = [pair for pair in DAMAGED if pair not in {("manifest.json", "gone"), ("manifest.json", "flip")}]


@pytest.mark.parametrize(("file", "damage"), DAMAGED)
def test_a_damaged_file_makes_the_next_older_one_count_with_a_complaint(file, damage):
    store, snapshots = made()
    name = f"{newest_name(store)}/{file}"
    data = store.blobs[name]
    damaged = {"flip": flip(data), "truncate": data[: len(data) // 2], "empty": b""}
    if damage == "gone":
        store.delete(name)
    else:
        store.write(name, damaged[damage])
    complaints: list[str] = []
    assert snapshots.newest(complaints).batch == 1
    assert len(complaints) == 1
    assert file in complaints[0]


@pytest.mark.parametrize("change", ["null", "[]", "3", "{}", '{"format": 99}', "not json"])
def test_a_manifest_that_is_none_is_damaged(change):
    store, snapshots = made()
    store.write(f"{newest_name(store)}/manifest.json", change.encode())
    complaints: list[str] = []
    assert snapshots.newest(complaints).batch == 1
    assert len(complaints) == 1


def test_an_unfinished_newer_snapshot_is_not_one():
    store, snapshots = made()
    store.delete(f"{newest_name(store)}/manifest.json")
    complaints: list[str] = []
    assert snapshots.newest(complaints).batch == 1
    assert complaints == []


def test_where_all_are_damaged_the_reasons_are_given():
    store, snapshots = made()
    for name in store.names():
        if name.endswith("worker.json"):
            store.write(name, b"{}")
    with pytest.raises(StateError, match=r"no snapshot can be used: .*000002.*000001"):
        snapshots.newest()


def test_damage_is_seen_when_a_part_is_read_too():
    store, snapshots = made()
    snapshot = snapshots.newest()
    name = f"{snapshot.name}/histories-0.safetensors"
    store.write(name, flip(store.blobs[name]))
    with pytest.raises(StateError, match="histories-0"):
        snapshot.histories(ZERO)


def test_other_identity_settings_are_refused_by_name():
    store, _ = made(settings=identity(small_settings()))
    changed = small_settings(model={"dim": 16}, history={"length": 13})
    snapshots = Snapshots(store, "me", identity(changed), 3)
    with pytest.raises(StateError, match=r"history\.length, model\.dim") as caught:
        snapshots.newest()
    assert "new lineage" in str(caught.value)
    assert "learning" not in str(caught.value)


def test_operational_settings_are_free():
    store, _ = made(settings=identity(small_settings()))
    changed = small_settings(learning={"learning_rate": 0.5}, worker={"batch_events": 7}, snapshot={"keep": 9})
    assert Snapshots(store, "me", identity(changed), 3).newest().batch == 2


def test_only_the_sections_asked_for_must_agree():
    store, _ = made(settings=identity(small_settings()))
    changed = small_settings(kafka={"group": "another"})
    snapshots = Snapshots(store, "me", identity(changed), 3)
    snapshots.check_identity(snapshots.open(snapshots.names()[-1]), ("model", "history"))
    with pytest.raises(StateError, match=r"kafka\.group"):
        snapshots.newest()


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_so_many_are_kept_and_nothing_of_the_others(keep):
    store, snapshots = made(keep=keep, batches=range(1, 8))
    kept = [f"me/snapshot-{n:012d}" for n in range(8 - min(keep, 7), 8)]
    assert snapshots.names() == kept
    assert {name.rpartition("/")[0] for name in store.names()} == set(kept)


def test_kept_folders_are_all_there_is_on_disk(tmp_path):
    made(FolderStore(tmp_path), keep=2, batches=range(1, 5))
    assert sorted(path.name for path in (tmp_path / "me").iterdir()) == [
        "snapshot-000000000003",
        "snapshot-000000000004",
    ]


def test_a_failed_snapshot_does_not_cost_an_older_one():
    store, snapshots = made(keep=1, batches=(1,))
    store.fail_after = 3
    with pytest.raises(StateError):
        save(snapshots, 2)
    assert snapshots.newest().batch == 1


def test_saving_the_same_batch_again_replaces_it():
    _, snapshots = made()
    snapshots.save(Image(2, 0, worker_state(9), {}))
    snapshot = snapshots.newest()
    assert same_state(snapshot.worker(), worker_state(9))
    assert dict(snapshot.positions) == {}


def test_nothing_in_a_snapshot_is_a_pickle(tmp_path):
    made(FolderStore(tmp_path))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors"}
            assert not path.read_bytes().startswith(b"\x80")
        if path.suffix == ".safetensors":
            size = int.from_bytes(path.read_bytes()[:8], "little")
            orjson.loads(path.read_bytes()[8 : 8 + size])


def test_snapshots_of_other_lineages_are_read_and_left_alone():
    store, mine = made(keep=1)
    other = Snapshots(store, "other", {"model.dim": 8}, 1)
    other.save(Image(9, 0, worker_state(9), {ONE: (history(5), 30)}))
    save(mine, 3)
    assert other.newest().batch == 9
    assert mine.newest().batch == 3
    assert mine.holding(ONE, 40).lineage == "other"
    assert mine.holding(ONE, 29).lineage == "me"
    assert mine.holding(ONE, 5) is None
    assert mine.holding(TopicPartition("events", 7), 40) is None


def test_a_damaged_holder_of_a_partition_is_passed_over():
    store, mine = made(keep=1)
    Snapshots(store, "other", {}, 1).save(Image(9, 0, worker_state(9), {ONE: (history(5), 30)}))
    store.blobs["other/snapshot-000000000009/histories-0.json"] = b"{ }"
    assert mine.holding(ONE, 40).lineage == "me"


def test_the_journal_is_needed_from_the_oldest_snapshot_kept():
    _, snapshots = made(keep=2, batches=(1, 2, 3))
    assert snapshots.oldest_journal_offset() == 14
    assert made(batches=())[1].oldest_journal_offset() is None


def test_a_second_snapshot_of_a_micro_batch_leaves_the_first_one_whole():
    """The journals of other lineages name snapshots by their hash."""
    _, snapshots = made(batches=(1, 2))
    before = snapshots.open("me/snapshot-000000000002")
    snapshots.save(Image(2, 14, worker_state(2), {ONE: (history(4), 99)}))
    snapshots.open(before.name).verify()
    assert snapshots.open(before.name).manifest_sha256 == before.manifest_sha256
    newest = snapshots.newest()
    assert newest.positions.keys() == {ONE}
    assert newest.name > before.name
    save(snapshots, 3)
    assert snapshots.newest().batch == 3
