"""The part of `tidemill check` that looks at the state store: can it be written, and do its snapshots fit the settings?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from consumer.describe_settings import identity
from consumer.errors import ConfigError
from consumer.snapshots import Snapshots
from consumer.state_store import folder_of, is_url, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from consumer.ports import TopicPartition
    from consumer.settings import Settings


def look_at_state(settings: Settings) -> str:
    """Return what there is; a missing folder is not made. Raises ConfigError or StateError, which say what would fail."""
    place, lineage = settings.snapshot.dir, settings.kafka.instance
    if not is_url(place) and not folder_of(place).exists():
        _require_room(folder_of(place))
        return f"state: {place} will be made"
    snapshots = Snapshots(open_store(place), lineage, identity(settings), settings.snapshot.keep)
    complaints: list[str] = []
    newest = snapshots.newest(complaints)
    if newest is None:
        return f"state: {place} can be written, and has no snapshot of {lineage!r} yet"
    damaged = f"; damaged: {'; '.join(complaints)}" if complaints else ""
    return f"state: {place} can be written, newest snapshot of {lineage!r} is of micro-batch {newest.batch}{damaged}"


def learned_up_to(settings: Settings) -> dict[TopicPartition, int]:
    """Return the next offset of each partition in the lineage's newest snapshot, which is whole; nothing without one."""
    place = settings.snapshot.dir
    if not is_url(place) and not folder_of(place).exists():
        return {}
    store = open_store(place, read_only=True)
    newest = Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep).newest()
    return {} if newest is None else {partition: at.next_offset for partition, at in newest.positions.items()}


def _require_room(folder: Path) -> None:
    """Raise ConfigError where a folder cannot be made."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"the state folder {folder} cannot be made: {above} cannot be written (snapshot.dir)")
