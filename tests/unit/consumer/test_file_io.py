from __future__ import annotations

import builtins
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from consumer import file_io
from consumer.decode import Decoder
from consumer.errors import ConfigError, UsageError
from consumer.events import Event
from consumer.file_io import FileSource, open_source, shuffle_ties
from consumer.ports import OffsetRange, PollLimits, Record, TopicPartition
from consumer.settings import InputSettings

if TYPE_CHECKING:
    from pathlib import Path

T = 1_700_000_000_000
PLAIN = InputSettings()


def drain(source: FileSource, size: int = 3) -> list[Record]:
    records: list[Record] = []
    while not source.drained:
        batch = source.poll(PollLimits(size, 0.1))
        assert len(batch.records) == size or source.drained
        records += batch.records
    assert source.poll(PollLimits(size, 0.1)).records == ()
    return records


def rows(records: list[Record]) -> list[dict[str, Any]]:
    return [orjson.loads(record.value or b"") for record in records]


def table(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=4)
    return path


def lines(path: Path, *values: Any) -> Path:
    path.write_bytes(b"\n".join(v if isinstance(v, bytes) else orjson.dumps(v) for v in values) + b"\n")
    return path


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return table(
        tmp_path / "clicks.parquet",
        user_id=pa.array(range(10), pa.int32()),
        item_id=pa.array([f"i{n}" for n in range(10)]).dictionary_encode(),
        timestamp=pa.array([T + n for n in range(10)]),
        value=pa.array([0.5, None, float("nan"), float("inf"), *[1.0] * 6]),
        unused=pa.array(["x"] * 10),
    )


def test_parquet_rows_are_records(events: Path) -> None:
    source = open_source(events, PLAIN, None)
    assert source.total == 10
    records = drain(source)
    assert records[1] == Record("clicks", 0, 1, T + 1, None, records[1].value)
    assert [record.offset for record in records] == list(range(10))
    assert rows(records)[:4] == [
        {"user_id": 0, "item_id": "i0", "timestamp": T, "value": 0.5},
        *({"user_id": n, "item_id": f"i{n}", "timestamp": T + n} for n in (1, 2, 3)),
    ]


def test_the_source_reads_what_a_topic_with_the_same_rows_holds(events: Path) -> None:
    records = drain(open_source(events, PLAIN, None))
    produced, rejected = Decoder(PLAIN).decode_all(records)
    assert not rejected
    assert [event.event_time for event in produced] == [record.timestamp_ms / 1000 for record in records]
    assert not any(event.late or event.future for event in produced)


def test_batches_are_exact_and_have_ranges(events: Path) -> None:
    source = open_source(events, PLAIN, 8)
    clicks = TopicPartition("clicks", 0)
    sizes, ranges = [], []
    while not source.drained:
        batch = source.poll(PollLimits(3, 0.1))
        sizes.append(len(batch.records))
        ranges += batch.ranges
        assert batch.assignment == {clicks}
    assert sizes == [3, 3, 2]
    assert ranges == [OffsetRange(clicks, 0, 3), OffsetRange(clicks, 3, 6), OffsetRange(clicks, 6, 8)]
    assert source.total == 8


def test_seek_back_returns_the_latest_batch_again(events: Path) -> None:
    source = open_source(events, PLAIN, None)
    first = source.poll(PollLimits(4, 0.1))
    second = source.poll(PollLimits(6, 0.1))
    assert source.drained
    with pytest.raises(ValueError, match="latest batch"):
        source.seek_back(first)
    source.seek_back(second)
    assert not source.drained
    assert source.lag() == {TopicPartition("clicks", 0): 6}
    again = source.poll(PollLimits(6, 0.1))
    assert (again.records, again.ranges) == (second.records, second.ranges)
    assert source.drained
    assert source.lag() == {TopicPartition("clicks", 0): 0}


def test_close_twice(events: Path) -> None:
    source = open_source(events, PLAIN, None)
    source.close()
    source.close()
    assert source.drained


def test_parquet_types(tmp_path: Path) -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    path = table(
        tmp_path / "t.parquet",
        user_id=pa.array([Decimal(5), None]),
        item_id=pa.array([b"raw", b"\xff"]),
        time=pa.array([moment, None], pa.timestamp("ns", tz="Europe/Berlin")),
        outcome=pa.array([True, None]),
        features=pa.array([{"price": 2.5, "day": date(2024, 1, 2)}, None]),
    )
    records = drain(open_source(path, PLAIN, None))
    assert rows(records) == [
        {
            "user_id": 5,
            "item_id": "raw",
            "time": T * 1000,
            "outcome": True,
            "features": {"price": 2.5, "day": "2024-01-02"},
        },
        {"item_id": "\\xff"},
    ]
    assert [record.timestamp_ms for record in records] == [T, -1]


