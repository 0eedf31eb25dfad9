"""What keeps every probability above zero: a share for `unknown`, and a little for everything.

p(item) = (1 - epsilon) * (1 - u) * q(item) + epsilon / (size + 1), p(unknown) = (1 - epsilon) * u + epsilon / (size + 1).
The rate u of events whose item is not admitted is learned once for all components: none of them can name such an
item, so none should win weight in the mixture by guessing how often it happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.state import State
from model.vocabulary import UNKNOWN, Rows

HALF_LIFE_EVENTS = 5_000.0
PRIOR_EVENTS = 2.0
PRIOR_UNKNOWN = 1.0

Probability = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """The rule above with its three numbers; `size` is the number of admitted items."""

    epsilon: float
    size: int
    unknown: float

    def __call__(self, q: npt.NDArray[np.floating], rows: Rows) -> Probability:
        """Return the probability of `rows`, of which a component says `q` (of row 0 it need say nothing)."""
        floor = self.epsilon / (self.size + 1)
        known = (1.0 - self.epsilon) * (1.0 - self.unknown) * q + floor
        return np.where(rows == UNKNOWN, (1.0 - self.epsilon) * self.unknown + floor, known).astype(np.float32)


class UnknownRate:
    """The share of events, lately, whose item was not admitted when they came."""

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
