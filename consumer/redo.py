"""One journal entry done again: what was taken over, what was read, what was learned; nothing is emitted.

Recovery and `replay --as-run` both go through here, so they come to the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from consumer.errors import InputTruncated, StateError
from consumer.ports import OffsetRange

if TYPE_CHECKING:
    from consumer.journal import Entry, Gain
    from consumer.parts import Considered, Parts
    from consumer.ports import Past, Record, TopicPartition
    from consumer.snapshots import Snapshot, Snapshots

log = structlog.get_logger()

FOLD_AT_ONCE = 2000


class Beat(Protocol):
    """Is told between small steps that something long moves."""

    def beat(self) -> None:
        """It moves."""


class InputAgain:
    """The input, read again; where retention has passed by, what `recovery.on_truncation` says.

    `gone` tells whether anything was left out because of it.
    """

    def __init__(self, past: Past, on_truncation: str) -> None:
        self._past, self._stops = past, on_truncation == "stop"
        self.gone = False

    def read(self, span: OffsetRange) -> list[Record]:
        """Return the records of a range, or of what is left of it. Raises InputTruncated where the settings say stop."""
        try:
            return list(self._past.read(span))
        except InputTruncated as error:
            if self._stops:
                raise InputTruncated(
                    f"{error}. Retention was shorter than the time since the last snapshot: lengthen it; to go on "
                    'without those events, set recovery.on_truncation to "earliest", or to "fresh", which also begins a '
                    "new lineage"
                ) from error
            log.warning("the input no longer holds a range, going on without it", reason=str(error))
        self.gone = True
        first = min(self._past.bounds(span.partition)[0], span.stop)
        return self.read(OffsetRange(span.partition, first, span.stop)) if first < span.stop else []

    def first_from(self, partition: TopicPartition, offset: int, stop: int) -> int:
        """Return where reading from `offset` to `stop` can begin: later where the beginning may be left out, and is gone."""
        if self._stops or offset >= stop:
            return offset
        first = min(max(offset, self._past.bounds(partition)[0]), stop)
        self.gone |= first > offset
        return first

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset that is still held, and the end of what is committed now."""
        return self._past.bounds(partition)


def redo(
    entry: Entry,
    parts: Parts,
    past: InputAgain,
    snapshots: Snapshots,
    slices: Beat,
    *,
    skip: bool = False,
) -> Considered:
    """Do one journal entry again: what it took over, what it read, what it learned; nothing is emitted.

    A skipped one is neither predicted nor learned, but its events become history, and its number is counted.
    """
    for partition in entry.dropped:
        parts.drop(partition)
    for gain in entry.gains:
        if parts.next_offsets.get(gain.partition, -1) < gain.stop:
            bring(gain, parts, past, _snapshot_of(gain, entry.batch, snapshots), slices)
    parts.histories.rewound.update(entry.rewound)
    for span in entry.ranges:
        parts.histories.begin(span.partition)
    records = [record for span in entry.ranges for record in past.read(span)]
    slices.beat()
    if skip:
        return parts.pass_over(records, entry.ranges, entry.plan)  # predicting may be what ends the process
    considered = parts.consider(records, entry.ranges, plan=entry.plan)
    parts.keep(considered)
    parts.learn(considered)
    slices.beat()
    return considered


def bring(gain: Gain, parts: Parts, past: InputAgain, snapshot: Snapshot | None, slices: Beat) -> None:
    """Load the histories of a gained partition and read its input up to where the worker goes on.

    A gain without a snapshot goes on from what is held here, or from nothing.
    """
    if snapshot is not None or gain.partition not in parts.next_offsets:
        parts.begin(gain.partition, snapshot)
    begin = max(gain.start, parts.next_offsets.get(gain.partition, gain.start))
    for start in range(begin, gain.stop, FOLD_AT_ONCE):
        span = OffsetRange(gain.partition, start, min(start + FOLD_AT_ONCE, gain.stop))
        parts.fold(past.read(span), span)
        slices.beat()
    parts.next_offsets[gain.partition] = gain.stop


def _snapshot_of(gain: Gain, batch: int, snapshots: Snapshots) -> Snapshot | None:
    """Open the snapshot that a gain names, or this lineage's own that was made of it before micro-batch `batch`.

    Another lineage drops its snapshots when it has newer ones. Raises StateError where neither is there.
    """
    if gain.snapshot is None or gain.sha256 is None:
        return None
    try:
        return snapshots.named(gain.snapshot, gain.sha256, gain.partition)
    except StateError as error:
        own = snapshots.own_of(batch - 1, gain.partition, gain.stop)
        if own is None:
            raise StateError(
                f"{error}; nor is there a snapshot of {snapshots.lineage!r} of micro-batch {batch - 1} that holds "
                f"{gain.partition.topic}-{gain.partition.partition} as it was taken over from it"
            ) from error
        return own
