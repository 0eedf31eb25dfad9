"""A folder as StateStore: every write is atomic and durable, names use `/` between parts."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from consumer.errors import ConfigError, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PART_SUFFIX = ".part"


class FolderStore:
    """Blobs in files below a folder, which is made when it is missing.

    Raises ConfigError at once where the folder cannot be written: better before the first event than at the first
    snapshot. One that is only looked at (`read_only`) is neither made nor tried.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder = folder
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
        """Write to a temporary name, flush to disk, rename."""
        path = self._folder / name
        part = path.with_name(path.name + PART_SUFFIX)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error

    def names(self, prefix: str = "") -> Sequence[str]:
        """Return the names of all complete files that start with `prefix`."""
        found = (path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file())
        return sorted(name for name in found if name.startswith(prefix) and not name.endswith(PART_SUFFIX))

    def delete(self, name: str) -> None:
        """Remove a file, and its folder when that was the last in it."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        if path.parent != self._folder and path.parent.exists() and not any(path.parent.iterdir()):
            path.parent.rmdir()
