"""How two snapshots differ in what they know: positions, arrays to the byte, values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from consumer.snapshots import Snapshot
    from model.state import Array

MOST_VALUES = 10
"""Values that differ are named up to this number per part; names only, for some are ids."""


def differences(left: Snapshot, right: Snapshot) -> Iterator[str]:
    """Yield a line for each difference; nothing where all is the same.

    Where the worker stood in the journal is not part of what it knows.
    """
    if left.batch != right.batch:
        yield f"micro-batch {left.batch} and {right.batch}"
    for partition in sorted(left.positions.keys() & right.positions.keys()):
        one, other = (snapshot.positions[partition].next_offset for snapshot in (left, right))
        if one != other:
            yield f"{partition.topic}-{partition.partition}: up to offset {one} and {other}"
    first, second = dict(left.parts()), dict(right.parts())
    for part in sorted(first.keys() | second.keys()):
        if part not in first or part not in second:
            yield f"{part}: only in the {'first' if part in first else 'second'}"
            continue
        yield from _of_arrays(part, first[part].arrays, second[part].arrays)
        paths = list(_of_values(part, first[part].values, second[part].values))
        yield from (f"{path}: another value" for path in paths[:MOST_VALUES])
        if len(paths) > MOST_VALUES:
            yield f"{part}: {len(paths) - MOST_VALUES} more values"


def _of_arrays(part: str, left: Mapping[str, Array], right: Mapping[str, Array]) -> Iterator[str]:
    names = sorted(left.keys() | right.keys())
    found = {name: how for name in names if (how := _of_array(left.get(name), right.get(name)))}
    if found:
        yield f"{part}: {len(found)} of {len(names)} arrays differ"
    yield from (f"{part}.{name}: {how}" for name, how in found.items())


def _of_array(left: Array | None, right: Array | None) -> str | None:
    """Say how two arrays differ, None where they are the same to the byte."""
    if left is None or right is None:
        return f"only in the {'second' if left is None else 'first'}"
    if left.dtype != right.dtype or left.shape != right.shape:
        return f"{left.dtype} {list(left.shape)} and {right.dtype} {list(right.shape)}"
    if left.tobytes() == right.tobytes():
        return None
    differ = (left != right) & ~((left != left) & (right != right))  # noqa: PLR0124 - NaN is unlike itself
    if not differ.any():
        return "other bytes of equal numbers"
    gap = np.abs(left[differ].astype(np.float64) - right[differ].astype(np.float64))
    most = "NaN on one side" if np.isnan(gap).any() else f"by at most {gap.max():.3g}"
    return f"{np.count_nonzero(differ):,} of {left.size:,} differ, {most}"


def _of_values(path: str, left: Any, right: Any) -> Iterator[str]:
    """Yield where two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            if key not in left or key not in right:
                yield f"{path}.{key}"
            else:
                yield from _of_values(f"{path}.{key}", left[key], right[key])
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _of_values(f"{path}[{index}]", one, other)
    elif left != right:
        yield path
