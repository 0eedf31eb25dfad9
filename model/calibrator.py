"""Calibration of the first item of a list: what it is given is corrected by how often first items came, of late.

By bins of the probability that the ranker gave, decayed sums of probability and of hits; their ratio, drawn towards 1
by a prior, corrects what is given next (histogram binning, Zadrozny and Elkan 2001). The first item stays the first and
all candidates together keep their probability, so nothing changes in a ranking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.state import State

if TYPE_CHECKING:
    from model.contexts import Bool, Float64

BORDERS = np.geomspace(0.01, 1.0, 17)
HALF_LIFE_EVENTS = 3_000.0
PRIOR_HITS = 5.0
MOST = 0.9
"""Of what the other candidates have, that the first one may be given."""


class Calibrator:
    """Sums by bin of the probability that first items were given."""

    def __init__(self) -> None:
        self._given, self._came = np.zeros(len(BORDERS) + 1), np.zeros(len(BORDERS) + 1)

    def correct(self, first_Q: Float64, second_Q: Float64, covered_Q: Float64) -> tuple[Float64, Float64]:
        """Return what the first item of each list gets, and the factor for all other candidates, [Q].

        `second_Q` is what the second of the list was given, `covered_Q` what all candidates were given together.
        """
        ratio = (self._came + PRIOR_HITS) / (self._given + PRIOR_HITS)
        rest_Q = covered_Q - first_Q
        able_Q = (first_Q > 0.0) & (rest_Q > 1e-6)
        least_Q = second_Q * covered_Q / np.maximum(rest_Q + second_Q, 1e-12)  # it stays ahead of the second
        wanted_Q = first_Q * ratio[np.searchsorted(BORDERS, first_Q)]
        given_Q = np.where(able_Q, np.clip(wanted_Q, least_Q, first_Q + MOST * rest_Q), first_Q)
        return given_Q, np.where(able_Q, (covered_Q - given_Q) / np.maximum(rest_Q, 1e-12), 1.0)

    def learn(self, first_B: Float64, came_B: Bool) -> None:
        """Learn from what first items were given before it was corrected; 0: the list was empty."""
        listed = first_B > 0.0
        bins = np.searchsorted(BORDERS, first_B[listed])
        keep = 0.5 ** (listed.sum() / HALF_LIFE_EVENTS)
        self._given = keep * self._given + np.bincount(bins, first_B[listed], len(self._given))
        self._came = keep * self._came + np.bincount(bins, came_B[listed], len(self._came))

    def state(self) -> State:
        """Return both sums."""
        return State({"given": self._given.copy(), "came": self._came.copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._given, self._came = state.arrays["given"].copy(), state.arrays["came"].copy()
