"""Whether what a user has had already is left out of the rankings: where nobody repeats, it only takes up places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from model.state import State

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DECIDE_AFTER = 10_000
"""Scored events before `auto` decides."""
FEW = 0.001
"""Share of repeats under which they are left out."""


class RepeatRule:
    """Counts repeats among scored events; with `auto` decides once, after DECIDE_AFTER of them."""

    def __init__(self, mode: Literal["auto", "on", "off"]) -> None:
        self._mode = mode
        self._scored = 0
        self._repeated = 0
        self.exclude = mode == "on"

    def learn(self, repeat_B: npt.NDArray[np.bool_]) -> None:
        """Count the scored events of a micro-batch."""
        if self._mode != "auto" or self._scored >= DECIDE_AFTER:
            return
        self._scored += len(repeat_B)
        self._repeated += int(repeat_B.sum())
        if self._scored >= DECIDE_AFTER:
            self.exclude = self._repeated < FEW * self._scored

    def state(self) -> State:
        """Return the counts and the decision."""
        return State(values={"scored": self._scored, "repeated": self._repeated, "exclude": self.exclude})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._scored, self._repeated = int(state.values["scored"]), int(state.values["repeated"])
        self.exclude = bool(state.values["exclude"])
