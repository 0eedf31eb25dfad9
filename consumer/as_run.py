"""`tidemill replay --as-run`: a lineage once more, from its own journal: the same batches, plans and gains.

It ends with the same state, to the bit, on the same build, thread count and CPU capability; so one can ask what the
model knew at a micro-batch, or check that a worker that was killed many times has lost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from consumer.begin import begin_as_journalled, begin_from
from consumer.errors import StateError
from consumer.journal import Journal
from consumer.ports import TopicPartition
from consumer.redo import InputAgain, redo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from consumer.parts import Considered, Parts
    from consumer.ports import Past
    from consumer.settings import Settings
    from consumer.snapshots import Snapshot, Snapshots

log = structlog.get_logger()


class NoMembership:
    """Stands where recovery looks after its group: as-run has none."""

    def beat(self) -> None:
        """Nothing has to be kept alive."""


@dataclass(frozen=True, slots=True)
class AsRun:
    """What to replay: up to micro-batch `to_batch` (None: the journal's end), from `init` where the lineage did."""

    to_batch: int | None = None
    init: str | Path | None = None


def replay_as_run(
    settings: Settings,
    parts: Parts,
    snapshots: Snapshots,
    past: Past,
    wanted: AsRun,
    after_each: Callable[[Considered], None] | None = None,
) -> int:
    """Redo a lineage's journal into fresh `parts`; returns the number of micro-batches.

    Begins as the lineage did where the journal is whole, else from the oldest snapshot kept. Raises StateError where
    neither fits, and where micro-batch `to_batch` is not there.
    """
    journal = Journal(past, TopicPartition(settings.topics.journal, settings.topics.journal_partition), parts.lineage)
    first, last, skipped = _look_through(journal)
    _check_settings(snapshots)
    if first == 1:
        _begin_with_the_journal(journal, parts, snapshots, settings, wanted.init)
    else:
        _begin_from_oldest(snapshots, parts, first)
    last = max(last, parts.batch)
    if wanted.to_batch is not None and not parts.batch <= wanted.to_batch <= last:
        raise StateError(f"there is no state of micro-batch {wanted.to_batch}: there are {parts.batch} to {last}")
    count, again = 0, InputAgain(past, settings.recovery.on_truncation)
    for journaled in journal.after(parts.batch):
        entry = journaled.entry
        if wanted.to_batch is not None and entry.batch > wanted.to_batch:
            break
        considered = redo(entry, parts, again, snapshots, NoMembership(), skip=entry.batch in skipped)
        count += 1
        if after_each is not None:
            after_each(considered)
    return count


def _look_through(journal: Journal) -> tuple[int, int, set[int]]:
    """Return the first and the last micro-batch in the journal (0 where it is empty), and all that were skipped."""
    first, last = 0, 0
    skipped: set[int] = set()
    for journaled in journal.everything():
        last = journaled.entry.batch
        first = first or last
        skipped.update(journaled.entry.skipped)
    return first, last, skipped


def _check_settings(snapshots: Snapshots) -> None:
    """Raise StateError where the lineage has a snapshot that was made with other identity settings."""
    for snapshot in _readable(snapshots):
        snapshots.check_identity(snapshot)


def _readable(snapshots: Snapshots) -> Iterator[Snapshot]:
    """Yield the lineage's snapshots that are whole, the oldest first; say which are not."""
    for name in snapshots.names():
        try:
            snapshot = snapshots.open(name)
            snapshot.verify()
        except StateError as error:
            log.warning("a snapshot was passed over", reason=str(error))
        else:
            yield snapshot


def _begin_with_the_journal(
    journal: Journal, parts: Parts, snapshots: Snapshots, settings: Settings, init: str | Path | None
) -> None:
    """Begin as the first entry says: cold, or from a snapshot."""
    begun_from = next(iter(journal.everything())).entry.begun_from
    if begun_from is None and init is not None:
        raise StateError("this lineage began cold: leave --init away")
    if begun_from is not None and init is None:
        begin_as_journalled(parts, snapshots, begun_from)
    elif begun_from is not None and init is not None and begin_from(parts, init, settings) != begun_from:
        raise StateError("this lineage began from another snapshot: name the folder with that one with --init")


def _begin_from_oldest(snapshots: Snapshots, parts: Parts, first: int) -> None:
    snapshot = next(_readable(snapshots), None)
    if snapshot is None and not first:
        raise StateError(
            f"there is nothing of {parts.lineage!r}, in the journal or in the state folder: is it the right"
            " kafka.instance, topics.journal and snapshot.dir?"
        )
    if snapshot is None:
        raise StateError(f"the journal begins at micro-batch {first} and there is no snapshot before it")
    if snapshot.batch + 1 < first:
        raise StateError(f"the journal begins at micro-batch {first}, the oldest snapshot kept is of {snapshot.batch}")
    parts.restore(snapshot)
    log.info("beginning from the oldest snapshot", snapshot=snapshot.name)
