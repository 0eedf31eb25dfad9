import os
import stat

import pytest

from consumer.errors import ConfigError, StateError
from consumer.state_store import FolderStore


def test_what_is_written_is_read_and_listed(tmp_path):
    store = FolderStore(tmp_path / "made" / "when missing")
    store.write("b/two", b"2")
    store.write("a/one", b"1")
    store.write("a/one", b"one")
    assert store.read("a/one") == b"one"
    assert store.names() == ["a/one", "b/two"]
    assert store.names("a/") == ["a/one"]


def test_what_is_not_there_is_a_state_error_with_its_name(tmp_path):
    with pytest.raises(StateError, match="gone"):
        FolderStore(tmp_path).read("a/gone")


def test_deleting_takes_the_empty_folder_along_and_forgives_twice(tmp_path):
    store = FolderStore(tmp_path)
    store.write("a/one", b"1")
    store.write("a/two", b"2")
    store.delete("a/one")
    assert (tmp_path / "a").is_dir()
    store.delete("a/two")
    store.delete("a/two")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    store.write("a/one", b"old")

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StateError, match="No space left"):
        store.write("a/one", b"new")
    assert store.read("a/one") == b"old"
    assert store.names() == ["a/one"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    store, seen, folders = FolderStore(tmp_path), [], []
    real = os.fsync

    def fsync(number):
        seen.append(sorted(path.name for path in (tmp_path / "a").iterdir()))
        folders.append(stat.S_ISDIR(os.fstat(number).st_mode))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    store.write("a/one", b"new")
    assert seen == [[], ["one.part"], ["one"]]  # the folder's own name, the bytes, the file's name
    assert folders == [True, False, True]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one"]


def test_a_folder_that_cannot_be_written_is_said_before_the_first_event(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"snapshot\.dir"):
        FolderStore(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        FolderStore(tmp_path)
    tmp_path.chmod(0o700)


def test_a_write_below_a_file_is_a_state_error(tmp_path):
    store = FolderStore(tmp_path)
    store.write("a", b"1")
    with pytest.raises(StateError, match="cannot be written"):
        store.write("a/one", b"1")


def test_a_folder_that_another_worker_removes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    for name in ("a/one", "b/two"):
        store.write(name, b"1")
    scandir = os.scandir

    def late(place):
        if str(place).endswith("a"):
            store.delete("a/one")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", late)
    assert store.names() == ["b/two"]


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    store.write("a/one", b"1")

    def refused(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(StateError, match="cannot be listed: Permission denied"):
        store.names()
