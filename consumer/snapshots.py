"""Snapshots: a lineage's state as of one micro-batch, in safetensors and JSON, complete by its manifest.

A snapshot is a folder `<lineage>/snapshot-<batch>` (`…-001` and so on where there is one of that micro-batch already)
with one pair of files per part and `manifest.json`, which holds the SHA-256 of each and is written last: without it
there is no snapshot. The newest one that is valid wins; older ones are kept as the settings say. Nothing in it is
executable: no pickle.

Parts: `worker` (model, learner, rehearsal, drift monitor, decoder, limit on bad records) and `histories-<n>`, one per partition, by keys of
ids. Item and type ids and values of `drift.segment` are in the worker's JSON, user ids only where items are users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    from collections.abc import Iterator, Mapping, Sequence

    from consumer.ports import StateStore

FORMAT = 9
MANIFEST = "manifest.json"
PREFIX = "snapshot-"
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
    """One snapshot with a readable manifest; parts are read, and checked, when they are asked for.

    `journal_offset` is the offset behind a journal record that it contains, mostly the last; `notes` are what the next one has
    yet to say.
    """

    name: str
    batch: int
    lineage: str
    journal_offset: int
    identity: Mapping[str, Any]
    positions: Mapping[TopicPartition, Position]
    files: Mapping[str, Mapping[str, Any]]
    manifest_sha256: str
    store: StateStore
    notes: Mapping[str, Any]

    def worker(self) -> State:
        """Return the worker's state. Raises StateError where a file is damaged."""
        return self._part(WORKER)

    def histories(self, partition: TopicPartition) -> State:
        """Return the histories of a partition that `positions` names."""
        return self._part(self.positions[partition].part)

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield all parts by name: `worker`, then the histories by topic and partition."""
        yield WORKER, self.worker()
        for partition in sorted(self.positions):
            yield f"{partition.topic}-{partition.partition}", self.histories(partition)

    def written_at(self) -> float:
        """Return when it was completed, in seconds since the epoch, as the store says."""
        return self.store.modified(f"{self.name}/{MANIFEST}")

    def size_bytes(self) -> int:
        """Return the size of all parts."""
        return sum(int(file["bytes"]) for file in self.files.values())

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


@dataclass(frozen=True, slots=True)
class Image:
    """Everything a snapshot will hold, copied between two steps so that it can be written while they go on."""

    batch: int
    journal_offset: int
    worker: State
    histories: Mapping[TopicPartition, tuple[State, int]]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Snapshots:
    """The snapshots of one store; this lineage's are written and kept, those of others are read."""

    def __init__(
        self, store: StateStore, lineage: str, identity: Mapping[str, Any], keep: int, *, keep_gains: bool = False
    ) -> None:
        self.store, self.lineage = store, lineage
        self._identity, self._keep, self._keep_gains = dict(identity), keep, keep_gains

    def save(self, image: Image) -> int:
        """Write a snapshot and drop those beyond the number kept; returns its size in bytes.

        1. The parts are written, each durably.
        2. The manifest is written: from now on it is a snapshot.
        3. Snapshots beyond the number kept go, each beginning with its manifest, and so does what a killed process left
           unfinished. With `keep_gains` those stay that were made because a partition was gained, or the lineage began
           with what others had learned: a journal that is kept whole needs them when the others' snapshot is gone.

        Raises StateError where the store refuses; an unfinished snapshot has no manifest and counts for nothing.
        """
        name = self._free_name(image.batch)
        parts = {WORKER: image.worker}
        positions = []
        for index, (partition, (state, next_offset)) in enumerate(sorted(image.histories.items())):
            parts[f"histories-{index}"] = state
            positions.append([*partition, f"histories-{index}", next_offset])
        files: dict[str, dict[str, Any]] = {}
        for part, state in parts.items():  # 1
            files |= self._write(name, f"{part}.safetensors", _encoded(state))
            files |= self._write(name, f"{part}.json", orjson.dumps(state.values))
        manifest = {
            "format": FORMAT,
            "batch": image.batch,
            "lineage": self.lineage,
            "journal_offset": image.journal_offset,
            "identity": self._identity,
            "positions": positions,
            "notes": dict(image.notes),
            "files": files,
        }
        self.store.write(f"{name}/{MANIFEST}", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))  # 2
        self._drop_old(name)  # 3
        return sum(int(file["bytes"]) for file in files.values())

    def _free_name(self, batch: int) -> str:
        """Return a name that no snapshot has: journals name them by their hash, and half of another is no snapshot."""
        first = name = f"{self.lineage}/{PREFIX}{batch:012d}"
        taken, number = set(self.names()), 0
        while name in taken:
            number += 1
            name = f"{first}-{number:03d}"
        return name

    def _write(self, folder: str, name: str, data: bytes) -> dict[str, Any]:
        self.store.write(f"{folder}/{name}", data)
        return {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}}

    def drop_all_but(self, kept: int) -> None:
        """Drop all but the newest snapshots of this lineage, each beginning with its manifest."""
        for old in self.names()[:-kept]:
            self._drop(old)

    def _drop_old(self, newest: str) -> None:
        whole = self.names()
        for old in whole[: -self._keep]:
            if not (self._keep_gains and self._is_needed(old)):
                self._drop(old)
        files = self.store.names(f"{self.lineage}/{PREFIX}")
        for unfinished in sorted({file.rpartition("/")[0] for file in files} - {*whole, newest}):
            self._drop(unfinished)

    def _is_needed(self, name: str) -> bool:
        """Whether a journal that is kept whole needs it: another worker's snapshot that is gone lives on in it."""
        try:
            notes = self.open(name).notes
        except StateError:
            return False
        return notes.get("begun_from") is not None or any(gain[2] is not None for gain in notes.get("gains", ()))

    def _drop(self, name: str) -> None:
        self.store.delete(f"{name}/{MANIFEST}")
        for file in self.store.names(f"{name}/"):
            self.store.delete(file)

    def names(self, *, everyone: bool = False) -> list[str]:
        """Return the names of this lineage's complete snapshots, or of everyone's; each lineage's oldest first."""
        found = self.store.names("" if everyone else f"{self.lineage}/")
        return sorted(name.removesuffix(f"/{MANIFEST}") for name in found if name.endswith(f"/{MANIFEST}"))

    def newest(self, complaints: list[str] | None = None) -> Snapshot | None:
        """Return this lineage's newest snapshot that is whole; None where there is no snapshot at all.

        What is wrong with newer ones is added to `complaints`. Raises StateError where snapshots exist and none can
        be used, or the newest whole one was made with other identity settings.
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
            self.check_identity(snapshot)
            return snapshot
        if problems:
            raise StateError("no snapshot can be used: " + "; ".join(problems))
        return None

    def holding(self, partition: TopicPartition, at_most: int) -> Snapshot | None:
        """Return the snapshot, whoever wrote it, whose histories of a partition go furthest but not past `at_most`.

        Damaged ones are passed over.
        """
        best: Snapshot | None = None
        for name in self.names(everyone=True):
            try:
                snapshot = self.open(name)
                position = snapshot.positions.get(partition)
                if position is None or position.next_offset > at_most:
                    continue
                if best is None or position.next_offset > best.positions[partition].next_offset:
                    snapshot.histories(partition)
                    best = snapshot
            except StateError:
                continue
        return best

    def named(self, name: str, manifest_sha256: str, partition: TopicPartition) -> Snapshot:
        """Open the snapshot that a journal names, for a partition's histories. Raises StateError where it is another one."""
        snapshot = self.open(name)
        if snapshot.manifest_sha256 != manifest_sha256:
            raise StateError(f"{name} is not the snapshot that the journal names: its hash differs")
        snapshot.histories(partition)
        return snapshot

    def own_of(self, batch: int, partition: TopicPartition, next_offset: int) -> Snapshot | None:
        """Return this lineage's snapshot of a micro-batch whose histories of a partition end at an offset."""
        for name in self.names():
            try:
                snapshot = self.open(name)
                position = snapshot.positions.get(partition)
                if snapshot.batch == batch and position is not None and position.next_offset == next_offset:
                    snapshot.histories(partition)
                    return snapshot
            except StateError:
                continue
        return None

    def oldest_journal_offset(self) -> int | None:
        """Return up to where the journal is not needed any more: that of the oldest snapshot kept that can be read."""
        for name in self.names():
            try:
                return self.open(name).journal_offset
            except StateError:
                continue
        return None

    def open(self, name: str) -> Snapshot:
        """Read one manifest. Raises StateError where it is missing, damaged or of another format."""
        data = self.store.read(f"{name}/{MANIFEST}")
        try:
            manifest = orjson.loads(data)
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
                manifest["journal_offset"],
                manifest["identity"],
                positions,
                manifest["files"],
                sha256(data).hexdigest(),
                self.store,
                manifest.get("notes", {}),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"{name}/{MANIFEST} is damaged: {error}") from error

    def check_identity(self, snapshot: Snapshot, sections: Sequence[str] = ()) -> None:
        """Raise StateError where a snapshot was made with other identity settings (of `sections`, where given)."""
        changed = sorted(
            key
            for key in snapshot.identity.keys() | self._identity.keys()
            if snapshot.identity.get(key) != self._identity.get(key)
            and (not sections or key.partition(".")[0] in sections)
        )
        if changed:
            raise StateError(
                f"{snapshot.name} was made with other settings of {', '.join(changed)}: set them back, or start a new "
                "lineage (another kafka.instance, and a free topics.journal_partition; --init takes over what was "
                "learned where the model is the same)"
            )
