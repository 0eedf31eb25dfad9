"""Where snapshots are: a folder, in which every write is atomic and durable, or what a URL names."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from consumer.errors import ConfigError, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.ports import StateStore

PART_SUFFIX = ".part"
LOCAL = "file://"


def is_url(place: str | Path) -> bool:
    """Whether a place is reached through fsspec, and not a folder of this machine."""
    return "://" in str(place) and not str(place).startswith(LOCAL)


def same_place(left: str | Path, right: str | Path) -> bool:
    """Whether two places are one folder, or one URL."""
    if is_url(left) or is_url(right):
        return str(left).rstrip("/") == str(right).rstrip("/")
    return folder_of(left).resolve() == folder_of(right).resolve()


def folder_of(place: str | Path) -> Path:
    """Return the folder of this machine that a place is, which may be written file://…."""
    return Path(str(place).removeprefix(LOCAL))


def open_store(place: str | Path, *, read_only: bool = False) -> StateStore:
    """Open a folder, or a URL such as s3://bucket/prefix. Raises ConfigError where it cannot be used."""
    if not is_url(place):
        return FolderStore(folder_of(place), read_only=read_only)
    from consumer.remote_store import RemoteStore  # noqa: PLC0415 - a folder needs no fsspec

    return RemoteStore(str(place), read_only=read_only)


class FolderStore:
    """Blobs in files below a folder, which is made when it is missing.

    Raises ConfigError at once where the folder cannot be written: better before the first event than at the first
    snapshot. One that is only looked at (`read_only`) is neither made nor tried.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self._folder = folder = Path(folder)
        if read_only:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise ConfigError(
                f"the state folder {folder} cannot be written ({error.strerror}): "
                "set snapshot.dir to a folder that this user may write"
            ) from error

    def write(self, name: str, data: bytes) -> None:
        """Write to a temporary name, flush to disk, rename, flush the folder: then the name survives a power cut too."""
        path = self._folder / name
        part = path.with_name(path.name + PART_SUFFIX)
        try:
            self._make(path.parent)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _flush_folder(path.parent)
        except OSError as error:
            with suppress(OSError):  # it would be in the way of nobody, but takes room
                part.unlink(missing_ok=True)
            raise StateError(f"{path} cannot be written: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error

    def names(self, prefix: str = "") -> Sequence[str]:
        """Return the names of all files that start with `prefix`; a write that was killed leaves one that ends in .part.

        Folders that other workers remove meanwhile are passed over.
        """
        top = self._folder / prefix.rpartition("/")[0]
        found = (Path(folder, file) for folder, _, files in os.walk(top, onerror=_unless_gone) for file in files)
        names = (path.relative_to(self._folder).as_posix() for path in found)
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Remove a file, and its folder when that was the last in it."""
        path = self._folder / name
        try:
            path.unlink(missing_ok=True)
            if path.parent != self._folder and path.parent.exists() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:
            raise StateError(f"{path} cannot be removed: {error.strerror}") from error

    def modified(self, name: str) -> float:
        """Return when a file was written, in seconds since the epoch."""
        path = self._folder / name
        try:
            return path.stat().st_mtime
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error

    def _make(self, folder: Path) -> None:
        """Make a folder below ours, its own name flushed to disk as well."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StateError(f"{error.filename} cannot be listed: {error.strerror}") from error
