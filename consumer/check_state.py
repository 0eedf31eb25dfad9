"""The part of `tidemill check` that looks at the state store: can it be written, and do its snapshots fit the settings?"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consumer.describe_settings import identity
from consumer.errors import ConfigError
from consumer.snapshots import Snapshots
from consumer.state_store import folder_of, is_url, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from consumer.ports import TopicPartition
    from consumer.settings import Settings


@dataclass(frozen=True, slots=True)
class StateLook:
    """What the state store holds of this lineage."""

    text: str
    learned: Mapping[TopicPartition, int] = field(default_factory=dict)
    """The next offset of each partition in the newest snapshot that is whole; empty without one."""


def look_at_state(settings: Settings) -> StateLook:
    """Return what there is; a missing folder is not made. Raises ConfigError or StateError, which say what would fail."""
    place, lineage = settings.snapshot.dir, settings.kafka.instance
    if not is_url(place) and not folder_of(place).exists():
        _require_room(folder_of(place))
        return StateLook(f"state: {place} will be made")
    snapshots = Snapshots(open_store(place), lineage, identity(settings), settings.snapshot.keep)
    complaints: list[str] = []
    newest = snapshots.newest(complaints)
    if newest is None:
        return StateLook(f"state: {place} can be written, and has no snapshot of {lineage!r} yet")
    damaged = f"; damaged: {'; '.join(complaints)}" if complaints else ""
    text = f"state: {place} can be written, newest snapshot of {lineage!r} is of micro-batch {newest.batch}{damaged}"
    return StateLook(text, {partition: at.next_offset for partition, at in newest.positions.items()})


def _require_room(folder: Path) -> None:
    """Raise ConfigError where a folder cannot be made."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"the state folder {folder} cannot be made: {above} cannot be written (snapshot.dir)")
