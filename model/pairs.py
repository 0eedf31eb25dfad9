"""The transitions that a micro-batch adds, before they are learned: pairs of its shown events with those before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from model.compiled import compiled

if TYPE_CHECKING:
    from model.contexts import Bool, Int32, Int64
    from model.vocabulary import Rows

LAGS = 6
ACROSS = 0.5
"""Weight of what lies beyond the border of a session, for each border."""

Counts = npt.NDArray[np.float32]


class Pairs(NamedTuple):
    """The pairs of every item, the latest first: `head_N` is its first, `next_P` the one after each; -1: none.

    `column_P` is the count that a pair adds to: 0 right after, 1 later, 2 earlier. `event_P` is the number of its event
    among those shown.
    """

    head_N: Int32
    next_P: Int32
    other_P: Rows
    column_P: Int32
    amount_P: Counts
    event_P: Int32


@compiled
def pairs_of(
    rows_RT: Rows, opens_RT: Bool, line_V: Int64, position_V: Int64, increment: float, growth: float, height: int
) -> Pairs:
    """Return the pairs of some events, in stream order, with what each will add when it is learned."""
    most = 2 * LAGS * len(line_V)
    head_N, next_P, other_P = np.full(height, -1, np.int32), np.zeros(most, np.int32), np.zeros(most, np.int32)
    column_P, amount_P, event_P = np.zeros(most, np.int32), np.zeros(most, np.float32), np.zeros(most, np.int32)
    size = 0
    for event in range(len(line_V)):
        line, position = line_V[event], position_V[event]
        item, weight = rows_RT[line, position], increment
        for lag in range(1, min(LAGS, position) + 1):
            if opens_RT[line, position - lag + 1]:
                weight *= ACROSS
            earlier = rows_RT[line, position - lag]
            if item == 0 or earlier == 0:
                continue
            for backward in range(2):
                if backward and earlier == item:
                    continue
                owner = item if backward else earlier
                other_P[size] = earlier if backward else item
                column_P[size] = 2 if backward else min(lag - 1, 1)
                amount_P[size], event_P[size] = weight / np.sqrt(lag), event
                next_P[size], head_N[owner] = head_N[owner], size
                size += 1
        increment *= growth
    return Pairs(head_N, next_P, other_P, column_P, amount_P, event_P)


@compiled
def forward_total(pairs: Pairs, item: int, known: int) -> float:
    """Return what the pairs of the first `known` events add to the forward counts of an item."""
    total, pair = 0.0, pairs.head_N[item]
    while pair != -1:
        if pairs.event_P[pair] < known and pairs.column_P[pair] < 2:
            total += pairs.amount_P[pair]
        pair = pairs.next_P[pair]
    return total
