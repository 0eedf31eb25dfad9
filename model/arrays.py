"""Arrays that grow by rows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

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
