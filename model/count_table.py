"""Counts of classes by a key, decayed, and smoothed towards what is known without the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.compiled import compiled
from model.state import State

if TYPE_CHECKING:
    import numpy.typing as npt

    from model.contexts import Float64, Int64
    from model.smoothing import Probability

HALF_LIFE_EVENTS = 20_000.0
RENORMALISE_ABOVE = 1e6


class CountTable:
    """`keys` lines of `classes` counts; `strength`: how many events the prior is worth in each line."""

    def __init__(self, keys: int, classes: int, strength: float) -> None:
        self._counts = np.zeros((keys, classes))  # times the increment
        self._increment = 1.0
        self._strength = strength

    def probabilities(self, keys_Q: Int64, prior_QY: npt.NDArray[np.floating]) -> Probability:
        """Return p over the first classes, as many as the prior [Y] or [Q, Y] has, [Q, Y]."""
        prior_QY = np.atleast_2d(prior_QY.astype(np.float32))
        return smoothed(self._counts, self._increment, keys_Q, self._strength, prior_QY)

    def learn(self, keys_P: Int64, classes_P: Int64) -> None:
        """Count events; those of one call weigh the same."""
        self._increment *= 2.0 ** (len(keys_P) / HALF_LIFE_EVENTS)
        np.add.at(self._counts, (keys_P, classes_P), self._increment)
        if self._increment > RENORMALISE_ABOVE:
            self._counts /= self._increment
            self._increment = 1.0

    def state(self) -> State:
        """Return the lines in use."""
        used = np.flatnonzero(self._counts.any(axis=1))
        return State({"keys": used, "counts": self._counts[used].copy()}, {"increment": self._increment})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._counts[:] = 0.0
        self._counts[state.arrays["keys"]] = state.arrays["counts"]
        self._increment = float(state.values["increment"])


@compiled
def smoothed(counts: Float64, increment: float, keys_Q: Int64, strength: float, prior_QY: Probability) -> Probability:
    """Return each key's counts with `strength` events of its prior, as shares; one prior is for all keys."""
    classes = prior_QY.shape[1]
    p_QY = np.empty((len(keys_Q), classes), np.float32)
    for line in range(len(keys_Q)):
        key, prior = keys_Q[line], line if len(prior_QY) > 1 else 0
        total = 0.0
        for y in range(classes):
            total += counts[key, y]
        scale = 1.0 / (total / increment + strength)
        for y in range(classes):
            p_QY[line, y] = (counts[key, y] / increment + strength * prior_QY[prior, y]) * scale
    return p_QY
