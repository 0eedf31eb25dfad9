"""What keeps every probability above zero: a share for `unknown`, and a little for everything.

p(item) = (1 - epsilon) * (1 - u) * q(item) + epsilon / (size + 1), p(unknown) = (1 - epsilon) * u + epsilon / (size + 1).
The rate u of events whose item is not known is learned once for all components: none of them can name such an
item, so none should win weight in the mixture by guessing how often it happens. `size` is of what a state can know:
the admitted items, and the guests of the vocabulary that had come by its moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        floor_S1 = self.epsilon / (size_S1 + 1)
        unknown_S1 = (1.0 - self.epsilon) * np.where(size_S1 == 0, 1.0, self.unknown)
        shape = np.broadcast_shapes(q_SC.shape, rows_SC.shape, size_S1.shape)
        scale_S, floor_S, first_S = (
            np.broadcast_to(each_S1[:, 0].astype(np.float32), shape[0])
            for each_S1 in (1.0 - self.epsilon - unknown_S1, floor_S1, unknown_S1 + floor_S1)
        )
        return spread(_filled(q_SC, shape), _filled(rows_SC, shape), scale_S.copy(), floor_S.copy(), first_S.copy())


@compiled
def spread(
    q_SC: npt.NDArray[np.floating], rows_SC: Rows, scale_S: Probability, floor_S: Probability, unknown_S: Probability
) -> Probability:
    """Return `scale * q + floor`, and `unknown` where a row is UNKNOWN."""
    p_SC = np.empty(rows_SC.shape, np.float32)
    for state in range(rows_SC.shape[0]):
        for column in range(rows_SC.shape[1]):
            if rows_SC[state, column] == UNKNOWN:
                p_SC[state, column] = unknown_S[state]
            else:
                p_SC[state, column] = np.float32(q_SC[state, column]) * scale_S[state] + floor_S[state]
    return p_SC


def _filled(values_SC: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the values in an array of that shape of their own; compiled code is made for such."""
    return np.ascontiguousarray(values_SC if values_SC.shape == shape else np.broadcast_to(values_SC, shape))


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
