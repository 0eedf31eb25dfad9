"""Dumps of topics as `kcat -J` writes them: one JSON object per line, with the record and where it was."""

from __future__ import annotations

import heapq
import json
import mmap
from array import array
from typing import TYPE_CHECKING, Any

import orjson

from consumer.ports import Headers, Record, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FIELDS = {"topic", "partition", "offset", "payload"}


def is_dump(line: bytes) -> bool:
    """Whether a line has the fields that `kcat -J` writes."""
    return _parse(line) is not None


class Dump:
    """One dump, merged by (timestamp, topic, partition, offset); the order within a partition is that of its offsets.

    Opening it reads it once and keeps 24 bytes per record; the records themselves are read again as they are merged.
    A line that cannot be read becomes a record of partition 0 of a topic named as the file, for the decoder to reject.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._index: dict[TopicPartition, array[int]] = {}
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for number, (start, line) in enumerate(self._lines()):
            record = self._record(number, line)
            places = self._index.setdefault(TopicPartition(record.topic, record.partition), array("q"))
            places.extend((record.offset, start, number))

    @property
    def counts(self) -> Mapping[TopicPartition, int]:
        """Records in each partition."""
        return {partition: len(places) // 3 for partition, places in self._index.items()}

    def records(self) -> Iterator[Record]:
        """Yield all records in the merged order."""
        merged = heapq.merge(
            *(self._partition(partition) for partition in sorted(self._index)),
            key=lambda record: (record.timestamp_ms, record.topic, record.partition, record.offset),
        )
        return iter(merged)

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._bytes.close()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        start = 0
        for line in iter(self._bytes.readline, b""):
            if line.strip():
                yield start, line
            start += len(line)

    def _partition(self, partition: TopicPartition) -> Iterator[Record]:
        places = self._index[partition]
        for _offset, start, number in sorted(zip(places[::3], places[1::3], places[2::3], strict=True)):
            end = self._bytes.find(b"\n", start)
            yield self._record(number, self._bytes[start : end if end >= 0 else len(self._bytes)])

    def _record(self, number: int, line: bytes) -> Record:
        fields = _parse(line)
        if fields is None:
            return Record(self._name, 0, number, -1, None, line.strip())
        timestamp = fields.get("ts")
        return Record(
            topic=fields["topic"],
            partition=fields["partition"],
            offset=fields["offset"],
            timestamp_ms=timestamp if isinstance(timestamp, int) and timestamp >= 0 else -1,
            key=_raw(fields.get("key")),
            value=_raw(fields["payload"]),
            headers=_headers(fields.get("headers")),
        )


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read one line; bytes that are not UTF-8, which kcat writes as they are, survive as surrogates."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        fields = _parse_raw(line)
    if not isinstance(fields, dict) or not fields.keys() >= _FIELDS or not isinstance(fields["topic"], str):
        return None
    numbers = (fields["partition"], fields["offset"])
    return fields if all(type(number) is int and 0 <= number < 1 << 63 for number in numbers) else None


def _parse_raw(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None


def _raw(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return orjson.dumps(value)  # a payload that kcat decoded from Avro


def _headers(value: Any) -> Headers:
    """Read headers as a list of names and values in turn, or as an object of lists (`-X` json map)."""
    if isinstance(value, dict):
        pairs = [(name, item) for name, items in value.items() for item in (items if isinstance(items, list) else [])]
    elif isinstance(value, list):
        pairs = list(zip(value[::2], value[1::2], strict=False))
    else:
        return ()
    return tuple((str(name), _raw(item)) for name, item in pairs)
