"""Arrays that grow by rows, and dictionaries of numbers as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

Scalar = TypeVar("Scalar", bound=np.generic)


def fit(array: npt.NDArray[Scalar], rows: int) -> npt.NDArray[Scalar]:
    """Return the array where it has `rows` rows, else a copy at least twice as long with zeros behind."""
    return array if len(array) >= rows else extended(array, max(rows, 2 * len(array)))


def at_least(array: npt.NDArray[Scalar], rows: int) -> npt.NDArray[Scalar]:
    """Return the array where it has `rows` rows, else a copy with exactly as many."""
    return array if len(array) >= rows else extended(array, rows)


def extended(array: npt.NDArray[Scalar], rows: int) -> npt.NDArray[Scalar]:
    """Return a copy with exactly `rows` rows, zeros behind."""
    longer = np.zeros((rows, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def pairs(table: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """Return the keys and values of a dictionary, [n, 2], by key; a snapshot waits for it, so without a step per pair."""
    keys = np.fromiter(table.keys(), np.int64, len(table))
    values = np.fromiter(table.values(), np.int64, len(table))
    order = np.argsort(keys)
    return np.stack([keys[order], values[order]], axis=1)
