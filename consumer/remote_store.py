"""An object store, or whatever else fsspec reaches by a URL, as StateStore: s3://bucket/prefix, gs://bucket/prefix, ….

Credentials come from where the file system of that protocol looks for them (environment, files, instance roles).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from consumer.errors import AccessError, ConfigError, StateError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROBE = ".tidemill-probe"
SETTINGS_ARE_WRONG = (ImportError, ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What trying again does not help against."""
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


class RemoteStore:
    """Blobs below a URL. A blob in an object store is there whole or not at all; elsewhere its hash tells.

    A store that cannot be reached is no store without snapshots: reading then raises TransientError, and AccessError
    where a right is missing; StateError is for what is not there. A write that fails is a StateError, whatever the cause.
    Raises ConfigError at once where the protocol is not known, its package is missing, or nothing may be written there,
    TransientError where it cannot be reached.
    The bucket, or the folder, must exist. One that is only looked at (`read_only`) is not tried.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url.rstrip("/")
        self._files, self._root = _open(self._url)
        if not read_only:
            self._try_to_write()

    def write(self, name: str, data: bytes) -> None:
        """Upload in one call."""
        with self._changing(name, "written"):
            try:
                self._files.pipe_file(self._path(name), data)
            except FileNotFoundError:  # a file system with folders, and one of them is missing
                self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes:
        """Download in one call."""
        with self._looking(name):
            return bytes(self._files.cat_file(self._path(name)))

    def names(self, prefix: str = "") -> Sequence[str]:
        """Return all names that start with `prefix`; never from a cache, others write there too."""
        folder = prefix.rpartition("/")[0]
        with self._looking(prefix):
            self._files.invalidate_cache()
            place = self._path(folder) if folder else self._root
            found = list(self._files.find(place) if _finds_by_itself(self._files) else self._below(place))
        names = (str(path).removeprefix(self._root).lstrip("/") for path in found)
        return sorted(name for name in names if name.startswith(prefix) and not name.startswith(PROBE))

    def _below(self, folder: str) -> Iterator[str]:
        """Yield all files below a folder. What fsspec has for this takes a folder that cannot be listed for an empty one."""
        try:
            entries = self._files.ls(folder, detail=True)
        except FileNotFoundError:  # not made yet, or removed by another worker this moment
            return
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if entry["type"] != "directory":
                yield name
            elif name != folder.rstrip("/"):
                yield from self._below(name)

    def delete(self, name: str) -> None:
        """Remove a blob; not an error when it is not there."""
        with self._changing(name, "removed"):
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def modified(self, name: str) -> float:
        """Return when a blob was written, in seconds since the epoch, as the store says."""
        with self._looking(name):
            return float(self._files.modified(self._path(name)).timestamp())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try_to_write(self) -> None:
        probe = self._path(f"{PROBE}-{uuid4().hex}")  # others may try at the same time
        try:
            self._files.pipe_file(probe, b"probe")
            self._files.rm_file(probe)
        except Exception as error:
            said = f"the state store {self._url} cannot be written ({_first_line(error)})"
            if not (_is_refusal(error) or isinstance(error, SETTINGS_ARE_WRONG)):
                raise TransientError(said) from error
            raise ConfigError(
                f"{said}: set snapshot.dir to a place that exists and that this worker may write"
            ) from error

    @contextmanager
    def _changing(self, name: str, done: str) -> Iterator[None]:
        """Turn whatever the file system raises into StateError: each raises what its service does."""
        try:
            yield
        except Exception as error:
            raise StateError(f"{self._url}/{name} cannot be {done}: {_first_line(error)}") from error

    @contextmanager
    def _looking(self, name: str) -> Iterator[None]:
        """Tell what is not there from what cannot be seen now."""
        try:
            yield
        except Exception as error:
            said = f"{self._url}/{name} cannot be read: {_first_line(error)}"
            if isinstance(error, FileNotFoundError):
                raise StateError(said) from error
            raise (AccessError if _is_refusal(error) else TransientError)(said) from error


def _open(url: str) -> tuple[Any, str]:
    if _PASSWORD.search(url):
        raise ConfigError("snapshot.dir holds a password: give it to the file system by its own environment variables")
    try:
        files, root = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise ConfigError(
            f"snapshot.dir = {url}: {error}. The extras of tidemill have it: s3 for s3://, gcs for gs://; for other "
            "protocols install the package that fsspec names"
        ) from error
    except ValueError as error:
        raise ConfigError(f"snapshot.dir = {url}: {error}; a folder is written without ://") from error
    return files, str(root).rstrip("/")


def _finds_by_itself(files: Any) -> bool:
    """Whether the listing of a whole tree is the file system's own, and not that of fsspec's base classes."""
    kind = type(files)
    if isinstance(files, AsyncFileSystem):
        return kind._find is not AsyncFileSystem._find  # noqa: SLF001 - nothing else tells
    return kind.find is not AbstractFileSystem.find


def _is_refusal(error: Exception) -> bool:
    """Whether a right is missing; some services say so in words alone."""
    return (
        isinstance(error, PermissionError)
        or re.search(r"\b(forbidden|access ?denied)\b", str(error), re.IGNORECASE) is not None
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
