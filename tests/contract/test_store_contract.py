"""What every StateStore does, and what snapshots make of it: a folder, and what fsspec reaches (its store in memory)."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from uuid import uuid4

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from support import Stream, random_events, same_state, small_settings

from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import AccessError, ConfigError, StateError, TransientError
from consumer.journal import decode
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore, open_store


@pytest.fixture(params=["folder", "file", "memory", "local"])
def place(request, tmp_path):
    if request.param == "local":  # by fsspec, which finds nothing there by itself: folder by folder
        (tmp_path / "state").mkdir()
        yield f"local://{tmp_path}/state"
        return
    if request.param == "memory":
        name = uuid4().hex
        yield f"memory://{name}/state"
        for path in MemoryFileSystem().find(f"/{name}"):
            MemoryFileSystem().rm_file(path)
        return
    yield str(tmp_path / "state") if request.param == "folder" else f"file://{tmp_path}/state"


@pytest.fixture
def store(place):
    return open_store(place)


@pytest.fixture
def break_off(store, monkeypatch):
    """with break_off(): every write ends in an error of the place itself."""

    def full(*_args, **_named):
        raise OSError(28, "No space left on device")

    @contextmanager
    def breaking():
        with monkeypatch.context() as patch:
            if isinstance(store, FolderStore):
                patch.setattr(os, "fsync", full)
            else:
                patch.setattr(type(store._files), "pipe_file", full)
            yield

    return breaking


def test_what_is_written_is_read_and_listed_by_whoever_opens_it(place, store):
    store.write("b/two", b"2")
    store.write("a/one", b"1")
    store.write("a/one", b"one")
    for reader in (store, open_store(place), open_store(place, read_only=True)):
        assert reader.read("a/one") == b"one"
        assert reader.names() == ["a/one", "b/two"]
        assert reader.names("a/") == ["a/one"]
        assert reader.names("b/t") == ["b/two"]
        assert reader.names("c/") == []


def test_bytes_come_back_as_they_were(store):
    every = bytes(range(256)) * 5000
    store.write("a/every", every)
    store.write("a/none", b"")
    assert store.read("a/every") == every
    assert store.read("a/none") == b""


def test_what_is_not_there_is_a_state_error_with_its_name(store):
    for look in (store.read, store.modified):
        with pytest.raises(StateError, match="a/gone cannot be read"):
            look("a/gone")


def test_deleting_forgives_twice(store):
    store.write("a/one", b"1")
    store.write("a/two", b"2")
    for _ in range(2):
        store.delete("a/one")
    assert store.names() == ["a/two"]


def test_a_write_that_breaks_off_leaves_what_was_there(store, break_off):
    store.write("a/one", b"old")
    with break_off(), pytest.raises(StateError, match=r"a/one cannot be written: .*No space left"):
        store.write("a/one", b"new")
    assert store.read("a/one") == b"old"
    assert store.names() == ["a/one"]


def test_the_time_of_a_write_is_told(store):
    before = SystemClock().now()
    store.write("a/one", b"1")
    assert before - 5 < store.modified("a/one") < SystemClock().now() + 5


def test_looking_makes_nothing(place):
    store = open_store(place, read_only=True)
    assert store.names() == []
    with pytest.raises(StateError):
        store.read("a")
    assert store.names() == []


def test_no_trace_is_left_of_the_first_try(place):
    assert open_store(place).names() == []


# --- snapshots


@pytest.fixture(scope="module")
def learned():
    stream = Stream()
    stream.put_events(random_events(48))
    stream.drain()
    return stream


def snapshots_on(store, keep=3, **named):
    return Snapshots(store, "tidemill-0", identity(small_settings()), keep, **named)


def test_a_snapshot_comes_back_and_old_ones_go(store, learned):
    snapshots = snapshots_on(store, keep=2)
    for _ in range(3):
        snapshots.save(learned.parts.image(7))
    assert len(snapshots.names()) == 2
    newest = snapshots_on(store).newest()
    newest.verify()
    assert same_state(newest.worker(), learned.parts.state())
    assert {name.rpartition("/")[0] for name in store.names()} == set(snapshots.names())


def test_the_manifest_is_written_last_and_is_what_makes_a_snapshot(store, learned, monkeypatch):
    written = []
    write = type(store).write

    def noted(self, name, data):
        assert snapshots_on(store).names() == []
        written.append(name.rpartition("/")[2])
        write(self, name, data)

    monkeypatch.setattr(type(store), "write", noted)
    snapshots_on(store).save(learned.parts.image(7))
    assert written == [
        "worker.safetensors",
        "worker.json",
        "histories-0.safetensors",
        "histories-0.json",
        "manifest.json",
    ]
    assert len(snapshots_on(store).names()) == 1


def test_an_upload_that_was_cut_off_counts_for_nothing_and_is_removed(store, learned):
    snapshots = snapshots_on(store)
    snapshots.save(learned.parts.image(7))
    for name in ("worker.safetensors", "worker.json.part", "manifest.json.part"):
        store.write(f"tidemill-0/snapshot-000000000009/{name}", b"half of it")
    store.write("another/snapshot-000000000009/worker.json", b"another worker is at it")
    store.write("tidemill-0/redo.json", b"{}")
    assert snapshots.newest().batch == 3
    assert len(snapshots.names(everyone=True)) == 1
    snapshots.save(learned.parts.image(7))
    assert [name for name in store.names() if "000000000009" in name] == ["another/snapshot-000000000009/worker.json"]
    assert "tidemill-0/redo.json" in store.names()
    assert len(snapshots.names()) == 2


def test_a_damaged_upload_is_passed_over(store, learned):
    snapshots = snapshots_on(store)
    snapshots.save(learned.parts.image(7))
    good = snapshots.newest().name
    snapshots.save(learned.parts.image(7))
    bad = snapshots.newest().name
    assert bad != good
    store.write(f"{bad}/worker.safetensors", store.read(f"{bad}/worker.safetensors")[:-1])
    complaints = []
    assert snapshots.newest(complaints).name == good
    assert bad in complaints[0]


def test_a_snapshot_that_fails_halfway_is_no_snapshot(store, learned, break_off):
    with break_off(), pytest.raises(StateError, match="No space left"):
        snapshots_on(store).save(learned.parts.image(7))
    assert snapshots_on(store).newest() is None
    snapshots_on(store).save(learned.parts.image(7))
    assert snapshots_on(store).newest().batch == 3


def test_snapshots_of_gained_partitions_stay_where_the_journal_is_kept_whole(store, learned):
    gain = {"gains": [["events", 0, "other/snapshot-000000000004", "ab" * 32, 0, 48]]}
    for keep_gains, kept in ((False, 2), (True, 3)):
        snapshots = snapshots_on(store, keep=2, keep_gains=keep_gains)
        snapshots.save(learned.parts.image(7, gain))
        of_gain = snapshots.newest().name
        for _ in range(2):
            snapshots.save(learned.parts.image(7))
        assert len(snapshots.names()) == kept
        assert (of_gain in snapshots.names()) is keep_gains


# --- what cannot be reached or used


@pytest.mark.parametrize(
    ("error", "kind"), [(TimeoutError("slow"), TransientError), (PermissionError("403"), AccessError)]
)
def test_a_store_that_cannot_be_reached_is_not_one_without_snapshots(monkeypatch, learned, error, kind):
    """Else a partition would be taken over without the histories that are there."""
    store = open_store(f"memory://{uuid4().hex}")
    snapshots = snapshots_on(store)
    snapshots.save(learned.parts.image(7))
    (partition,) = learned.parts.histories.partitions

    def away(*_args, **_named):
        raise error

    for call in ("cat_file", "find"):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, call, away)
            for look in (snapshots.newest, lambda: snapshots.holding(partition, 1000)):
                with pytest.raises(kind, match=str(error)):
                    look()
    assert snapshots.newest().batch == 3


@pytest.mark.parametrize(
    ("error", "kind"), [(ConnectionError("slow"), TransientError), (OSError("Forbidden: 403"), AccessError)]
)
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(monkeypatch, tmp_path, learned, error, kind):
    """What fsspec brings for file systems without a listing of their own passes over it."""
    store = open_store(f"local://{tmp_path}")
    snapshots = snapshots_on(store)
    snapshots.save(learned.parts.image(7))
    ls = LocalFileSystem.ls

    def away(self, path, *args, **named):
        if "snapshot-" in str(path):
            raise error
        return ls(self, path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "ls", away)
        with pytest.raises(kind, match=str(error)):
            snapshots.newest()
    assert snapshots.newest().batch == 3


def test_a_folder_that_is_removed_meanwhile_is_passed_over(monkeypatch, tmp_path):
    store = open_store(f"local://{tmp_path}")
    for name in ("a/one", "b/two"):
        store.write(name, b"1")
    ls = LocalFileSystem.ls

    def late(self, path, *args, **named):
        if str(path).endswith("/a"):
            shutil.rmtree(path)
        return ls(self, path, *args, **named)

    monkeypatch.setattr(LocalFileSystem, "ls", late)
    assert store.names() == ["b/two"]


def test_two_workers_may_try_the_same_place_at_once(monkeypatch):
    place = f"memory://{uuid4().hex}"
    write, opened = MemoryFileSystem.pipe_file, []

    def another_first(self, path, value, **named):
        write(self, path, value, **named)
        if not opened:
            opened.append(True)
            open_store(place)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", another_first)
    assert open_store(place).names() == []


def test_a_place_that_is_away_for_a_moment_may_be_tried_again(monkeypatch):
    def away(*_args, **_named):
        raise ConnectionError("timed out")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", away)
    with pytest.raises(TransientError, match=r"cannot be written \(timed out\)"):
        open_store("memory://bucket")


def test_a_take_over_waits_for_a_store_that_is_away_for_a_moment(monkeypatch):
    former = Stream()
    former.store = store = open_store(f"memory://{uuid4().hex}")
    former.start()
    former.put_events(random_events(64))
    former.pipeline.step()
    former.worker.save()
    former.worker.close()
    heir = Stream(small_settings(kafka={"instance": "heir"}), log=former.log)
    heir.store = store
    heir.log.trim(heir.log.partitions("journal")[0], heir.log.end(heir.log.partitions("journal")[0]))
    heir.start()
    find, failing = MemoryFileSystem.find, iter([True, True])

    def away_twice(self, path, *args, **named):
        if path == store._root and next(failing, False):  # all snapshots are looked through
            raise TimeoutError("slow")
        return find(self, path, *args, **named)

    monkeypatch.setattr(MemoryFileSystem, "find", away_twice)
    reports = [heir.worker.step() for _ in range(6)]
    heir.worker.close()
    assert reports[:2] == [None, None]  # recoveries
    assert [body["source"]["offset"] for body in heir.bodies()] == list(range(64))
    gains = [gain for record in heir.log.records("journal") for gain in decode(record.value).gains]
    assert [gain.snapshot for gain in gains] == ["tidemill-0/snapshot-000000000001"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nope://bucket/prefix", "Protocol not known"),
        ("ftp://me:secret@host/state", "holds a password"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_setting_that_is_wrong(url, said):
    with pytest.raises(ConfigError, match=said) as caught:
        open_store(url)
    assert "snapshot.dir" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest, **named):
        if name.partition(".")[0] == "s3fs":
            raise ImportError("No module named 's3fs'")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"snapshot\.dir = s3://bucket/x: Install s3fs.*s3 for s3://, gcs for gs://"):
        open_store("s3://bucket/x")


def test_a_place_that_cannot_be_written_is_said_before_the_first_event(monkeypatch):
    def refuse(*_args, **_named):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(ConfigError, match=r"memory://bucket cannot be written \(Forbidden\): set snapshot\.dir"):
        open_store("memory://bucket/")
    assert open_store("memory://bucket", read_only=True).names() == []
