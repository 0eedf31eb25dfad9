"""What a component knows about each state of a micro-batch, where that is little of the catalogue.

For every state the rows with their weights stand in one stretch of two flat arrays: the stretch of state q is
`start_Q[q]` to `start_Q[q + 1]`. No row stands twice in a stretch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled, compiled_products
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from model.arrays import Scalar
    from model.contexts import Bool, Int64
    from model.smoothing import Probability, Smoothing

Weights = npt.NDArray[np.float32]


class SparseView:
    """A component's sight of a micro-batch by listed weights, which sum to at most 1 in each state.

    What a state's weights leave of 1 is spread evenly over the catalogue: a state about which nothing is known is
    uniform.
    """

    def __init__(self, start_Q: Int64, rows: Rows, q: Weights, height: int, smoothing: Smoothing) -> None:
        self._start_Q, self._rows, self._q, self._height, self._smooth = start_Q, rows, q, height, smoothing
        self._rest_Q = remainder(start_Q, q)

    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the listed rows of every state, most probable first, [Q, n]."""
        rows_QK, q_QK = heaviest(self._start_Q, self._rows, self._q, n)
        q_QK += self._rest_Q[:, None] / np.maximum(1, self._smooth.size())
        return rows_QK, np.where(rows_QK != UNKNOWN, self._smooth(q_QK, rows_QK), np.float32(0.0))

    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of rows [S, C]."""
        stretches = self._start_Q, self._rows, self._q, states.astype(np.int64)
        if rows.shape[1] == 1:
            q_SC = look_up(*stretches, rows[:, 0])[:, None]
        else:
            q_SC = gather(*stretches, rows, self._height)
        q_SC += self._rest_Q[states][:, None] / np.maximum(1, self._smooth.size(states))
        return self._smooth(q_SC, rows, states)

    def holds(self, states: Int64, rows: Rows) -> Bool:
        """Whether each of rows [S, C] has a weight in its state."""
        held: Bool = gather(self._start_Q, self._rows, self._q, states.astype(np.int64), rows, self._height) > 0
        return held


@compiled
def remainder(start_Q: Int64, q: Weights) -> Weights:
    """Return what the weights of each state leave of 1."""
    rest_Q = np.zeros(len(start_Q) - 1, np.float32)
    for state in range(len(rest_Q)):
        total = np.float32(0.0)
        for index in range(start_Q[state], start_Q[state + 1]):
            total += q[index]
        rest_Q[state] = max(np.float32(0.0), np.float32(1.0) - total)
    return rest_Q


@compiled
def heaviest(start_Q: Int64, rows: Rows, q: Weights, n: int) -> tuple[Rows, Weights]:
    """Return the n rows of the largest positive weights of each state, in falling order, ties by row."""
    states = len(start_Q) - 1
    rows_QK, q_QK = np.zeros((states, n), np.int32), np.zeros((states, n), np.float32)
    for state in range(states):
        filled = 0
        for index in range(start_Q[state], start_Q[state + 1]):
            weight, row = q[index], rows[index]
            if weight <= 0.0:
                continue
            if filled == n:
                last = q_QK[state, n - 1]
                if weight < last or (weight == last and row > rows_QK[state, n - 1]):
                    continue
            else:
                filled += 1
            place = filled - 1
            while place > 0:
                above = q_QK[state, place - 1]
                if above > weight or (above == weight and rows_QK[state, place - 1] < row):
                    break
                q_QK[state, place], rows_QK[state, place] = above, rows_QK[state, place - 1]
                place -= 1
            q_QK[state, place], rows_QK[state, place] = weight, row
    return rows_QK, q_QK


@compiled
def gather(start_Q: Int64, rows: Rows, q: Weights, states: Int64, asked_SC: Rows, height: int) -> Weights:
    """Return the weight of each asked row in its state, 0 where it is not listed."""
    dense = np.zeros(height, np.float32)
    q_SC = np.zeros(asked_SC.shape, np.float32)
    for line in range(len(states)):
        begin, stop = start_Q[states[line]], start_Q[states[line] + 1]
        for index in range(begin, stop):
            dense[rows[index]] = q[index]
        for column in range(asked_SC.shape[1]):
            q_SC[line, column] = dense[asked_SC[line, column]]
        for index in range(begin, stop):
            dense[rows[index]] = 0.0
    return q_SC


@compiled_products
def look_up(start_Q: Int64, rows: Rows, q: Weights, states: Int64, asked_S: Rows) -> Weights:
    """Return the weight of one row in each state, as `gather` does, at a third of the price."""
    q_S = np.empty(len(states), np.float32)
    for line in range(len(states)):
        weight = np.float32(0.0)
        for index in range(start_Q[states[line]], start_Q[states[line] + 1]):
            weight += q[index] if rows[index] == asked_S[line] else np.float32(0.0)  # it stands there once at most
        q_S[line] = weight
    return q_S


@compiled
def grown(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return a copy of a one-dimensional array that is twice as long; what is new is not set."""
    longer = np.empty(2 * len(array), array.dtype)
    longer[: len(array)] = array
    return longer
