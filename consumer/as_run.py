"""`tidemill replay --as-run`: a lineage once more, from its own journal: the same batches, plans and gains.

It ends with the same state, to the bit, on the same build, thread count and CPU capability; so one can ask what the
model knew at a micro-batch, or check that a worker that was killed many times has lost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from consumer.begin import begin_from
from consumer.errors import StateError
from consumer.journal import Journal
from consumer.ports import TopicPartition
from consumer.recovery import redo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consumer.parts import Parts
    from consumer.ports import Past
    from consumer.settings import Settings
    from consumer.snapshots import Snapshots

log = structlog.get_logger()


class NoMembership:
    """Stands where recovery looks after its group: as-run has none."""

    def beat(self) -> None:
        """Nothing has to be kept alive."""


@dataclass(frozen=True, slots=True)
class AsRun:
    """What to replay: up to micro-batch `to_batch` (None: the journal's end), from `init` where the lineage did."""

    to_batch: int | None = None
    init: Path | None = None


def replay_as_run(
    settings: Settings,
    parts: Parts,
    snapshots: Snapshots,
    past: Past,
    wanted: AsRun,
    after_each: Callable[[int], None] | None = None,
) -> int:
    """Redo a lineage's journal into fresh `parts`; returns the number of micro-batches.

    Begins cold where the journal is whole, else from the oldest snapshot kept. Raises StateError where neither fits.
    """
    journal = Journal(past, TopicPartition(settings.topics.journal, settings.topics.journal_partition), parts.lineage)
    first, skipped = _look_through(journal, parts.lineage)
    if first == 1:
        _begin_cold(journal, parts, settings, wanted.init)
    else:
        _begin_from_oldest(snapshots, parts, first)
    count = 0
    for journaled in journal.after(parts.batch):
        entry = journaled.entry
        if wanted.to_batch is not None and entry.batch > wanted.to_batch:
            break
        redo(entry, parts, past, snapshots, NoMembership(), skip=entry.batch in skipped)
        count += 1
        if after_each is not None:
            after_each(entry.batch)
    return count


def _look_through(journal: Journal, lineage: str) -> tuple[int, set[int]]:
    """Return the number of the first micro-batch still in the journal, and all that were skipped later on."""
    first: int | None = None
    skipped: set[int] = set()
    for journaled in journal.everything():
        first = first or journaled.entry.batch
        skipped.update(journaled.entry.skipped)
    if first is None:
        raise StateError(f"the journal has nothing of {lineage!r}: is it the right kafka.instance and topics.journal?")
    return first, skipped


def _begin_cold(journal: Journal, parts: Parts, settings: Settings, init: Path | None) -> None:
    begun_from = next(iter(journal.everything())).entry.begun_from
    if begun_from is None:
        return
    if init is None or begin_from(parts, init, settings) != begun_from:
        raise StateError("this lineage began from a snapshot: name its folder with --init")


def _begin_from_oldest(snapshots: Snapshots, parts: Parts, first: int) -> None:
    names = snapshots.names()
    if not names:
        raise StateError(f"the journal begins at micro-batch {first} and there is no snapshot before it")
    snapshot = snapshots.open(names[0])
    snapshot.verify()
    snapshots.check_identity(snapshot)
    if snapshot.batch + 1 < first:
        raise StateError(f"the journal begins at micro-batch {first}, the oldest snapshot kept is of {snapshot.batch}")
    parts.restore(snapshot)
    log.info("beginning from the oldest snapshot", snapshot=snapshot.name)
