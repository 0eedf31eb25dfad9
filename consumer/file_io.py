"""Files as sources that only read: Parquet, CSV, JSON lines, and `kcat -J` dumps of topics."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from itertools import chain, islice
from typing import TYPE_CHECKING

from consumer.errors import UsageError
from consumer.file_rows import Rows, csv_rows, first_line, json_lines, parquet_count, parquet_rows
from consumer.kcat_dump import Dump, is_dump
from consumer.ports import Batch, OffsetRange, PollLimits, Record, Source, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from consumer.settings import InputSettings

MAX_TIES = 65_536
"""Records of one timestamp that `shuffle_ties` holds at most; a longer run is shuffled in pieces of this length."""

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def _nothing() -> None:
    """Stand for a close that has nothing to do."""


class FileSource:
    """A bounded source over an iterator of records.

    `counts` are the records of each partition, None where only the end will tell. `in_order` says that each
    partition's records come in the order of their offsets; without it the ranges of a batch count records.
    """

    def __init__(
        self,
        records: Iterator[Record],
        counts: Mapping[TopicPartition, int | None],
        *,
        limit: int | None = None,
        in_order: bool = True,
        on_close: Callable[[], None] = _nothing,
    ) -> None:
        self._records: Iterator[Record] = islice(records, limit)
        self._counts = counts
        self.limit = limit
        self._in_order = in_order
        self._on_close = on_close
        self._assignment = frozenset(counts)
        self._positions: dict[TopicPartition, int] = {}
        self._delivered: Counter[TopicPartition] = Counter()
        self._last: Batch | None = None
        self._ahead = list(islice(self._records, 1))  # so that `drained` is known right after the last record

    @property
    def total(self) -> int | None:
        """Records that the source will have returned when it is drained; None where only the end will tell."""
        known = [count for count in self._counts.values() if count is not None]
        if len(known) < len(self._counts):
            return None
        return sum(known) if self.limit is None else min(sum(known), self.limit)

    @property
    def drained(self) -> bool:
        """Whether all records were returned."""
        return not self._ahead

    def poll(self, limits: PollLimits) -> Batch:
        """Return exactly `max_records` records, fewer only at the end. Raises UsageError where the file is broken."""
        wanted = limits.max_records
        records, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
        if not self._ahead:
            records += islice(self._records, wanted - len(records))
            self._ahead = list(islice(self._records, 1))
        self._last = Batch(tuple(records), self._ranges(records), self._assignment)
        return self._last

    def seek_back(self, batch: Batch) -> None:
        """Make the next poll return the records of `batch`, which must be the latest, again."""
        if batch is not self._last:
            raise ValueError("a file can only go back to the start of its latest batch")
        self._last = None
        self._ahead = [*batch.records, *self._ahead]
        self._delivered.subtract(_partition(record) for record in batch.records)
        self._positions |= {span.partition: span.start for span in batch.ranges}

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records not yet returned of each partition whose size is known; `limit` is not counted in."""
        return {
            partition: count - self._delivered[partition]
            for partition, count in self._counts.items()
            if count is not None
        }

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._records, self._ahead = iter(()), []
        self._on_close()

    def _ranges(self, records: list[Record]) -> tuple[OffsetRange, ...]:
        """Return what was read of each partition, beginning where its latest range ended."""
        read = Counter(_partition(record) for record in records)
        self._delivered.update(read)
        first = {_partition(record): record.offset for record in reversed(records)}
        last = {_partition(record): record.offset for record in records}
        ranges = []
        for partition, count in read.items():
            start = self._positions.get(partition, first[partition] if self._in_order else 0)
            stop = last[partition] + 1 if self._in_order else start + count
            self._positions[partition] = stop
            ranges.append(OffsetRange(partition, start, stop))
        return tuple(ranges)


def open_source(path: Path, mapping: InputSettings, limit: int | None = None) -> FileSource:
    """Open a file as a source of at most `limit` records; its suffix tells the format, its fields a `kcat -J` dump.

    Raises UsageError where the file cannot be read, ConfigError where a mapped column is missing.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: cannot tell the format; known are {', '.join(SUFFIXES)}")
    rows, partition = Rows(path, mapping), TopicPartition(path.stem, 0)
    try:
        if suffix == ".parquet":
            return FileSource(parquet_rows(rows), {partition: parquet_count(path)}, limit=limit)
        if suffix in {".csv", ".tsv"}:
            return FileSource(csv_rows(rows, "," if suffix == ".csv" else "\t"), {partition: None}, limit=limit)
        if is_dump(first_line(path)):
            dump = Dump(path)
            return FileSource(dump.records(), dump.counts, limit=limit, on_close=dump.close)
        return FileSource(json_lines(rows), {partition: None}, limit=limit)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def shuffle_ties(source: Source, seed: int) -> FileSource:
    """Take away the order of a bounded source among neighbours with equal timestamps; offsets stay as they are.

    The new order depends on the seed and the offsets alone. A run of more than MAX_TIES equal timestamps is shuffled
    in pieces of that length: no record leaves its piece. Records without a timestamp keep their places.
    """
    batches = _batches(source)
    first = next((batch for batch in batches if batch.records), None)
    records = chain.from_iterable(batch.records for batch in chain([first] if first else [], batches))
    return FileSource(
        _shuffled(records, seed),
        _counts(source, first),
        limit=source.limit if isinstance(source, FileSource) else None,
        in_order=False,
        on_close=source.close,
    )


def _batches(source: Source) -> Iterator[Batch]:
    while not source.drained:
        yield source.poll(PollLimits(max_records=4096, max_wait_s=1.0))


def _counts(source: Source, first: Batch | None) -> dict[TopicPartition, int | None]:
    """Return the records of each partition of a source that has returned its first batch."""
    if first is None:
        return {}
    lag, read = source.lag(), Counter(_partition(record) for record in first.records)
    return {partition: lag[partition] + read[partition] if partition in lag else None for partition in first.assignment}


def _shuffled(records: Iterator[Record], seed: int) -> Iterator[Record]:
    ties: list[Record] = []
    for record in records:
        if ties and (record.timestamp_ms != ties[0].timestamp_ms or record.timestamp_ms < 0 or len(ties) == MAX_TIES):
            yield from _permuted(ties, seed)
            ties = []
        ties.append(record)
    yield from _permuted(ties, seed)


def _permuted(ties: list[Record], seed: int) -> list[Record]:
    if len(ties) < 2:
        return ties
    return sorted(ties, key=lambda record: blake2b(f"{seed} {record[:3]}".encode(), digest_size=8).digest())


def _partition(record: Record) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)
