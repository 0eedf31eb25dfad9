"""Snapshots: the worker's state as of one micro-batch, in safetensors and JSON, complete by its manifest.

A snapshot is a folder `snapshot-<batch>` with one pair of files per part and `manifest.json`, which holds the SHA-256
of each and is written last: without it there is no snapshot. The newest one that is valid wins; older ones are kept
as the settings say. Nothing in it is executable: no pickle.

Parts: `worker` (model, learner, rehearsal, drift monitor, decoder) and `histories-<n>`, one per partition, by keys of
ids. Item and type ids are in the worker's JSON, user ids nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from consumer.errors import StateError
from consumer.ports import TopicPartition
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consumer.ports import StateStore

FORMAT = 1
MANIFEST = "manifest.json"
WORKER = "worker"


def _encoded(state: State) -> bytes:
    """Return the arrays as safetensors, which writes strided ones as they lie in memory: they are laid out first."""
    return bytes(save_arrays({name: np.asarray(array, order="C") for name, array in state.arrays.items()}))


@dataclass(frozen=True, slots=True)
class Position:
    """A partition's histories contain every event before `next_offset`."""

    part: str
    next_offset: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One valid snapshot; parts are read and checked when they are asked for."""

    name: str
    batch: int
    lineage: str
    identity: Mapping[str, Any]
    positions: Mapping[TopicPartition, Position]
    files: Mapping[str, Mapping[str, Any]]
    store: StateStore

    def worker(self) -> State:
        """Return the worker's state. Raises StateError where a file is damaged."""
        return self._part(WORKER)

    def histories(self, partition: TopicPartition) -> State:
        """Return the histories of a partition that `positions` names."""
        return self._part(self.positions[partition].part)

    def _part(self, part: str) -> State:
        return State(self._arrays(part), orjson.loads(self._file(f"{part}.json")))

    def _arrays(self, part: str) -> dict[str, Any]:
        try:
            return dict(load_arrays(self._file(f"{part}.safetensors")))
        except SafetensorError as error:
            raise StateError(f"{self.name}/{part}.safetensors cannot be read: {error}") from error

    def _file(self, name: str) -> bytes:
        data = self.store.read(f"{self.name}/{name}")
        if sha256(data).hexdigest() != self.files[name]["sha256"]:
            raise StateError(f"{self.name}/{name} does not have the SHA-256 that its manifest names: it is damaged")
        return data

    def verify(self) -> None:
        """Read and check every file. Raises StateError."""
        for name in self.files:
            self._file(name)


class Snapshots:
    """The snapshots of one store."""

    def __init__(self, store: StateStore, lineage: str, identity: Mapping[str, Any], keep: int) -> None:
        self._store, self._lineage, self._identity, self._keep = store, lineage, dict(identity), keep

    def save(self, batch: int, worker: State, histories: Mapping[TopicPartition, tuple[State, int]]) -> int:
        """Write a snapshot and drop those beyond the number kept; returns its size in bytes.

        Raises StateError where the store refuses; an unfinished snapshot has no manifest and counts for nothing.
        """
        name = f"snapshot-{batch:012d}"
        parts = {WORKER: worker}
        positions = []
        for index, (partition, (state, next_offset)) in enumerate(sorted(histories.items())):
            parts[f"histories-{index}"] = state
            positions.append([*partition, f"histories-{index}", next_offset])
        files: dict[str, dict[str, Any]] = {}
        for part, state in parts.items():
            files |= self._write(name, f"{part}.safetensors", _encoded(state))
            files |= self._write(name, f"{part}.json", orjson.dumps(state.values))
        manifest = {
            "format": FORMAT,
            "batch": batch,
            "lineage": self._lineage,
            "identity": self._identity,
            "positions": positions,
            "files": files,
        }
        self._store.write(f"{name}/{MANIFEST}", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        self._drop_old(name)
        return sum(int(file["bytes"]) for file in files.values())

    def _write(self, folder: str, name: str, data: bytes) -> dict[str, Any]:
        self._store.write(f"{folder}/{name}", data)
        return {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}}

    def _drop_old(self, newest: str) -> None:
        complete = [name for name in self.names() if name <= newest]
        for old in complete[: -self._keep]:
            self._store.delete(f"{old}/{MANIFEST}")  # first: what is left is no snapshot any more
            for file in self._store.names(f"{old}/"):
                self._store.delete(file)

    def names(self) -> list[str]:
        """Return the names of all complete snapshots, the oldest first."""
        return [name.removesuffix(f"/{MANIFEST}") for name in self._store.names() if name.endswith(f"/{MANIFEST}")]

    def newest(self, complaints: list[str] | None = None, sections: Sequence[str] = ()) -> Snapshot | None:
        """Return the newest snapshot that is whole; None where there is no snapshot at all.

        What is wrong with newer ones is added to `complaints`. Raises StateError where snapshots exist and none can
        be used, or the newest whole one was made with other identity settings (of `sections`, where given).
        """
        problems: list[str] = []
        for name in reversed(self.names()):
            try:
                snapshot = self.open(name)
                snapshot.verify()
            except StateError as error:
                problems.append(str(error))
                continue
            if complaints is not None:
                complaints.extend(problems)
            self._check_identity(snapshot, sections)
            return snapshot
        if problems:
            raise StateError("no snapshot can be used: " + "; ".join(problems))
        return None

    def open(self, name: str) -> Snapshot:
        """Read one manifest. Raises StateError where it is damaged or of another format."""
        try:
            manifest = orjson.loads(self._store.read(f"{name}/{MANIFEST}"))
            if manifest["format"] != FORMAT:
                raise StateError(f"{name} has format {manifest['format']}, this version reads {FORMAT}")
            positions = {
                TopicPartition(topic, partition): Position(part, offset)
                for topic, partition, part, offset in manifest["positions"]
            }
            return Snapshot(
                name,
                manifest["batch"],
                manifest["lineage"],
                manifest["identity"],
                positions,
                manifest["files"],
                self._store,
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"{name}/{MANIFEST} is damaged: {error}") from error

    def _check_identity(self, snapshot: Snapshot, sections: Sequence[str]) -> None:
        changed = sorted(
            key
            for key in snapshot.identity.keys() | self._identity.keys()
            if snapshot.identity.get(key) != self._identity.get(key)
            and (not sections or key.partition(".")[0] in sections)
        )
        if changed:
            raise StateError(
                f"{snapshot.name} was made with other settings of {', '.join(changed)}: set them back, or start a new "
                "lineage with another snapshot.dir (--init takes over what was learned where the model is the same)"
            )
