"""Windows of events in vocabulary rows, ready for the network: cut from contexts, laid end to end."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from model.guests import rows_of
from model.network import Stretch, Tokens, interval_bucket
from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Contexts, Float64, Int32, Int64
    from model.vocabulary import Rows, Vocabulary

WIDTHS = np.array([4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192])
SMALLEST_GROUP = 16


@dataclass(frozen=True, slots=True)
class Sequences:
    """Windows of events, padded on the right; token l of a row is its l-th event.

    `first_target_R`: where learning starts; events before it are context only. `start_R`: the position, in the row
    that the window was cut from, of its first event.
    """

    items_RL: Rows
    types_RL: Rows
    gaps_RL: npt.NDArray[np.float32]  # seconds since the previous event, NaN where unknown
    opens_RL: Bool
    length_R: Int32
    first_target_R: Int32
    start_R: Int32

    def only(self, rows: Int64) -> Sequences:
        """Return some of the windows."""
        return Sequences(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def targets(self) -> int:
        """Events that are learned: all that are not context only."""
        return int((self.length_R - self.first_target_R).sum())

    def laid(self) -> Laid:
        """Lay all windows end to end, groups of like length after one another."""
        parts = groups(self.length_R)
        order = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        size = self.length_R[order].astype(np.int64) + 1  # with `begin`
        begin = np.cumsum(size) - size
        begin_R = np.zeros(len(order), np.int64)
        begin_R[order] = begin
        position_N = np.arange(int(size.sum())) - np.repeat(begin, size)
        row_N = np.repeat(order, size)
        event_N = np.maximum(position_N - 1, 0)
        tokens = Tokens(
            torch.from_numpy(self.types_RL[row_N, event_N].astype(np.int64)),
            interval_bucket(torch.from_numpy(self.gaps_RL[row_N, event_N])),
            torch.from_numpy(self.opens_RL[row_N, event_N].astype(np.int64)),
            torch.from_numpy(position_N),
            _stretches([self.length_R[part].astype(np.int64) + 1 for part in parts], position_N),
        )
        return Laid(np.where(position_N > 0, self.items_RL[row_N, event_N], UNKNOWN), begin_R, tokens)


@dataclass(frozen=True, slots=True)
class Laid:
    """Windows laid end to end: rows of the items of all tokens, where each window begins, and the rest of the tokens."""

    items_N: Rows  # UNKNOWN at `begin`
    begin_R: Int64
    tokens: Tokens


def _stretches(sizes: list[Int64], position_N: Int64) -> tuple[Stretch, ...]:
    """Return the stretches of groups of sequences of these sizes, `begin` included."""
    stretches, start = [], 0
    for size in sizes:
        stop, width = start + int(size.sum()), int(size.max())
        row = np.repeat(np.arange(len(size)), size)
        place = None if len(size) * width == stop - start else torch.from_numpy(row * width + position_N[start:stop])
        stretches.append(Stretch(start, stop, len(size), width, place))
        start = stop
    return tuple(stretches)


def joined(batches: Sequence[Sequences]) -> Sequences:
    """Return the windows of all batches, of which there is at least one, one after another."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch.items_RL.shape[1] for batch in batches)

    def wide(arrays: list[npt.NDArray[Any]], filler: float) -> npt.NDArray[Any]:
        shapes = [((0, 0), (0, width - array.shape[1])) for array in arrays]
        return np.concatenate([np.pad(a, s, constant_values=filler) for a, s in zip(arrays, shapes, strict=True)])

    return Sequences(
        wide([batch.items_RL for batch in batches], 0),
        wide([batch.types_RL for batch in batches], 0),
        wide([batch.gaps_RL for batch in batches], np.nan),
        wide([batch.opens_RL for batch in batches], 0),
        np.concatenate([batch.length_R for batch in batches]),
        np.concatenate([batch.first_target_R for batch in batches]),
        np.concatenate([batch.start_R for batch in batches]),
    )


def gaps(times_RT: Float64) -> npt.NDArray[np.float32]:
    """Return seconds since the previous event of the row, never negative, NaN where unknown."""
    out = np.full(times_RT.shape, np.nan, np.float32)
    out[:, 1:] = np.maximum(np.diff(times_RT, axis=1), 0.0)
    return out


def cut(contexts: Contexts, window: int, items: Vocabulary, types: Vocabulary) -> Sequences:
    """Cut each row to its new events and at most `window` events before them."""
    start_R = np.maximum(contexts.new_R - window, 0)
    length_R = (contexts.length_R - start_R).astype(np.int32)
    column = np.arange(max(1, int(length_R.max(initial=1))))
    index = np.minimum(start_R[:, None] + column, contexts.items_RT.shape[1] - 1)
    inside = column < length_R[:, None]

    def take(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.take_along_axis(values, index, axis=1)

    rows_RL = np.where(inside, take(rows_of(contexts, items)), 0)
    type_keys = np.where(inside, take(contexts.types_RT), 0)
    return Sequences(
        rows_RL,
        types.lookup(type_keys),
        take(gaps(contexts.times_RT)).astype(np.float32),
        take(contexts.session_RT).astype(np.bool_),
        length_R,
        (contexts.new_R - start_R).astype(np.int32),
        start_R.astype(np.int32),
    )


def groups(length_R: Int32) -> list[Int64]:
    """Split rows into groups of like length, shortest first; a small group joins the next."""
    width_R = WIDTHS[np.searchsorted(WIDTHS, length_R)]
    order = np.argsort(width_R, kind="stable")
    borders = np.flatnonzero(np.diff(width_R[order])) + 1
    parts = np.split(order, borders) if len(order) else []
    merged: list[Int64] = []
    for part in parts:
        if merged and len(merged[-1]) < SMALLEST_GROUP:
            merged[-1] = np.concatenate([merged[-1], part])
        else:
            merged.append(part)
    return merged
