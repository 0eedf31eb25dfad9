"""Rows of Parquet, CSV and JSON lines files as records: the row number is the offset, the row as JSON is the value."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from consumer.decode import Decoder
from consumer.errors import ConfigError, UsageError
from consumer.mapping import field_mapping, nearest
from consumer.ports import Record
from consumer.times import TimeReader, number_or_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from consumer.settings import InputSettings

MAX_LINE_BYTES = 1 << 26
"""A longer line is no line of events."""

_BATCH_ROWS = 8192
_NO_RECORD = Record("", 0, 0, -1, None, None)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Rows:
    """Makes records of the rows of one file: topic, partition 0, and the mapped event time as the timestamp."""

    def __init__(self, path: Path, settings: InputSettings) -> None:
        self.path = path
        self.settings = settings
        self.mapping = field_mapping(settings)
        self._topic = path.stem
        self._time = self.mapping.fields["event_time"].get
        self._times = TimeReader(settings.time_unit)
        self._decoder = Decoder(settings)

    def record(self, offset: int, row: dict[str, Any], value: bytes) -> Record:
        """Return row number `offset`, which reads `value`, as a record; its timestamp is -1 where it has no time."""
        record = Record(self._topic, 0, offset, -1, None, value)
        time = self._time(row, _NO_RECORD)
        return record if time is None else record._replace(timestamp_ms=self._reader(record, time).milliseconds(time))

    def _reader(self, record: Record, time: Any) -> TimeReader:
        """Return what reads the time of a record: the first number in an event decides, as it does in the decoder."""
        if self._times.unit is not None or isinstance(number_or_text(time) if isinstance(time, str) else time, str):
            return self._times
        self._decoder.decode(record)
        self._times.unit = self._decoder.time_unit
        return TimeReader("auto") if self._times.unit is None else self._times

    def wanted(self, columns: Iterable[str]) -> list[str]:
        """Return those of the file's columns that are mapped. Raises ConfigError where a column that must be is not."""
        present = list(columns)
        for name in ("user_id", "item_id", *self.settings.map):
            roots = self.mapping.roots_of(name)
            if roots and not any(root in present for root in roots):
                raise ConfigError(
                    f"{self.path.name} has no column {' or '.join(dict.fromkeys(roots))} for {name} (input.map.{name});"
                    f" {nearest(roots[0], tuple(present))}"
                )
        return [column for column in present if column in self.mapping.roots]


def json_lines(rows: Rows) -> Iterator[Record]:
    """Yield one record per line that is not blank; a line that is no JSON too, as it is, for the decoder to reject."""
    offset = 0
    with rows.path.open("rb") as file:
        for line in _lines(file, rows.path):
            value = line.strip()
            if value:
                yield rows.record(offset, _object(value), value)
                offset += 1


def csv_rows(rows: Rows, delimiter: str) -> Iterator[Record]:
    """Yield the rows of a CSV file with a header; every cell is text except numbers in a time column."""
    try:
        with rows.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            wanted = set(rows.wanted(header))
            for name in sorted(wanted):
                if header.count(name) > 1:
                    raise UsageError(f"{rows.path} has {header.count(name)} columns {name!r}: which one is meant?")
            cells = [(place, name) for place, name in enumerate(header) if name in wanted]
            times = rows.mapping.roots_of("event_time")
            for offset, line in enumerate(filter(None, reader)):
                row: dict[str, Any] = {name: line[place] for place, name in cells if place < len(line) and line[place]}
                row |= {name: number_or_text(row[name]) for name in times if name in row}
                yield rows.record(offset, row, _dumps(row))
    except csv.Error as error:
        raise UsageError(
            f"cannot read {rows.path} as CSV, at line {reader.line_num}: {error}; a quote that opens a cell must close it"
        ) from error


def parquet_count(path: Path) -> int:
    """Return the number of rows. Raises UsageError where the file is no Parquet file."""
    return int(_parquet(path).metadata.num_rows)


def parquet_rows(rows: Rows) -> Iterator[Record]:
    """Yield the rows of a Parquet file, a few thousand in memory at a time; columns that are not mapped stay unread."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, which only this format needs

    file = _parquet(rows.path)
    columns = rows.wanted(file.schema_arrow.names)
    offset = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            names = batch.schema.names
            values = [_values(column, rows.settings.time_unit) for column in batch.columns]
            for cells in zip(*values, strict=True):
                row = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
                yield rows.record(offset, row, _dumps(row))
                offset += 1
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {rows.path} as Parquet: {error}") from error


def first_line(path: Path) -> bytes:
    """Return the first line that is not blank, b"" where there is none."""
    with path.open("rb") as file:
        return next((line.strip() for line in _lines(file, path) if line.strip()), b"")


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    """Yield lines, the first without a byte order mark. Raises UsageError at one that has no end."""
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b"")):
        if len(line) == MAX_LINE_BYTES:
            raise UsageError(f"{path}: line {number + 1} is longer than {MAX_LINE_BYTES} bytes; is it JSON lines?")
        yield line if number else line.removeprefix(b"\xef\xbb\xbf")


def _object(value: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def _dumps(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_plain)
    except (
        orjson.JSONEncodeError
    ):  # text that was not UTF-8 in the file: keep its bytes, the decoder says what is wrong
        return json.dumps(row, ensure_ascii=False, default=_plain).encode("utf-8", "surrogateescape")


def _plain(value: Any) -> Any:
    """Write what JSON has no type for: decimals as numbers, bytes as text, the rest as it prints."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 1 << 63 else float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, which only this format needs
        from pyarrow import parquet  # noqa: PLC0415 - the same
    except ImportError as error:
        raise UsageError("to read Parquet, install the extra `tables`: pip install 'tidemill[tables]'") from error
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {path} as Parquet: {error}") from error


def _values(column: Any, time_unit: str) -> list[Any]:
    """Return an Arrow column as Python values: None for nulls and for floats that are not finite, times as numbers."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, which only this format needs

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return _times(column, time_unit)
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        values = list(np.from_dlpack(column).tolist())  # several times faster than to_pylist, and imports no pandas
    else:
        values = list(column.to_pylist())
    if pa.types.is_floating(column.type):
        return [value if value is not None and isfinite(value) else None for value in values]
    return values


def _times(column: Any, time_unit: str) -> list[Any]:
    """Return an Arrow timestamp column as numbers in the unit of the settings, or as RFC 3339 text."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, which only this format needs

    unit = column.type.unit
    auto = "ms" if unit in {"s", "ms"} else "us"
    micros = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64()).to_pylist()
    if time_unit == "rfc3339":
        texts = column.cast(pa.timestamp("us", tz="UTC"), safe=False).to_pylist()
        return [None if moment is None else moment.isoformat() for moment in texts]
    factor = 1_000_000 // _PER_SECOND[auto if time_unit == "auto" else time_unit]
    return [None if micro is None else _divide(micro, factor) for micro in micros]


def _divide(number: int, factor: int) -> float:
    whole, rest = divmod(number, factor)
    return number / factor if rest else whole
