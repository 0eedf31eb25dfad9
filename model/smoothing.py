"""What keeps every probability above zero: a share for `unknown`, and a little for everything.

p(item) = (1 - epsilon) * (1 - u) * q(item) + epsilon / (size + 1), p(unknown) = (1 - epsilon) * u + epsilon / (size + 1).
The rate u of events whose item is not known is learned once for all components: none of them can name such an
item, so none should win weight in the mixture by guessing how often it happens. `size` is of what a state can know:
the admitted items, and the guests of the vocabulary that had come by its moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled
from model.state import State
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from model.contexts import Int64

HALF_LIFE_EVENTS = 5_000.0
PRIOR_EVENTS = 2.0
PRIOR_UNKNOWN = 1.0

EVERY = slice(None)

Probability = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """The rule above with its numbers; `admitted` is the number of admitted items, `guests_Q` of guests by state.

    None: there are no guests.
    """

    epsilon: float
    admitted: int
    unknown: float
    guests_Q: Int64 | None = None

    def size(self, states: Int64 | slice = EVERY) -> npt.NDArray[np.int64]:
        """Return the number of items that these states know, [S, 1]; [1, 1] where it is the same for all."""
        if self.guests_Q is None:
            return np.full((1, 1), self.admitted)
        return self.admitted + self.guests_Q[states][:, None]

    def __call__(self, q_SC: npt.NDArray[np.floating], rows_SC: Rows, states: Int64 | slice = EVERY) -> Probability:
        """Return the probability of rows in states [S], of which a component says q (of row 0 it need say nothing).

        A state that knows no item can but say `unknown`.
        """
        size_S1 = self.size(states)
        if q_SC.shape != rows_SC.shape or len(size_S1) not in {1, len(q_SC)}:
            shape = np.broadcast_shapes(q_SC.shape, rows_SC.shape, size_S1.shape)
            q_SC, rows_SC = np.broadcast_to(q_SC, shape), np.broadcast_to(rows_SC, shape)
        q_SC, rows_SC = np.ascontiguousarray(q_SC), np.ascontiguousarray(rows_SC)
        return spread(q_SC, rows_SC, size_S1[:, 0].copy(), self.epsilon, self.unknown)


@compiled
def spread(q_SC: npt.NDArray[np.floating], rows_SC: Rows, size_S: Int64, epsilon: float, unknown: float) -> Probability:
    """Return `scale * q + floor`, and what is left for `unknown` where a row is UNKNOWN; one size is for all states."""
    p_SC = np.empty(rows_SC.shape, np.float32)
    for state in range(rows_SC.shape[0]):
        size = size_S[state if len(size_S) > 1 else 0]
        of_unknown = (1.0 - epsilon) * (1.0 if size == 0 else unknown)
        floor = epsilon / (size + 1)
        scale, least, first = np.float32(1.0 - epsilon - of_unknown), np.float32(floor), np.float32(of_unknown + floor)
        for column in range(rows_SC.shape[1]):
            if rows_SC[state, column] == UNKNOWN:
                p_SC[state, column] = first
            else:
                p_SC[state, column] = np.float32(q_SC[state, column]) * scale + least
    return p_SC


class UnknownRate:
    """The share of events, lately, whose item was not known when they came."""

    def __init__(self) -> None:
        self._events, self._unknown = PRIOR_EVENTS, PRIOR_UNKNOWN

    @property
    def rate(self) -> float:
        """u, between 0 and 1."""
        return self._unknown / self._events

    def learn(self, rows_at_scoring: Rows) -> None:
        """Count a micro-batch."""
        keep = 0.5 ** (len(rows_at_scoring) / HALF_LIFE_EVENTS)
        self._events = keep * self._events + len(rows_at_scoring)
        self._unknown = keep * self._unknown + int((rows_at_scoring == UNKNOWN).sum())

    def state(self) -> State:
        """Return both counts."""
        return State(values={"events": self._events, "unknown": self._unknown})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._events, self._unknown = float(state.values["events"]), float(state.values["unknown"])