@pytest.mark.parametrize("column", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("unit", ["auto", "s", "ms", "us", "rfc3339"])
def test_typed_times_are_read_in_every_unit_of_the_settings(tmp_path: Path, column: str, unit: Any) -> None:
    settings = InputSettings(time_unit=unit)
    path = table(tmp_path / "t.parquet", user_id=[1], item_id=[1], time=pa.array([T // 1000], pa.int64()))
    typed = parquet.read_table(path).set_column(
        2, "time", pa.array([T * 1000], pa.timestamp("us")).cast(pa.timestamp(column))
    )
    parquet.write_table(typed, path)
    (record,) = drain(open_source(path, settings, None))
    event = Decoder(settings).decode(record)
    assert isinstance(event, Event)
    assert (record.timestamp_ms, event.event_time) == (T, T / 1000)


def test_dates_are_midnight(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", user_id=[1], item_id=[1], time=[date(2023, 11, 14)])
    assert drain(open_source(path, PLAIN, None))[0].timestamp_ms == 1_699_920_000_000


def test_times_before_1970_are_in_the_value_alone(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", user_id=[1], item_id=[1], time=[-5])
    (record,) = drain(open_source(path, PLAIN, None))
    assert record.timestamp_ms == -1
    assert Decoder(PLAIN).decode(record).event_time == -5.0  # type: ignore[union-attr]


def test_mapped_columns_are_read_and_others_are_not(tmp_path: Path) -> None:
    settings = InputSettings(map={"user_id": "who", "item_id": '"what.id"', "features.price": "price"})
    columns: dict[str, Any] = {"who": [1], "what.id": [2], "price": [3], "user_id": ["not this"], "size": [9]}
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table(columns), path)
    records = drain(open_source(path, settings, None))
    assert rows(records) == [{"who": 1, "what.id": 2, "price": 3}]
    event = Decoder(settings).decode(records[0])
    assert isinstance(event, Event)
    assert (event.user_id, event.item_id, event.features) == (1, 2, {"price": 3})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_missing_column_names_the_nearest(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        path.write_text("userid,item_id\n1,2\n")
    else:
        table(path, userid=[1], item_id=[2])
    with pytest.raises(ConfigError, match=r"no column user_id for user_id .*did you mean userid"):
        open_source(path, PLAIN, None)
    with pytest.raises(ConfigError, match="no column valeu for value"):
        open_source(path, InputSettings(map={"user_id": "userid", "value": "valeu"}), None)
    with pytest.raises(ConfigError, match=r"no column price for features\.price"):
        open_source(path, InputSettings(map={"user_id": "userid", "features.price": "price"}), None)


def test_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbfuser_id,item_id,ts,value,note\n"
        b'007,"a,b",1700000000,5,x\n\n'
        b"8,\xc3\xa9,1700000000.5,,y\n"
        b"9,z,2023-11-14T22:13:20Z,1\n"
        b"10\n"
    )
    records = drain(open_source(path, PLAIN, None))
    assert rows(records) == [
        {"user_id": "007", "item_id": "a,b", "ts": 1700000000, "value": "5"},
        {"user_id": "8", "item_id": "é", "ts": 1700000000.5},
        {"user_id": "9", "item_id": "z", "ts": "2023-11-14T22:13:20Z", "value": "1"},
        {"user_id": "10"},
    ]
    assert [record.timestamp_ms for record in records] == [T, T + 500, T, -1]
    assert [record.offset for record in records] == [0, 1, 2, 3]


def test_csv_that_is_not_utf8_is_rejected_by_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"user_id,item_id\n1,\xe9t\xe9\n2,b\n")
    events, rejected = Decoder(PLAIN).decode_all(drain(open_source(path, PLAIN, None)))
    assert [event.user_id for event in events] == ["2"]
    assert [bad.error.reason for bad in rejected] == ["invalid_utf8"]


def test_tabs(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("user_id\titem_id\n1\t2\n")
    assert rows(drain(open_source(path, PLAIN, None))) == [{"user_id": "1", "item_id": "2"}]


@pytest.mark.parametrize(("suffix", "between"), [("csv", ","), ("tsv", "\t")])
def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path: Path, suffix: str, between: str) -> None:
    path = tmp_path / f"t.{suffix}"
    text = ["user_id,item_id,note", "a,x,fine", 'a,y,"oops', "a,z,fine", "b,x,fine"]
    path.write_text("\n".join(text).replace(",", between) + "\n")
    with pytest.raises(UsageError, match="at line 5: unexpected end of data; a quote that opens a cell must close it"):
        drain(open_source(path, PLAIN))


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,item_id,x,x\na,real,other,1,2\n")
    with pytest.raises(UsageError, match="2 columns 'item_id'"):
        drain(open_source(path, PLAIN))


@pytest.mark.parametrize("first", [{"item_id": 1}, {"user_id": 1.5, "item_id": 1}])
def test_the_first_event_decides_the_unit_of_times_and_not_what_is_none(tmp_path: Path, first: dict[str, Any]) -> None:
    """Rows and decoder read one unit: a record without a user, in microseconds, comes before events in milliseconds."""
    good = [{"user_id": "u", "item_id": n, "timestamp": T + n} for n in range(3)]
    records = drain(open_source(lines(tmp_path / "t.jsonl", first | {"timestamp": T * 1000}, *good), PLAIN))
    assert [record.timestamp_ms for record in records] == [T, T, T + 1, T + 2]
    _, *decoded = [Decoder(PLAIN).decode(record) for record in records]
    assert [event.event_time for event in decoded] == [(T + n) / 1000 for n in range(3)]
    assert not any(event.future or event.late for event in decoded)


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('user_id,item_id\n1,"' + "x" * 200_000 + '"\n')
    with pytest.raises(UsageError, match=r"t\.csv as CSV"):
        open_source(path, PLAIN, None)


def test_json_lines_keep_their_bytes(tmp_path: Path) -> None:
    first = b'{"user_id": 1,  "item_id": 2, "time": 1700000000, "more": [1]}'
    path = lines(tmp_path / "t.jsonl", b"\xef\xbb\xbf" + first, b"", b"  {broken", b"[1]", b"\xff")
    records = drain(open_source(path, PLAIN, None))
    assert [record.value for record in records] == [first, b"{broken", b"[1]", b"\xff"]
    assert [record.timestamp_ms for record in records] == [T, -1, -1, -1]
    assert [record.offset for record in records] == [0, 1, 2, 3]
    _, rejected = Decoder(PLAIN).decode_all(records)
    assert [bad.error.reason for bad in rejected] == ["invalid_json", "not_an_object", "invalid_utf8"]


def test_json_lines_in_an_envelope_have_its_time(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.ndjson", {"userId": "u", "timestamp": "2023-11-14T22:13:20Z", "properties": {}})
    assert drain(open_source(path, InputSettings(preset="segment"), None))[0].timestamp_ms == T


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.file_rows.MAX_LINE_BYTES", 100)
    path = lines(tmp_path / "t.jsonl", b"x" * 200)
    with pytest.raises(UsageError, match="line 1 is longer"):
        open_source(path, PLAIN, None)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("user_id,item_id\n" if name == "t.csv" else "")
    source = open_source(tmp_path / name, PLAIN, None)
    assert source.drained
    assert drain(source) == []


@pytest.mark.parametrize(
    ("name", "message"), [("gone.csv", "no such file"), ("t.xlsx", "known are"), ("t.parquet", "as Parquet")]
)
def test_files_that_cannot_be_opened(tmp_path: Path, name: str, message: str) -> None:
    if not name.startswith("gone"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UsageError, match=message):
        open_source(tmp_path / name, PLAIN, None)


def test_without_pyarrow_the_extra_is_named(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_pyarrow(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    with pytest.raises(UsageError, match=r"tidemill\[tables\]"):
        open_source(events, PLAIN, None)


def dumped(partition: int, offset: int, ts: int, **more: Any) -> dict[str, Any]:
    payload = orjson.dumps({"user_id": partition, "item_id": offset}).decode()
    where = {"topic": "live", "partition": partition, "offset": offset, "tstype": "create", "ts": ts, "broker": 1}
    return where | {"key": f"k{partition}", "payload": payload} | more


def test_kcat_dump_is_merged_by_time_and_keeps_the_order_of_offsets(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "live.jsonl",
        dumped(1, 5, T + 1, headers=["a", "1", "b", None, "a", "2"]),
        dumped(1, 6, T + 9),
        dumped(1, 8, T + 3),
        dumped(0, 3, T + 2),
        dumped(0, 2, T + 1, key=None, payload=None),
        dumped(0, 4, T + 9, headers={"a": ["1", None]}, payload={"user_id": 1}),
    )
    source = open_source(path, PLAIN, None)
    assert source.total == 6
    batch = source.poll(PollLimits(6, 0.1))
    assert [(r.partition, r.offset) for r in batch.records] == [(0, 2), (1, 5), (0, 3), (0, 4), (1, 6), (1, 8)]
    first, second, fourth = batch.records[0], batch.records[1], batch.records[3]
    assert (first.topic, first.timestamp_ms, first.key, first.value) == ("live", T + 1, None, None)
    assert second.key == b"k1"
    assert second.value == b'{"user_id":1,"item_id":5}'
    assert second.headers == (("a", b"1"), ("b", None), ("a", b"2"))
    assert fourth.value == b'{"user_id":1}'
    assert fourth.headers == (("a", b"1"), ("a", None))
    zero, one = TopicPartition("live", 0), TopicPartition("live", 1)
    assert batch.ranges == (OffsetRange(zero, 2, 5), OffsetRange(one, 5, 9))
    assert batch.assignment == {zero, one}
    assert source.drained
    source.close()
    source.close()


def test_kcat_dump_keeps_bytes_that_are_no_text(tmp_path: Path) -> None:
    line = orjson.dumps(dumped(0, 1, T, payload="PAYLOAD")).replace(b"PAYLOAD", b"\xff\xc3\xa9\xfe")
    (record,) = drain(open_source(lines(tmp_path / "live.json", line), PLAIN, None))
    assert record.value == b"\xff\xc3\xa9\xfe"


def test_kcat_dump_with_a_broken_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "live.json", dumped(0, 1, T), b'{"topic": "live", "part', dumped(0, 2, T))
    records = drain(open_source(path, PLAIN, None))
    events, rejected = Decoder(PLAIN).decode_all(records)
    assert [event.item_id for event in events] == [1, 2]
    assert [(bad.record.topic, bad.record.offset, bad.error.reason) for bad in rejected] == [
        ("live.json", 1, "invalid_json")
    ]


def tied(tmp_path: Path, times: list[int | None]) -> Path:
    return table(tmp_path / "ties.parquet", user_id=[1] * len(times), item_id=list(range(len(times))), time=times)


def test_shuffle_ties_moves_records_only_within_their_timestamp(tmp_path: Path) -> None:
    times = [T] * 20 + [T + 1] + [T + 2] * 20
    path = tied(tmp_path, times)
    orders = []
    for seed in (1, 1, 2):
        source = shuffle_ties(open_source(path, PLAIN, None), seed)
        assert source.total == 41
        records = drain(source, 7)
        assert [record.timestamp_ms for record in records] == times
        assert sorted(record.offset for record in records) == list(range(41))
        assert [row["item_id"] for row in rows(records)] == [record.offset for record in records]
        orders.append([record.offset for record in records])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:20] != list(range(20))
    assert orders[0][20] == 20


def test_shuffle_ties_leaves_records_without_time(tmp_path: Path) -> None:
    source = shuffle_ties(open_source(tied(tmp_path, [None] * 30), PLAIN, None), 1)
    assert [record.offset for record in drain(source)] == list(range(30))


def test_shuffle_ties_past_its_bound_shuffles_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_io, "MAX_TIES", 10)
    records = drain(shuffle_ties(open_source(tied(tmp_path, [T] * 25), PLAIN, None), 1))
    for start in (0, 10, 20):
        piece = [record.offset for record in records[start : start + 10]]
        assert sorted(piece) == list(range(start, min(start + 10, 25)))
        assert piece != sorted(piece)


def test_shuffle_ties_counts_and_limits(tmp_path: Path) -> None:
    source = shuffle_ties(open_source(tied(tmp_path, [T] * 9), PLAIN, 6), 1)
    ties = TopicPartition("ties", 0)
    assert source.total == 6
    first = source.poll(PollLimits(4, 0.1))
    assert first.ranges == (OffsetRange(ties, 0, 4),)
    assert first.assignment == {ties}
    second = source.poll(PollLimits(4, 0.1))
    assert second.ranges == (OffsetRange(ties, 4, 6),)
    assert source.drained
    source.close()


def test_shuffle_ties_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    assert shuffle_ties(open_source(tmp_path / "t.jsonl", PLAIN, None), 1).drained
