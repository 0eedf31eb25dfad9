"""How a new lineage begins from what was learned elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from consumer.describe_settings import identity
from consumer.errors import UsageError
from consumer.snapshots import Snapshots
from consumer.state_store import is_url, open_store

if TYPE_CHECKING:
    from consumer.parts import Parts
    from consumer.settings import Settings

SECTIONS = ("model", "learning", "prediction", "history")
"""Settings that must agree with those of the state that is begun from."""


def begin_from(parts: Parts, place: str | Path, settings: Settings) -> str:
    """Take over what was learned from the furthest snapshot in a folder or behind a URL; returns the SHA-256 of its manifest.

    The micro-batches of the new lineage count from 1; histories stay behind, they come with their partitions. Raises
    UsageError where there is no snapshot, StateError where it is damaged or of another model.
    """
    if not is_url(place) and not Path(place).is_dir():
        raise UsageError(f"--init {place}: there is no such folder")
    store = open_store(place, read_only=True)
    snapshots = Snapshots(store, parts.lineage, identity(settings), settings.snapshot.keep)
    found = [snapshots.open(name) for name in snapshots.names(everyone=True)]
    if not found:
        raise UsageError(f"--init {place}: there is no snapshot in it; `tidemill replay SOURCE --save DIR` makes one")
    snapshot = max(found, key=lambda one: (one.batch, one.name))
    snapshots.check_identity(snapshot, SECTIONS)
    snapshot.verify()
    parts.restore(snapshot, with_histories=False)
    parts.learner.batch = 0
    return snapshot.manifest_sha256
