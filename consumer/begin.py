"""How a new lineage begins from what was learned elsewhere: where `--init` says, else where its own group already is.

The numbers of the new lineage count from 1, and its first journal entry names what it began from, so that a redo can
begin there again. Histories stay behind: they come with their partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from consumer.describe_settings import identity
from consumer.errors import StateError, UsageError
from consumer.snapshots import Snapshots
from consumer.state_store import folder_of, is_url, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from consumer.parts import Parts
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot

log = structlog.get_logger()

SECTIONS = ("model", "learning", "prediction", "history")
"""Settings that must agree with those of the state that is begun from."""
SAME_STREAM = {"kafka.group", "topics.events"}
"""Settings that make workers parts of one application, beside those on the model and on what an event is."""


def begin_from(parts: Parts, place: str | Path, settings: Settings) -> str:
    """Take over what was learned from the furthest snapshot in a folder or behind a URL; returns the SHA-256 of its manifest.

    Raises UsageError where there is no snapshot, StateError where it is damaged or of another model.
    """
    if not is_url(place) and not folder_of(place).is_dir():
        raise UsageError(f"--init {place}: there is no such folder")
    store = open_store(place, read_only=True)
    snapshots = Snapshots(store, parts.lineage, identity(settings), settings.snapshot.keep)
    found = [snapshots.open(name) for name in snapshots.names(everyone=True)]
    if not found:
        raise UsageError(f"--init {place}: there is no snapshot in it; `tidemill replay SOURCE --save DIR` makes one")
    snapshot = max(found, key=lambda one: (one.batch, one.name))
    snapshots.check_identity(snapshot, SECTIONS)
    snapshot.verify()
    return _take_over(parts, snapshot)


def begin_from_group(parts: Parts, snapshots: Snapshots, settings: Settings) -> str | None:
    """Take over what another worker of the same group has learned, from the latest snapshot that fits.

    Returns the SHA-256 of its manifest; None, and nothing changed, where no other worker has one.
    """
    for snapshot in _latest_first(snapshots, _application(identity(settings))):
        try:
            begun_from = _take_over(parts, snapshot)
        except StateError as error:
            log.warning("a snapshot was passed over", reason=str(error))
        else:
            log.info("a new lineage begins with what its group has learned", snapshot=snapshot.name)
            return begun_from
    return None


def begin_as_journalled(parts: Parts, snapshots: Snapshots, begun_from: str) -> None:
    """Take over what the journal says that the lineage began from, by the SHA-256 of its manifest.

    The lineage's own snapshot of micro-batch 0 was made of it and serves as well. Raises StateError where neither is in
    the store.
    """
    for snapshot in _readable(snapshots):
        own = snapshot.lineage == parts.lineage and snapshot.batch == 0
        if snapshot.manifest_sha256 == begun_from or (own and snapshot.notes.get("begun_from") == begun_from):
            _take_over(parts, snapshot)
            return
    raise StateError(
        f"lineage {parts.lineage!r} began from a snapshot that is not in snapshot.dir (SHA-256 of its manifest "
        f"{begun_from}): name the folder with that one with --init"
    )


def _take_over(parts: Parts, snapshot: Snapshot) -> str:
    """Become what was learned; a snapshot that cannot be read (StateError) changes nothing.

    The unit of numeric times is decided anew: what was learned from may have had another.
    """
    parts.restore(snapshot, with_histories=False)
    parts.decoder.load_state({})
    parts.learner.batch = 0
    parts.unsent = []  # the other worker says what it has detected
    return snapshot.manifest_sha256


def _latest_first(snapshots: Snapshots, application: Mapping[str, Any]) -> list[Snapshot]:
    """Return the snapshots of all workers of an application, by the time at which they were written."""
    dated = []
    for snapshot in _readable(snapshots):
        if _application(snapshot.identity) == application:
            try:
                dated.append((snapshot.written_at(), snapshot.batch, snapshot.name, snapshot))
            except StateError as error:  # its owner has dropped it this moment
                log.info("a snapshot was passed over", reason=str(error))
    return [one[-1] for one in sorted(dated, key=lambda one: one[:-1], reverse=True)]


def _readable(snapshots: Snapshots) -> Iterator[Snapshot]:
    """Yield everyone's snapshots with a manifest that can be read."""
    for name in snapshots.names(everyone=True):
        try:
            yield snapshots.open(name)
        except StateError as error:
            log.info("a snapshot was passed over", reason=str(error))


def _application(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what workers of one application have in common."""
    sections = (*SECTIONS, "input")
    return {key: value for key, value in settings.items() if key in SAME_STREAM or key.partition(".")[0] in sections}
