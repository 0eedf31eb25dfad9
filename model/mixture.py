"""The mixture: one distribution over the whole catalogue from all components, right from the first event.

Two layers. The *blend* is a convex combination whose weights, one set per length of the user's history, are learned
by online expectation maximisation. Over the components and the blend together runs Bayes with fixed share (Herbster
and Warmuth 1998, with the decreasing rate 1 / (t + 1)), so that the mixture is never much worse than the best of
them, also just after a change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled
from model.state import State

if TYPE_CHECKING:
    from model.contexts import Float64, Int64
    from model.smoothing import Probability

BUCKETS = np.array([1, 2, 3, 4, 6, 11, 31])
"""Lengths of history at which the next bucket of blend weights begins; bucket 0 is the empty history."""
BLEND_RATE, BLEND_EXPONENT = 0.002, 0.7
"""Per event; faster at first, as events seen to the power of minus the exponent: below 1, so that what the first events
were taken for, while all weights were alike, is soon left behind (Cappe and Moulines 2009; Liang and Klein 2009)."""


def bucket(history_length: npt.NDArray[np.integer]) -> Int64:
    """Return the bucket of each length of history."""
    return np.searchsorted(BUCKETS, history_length, side="right")


class Mixture:
    """Weights of the K components; `names` are theirs, in order."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        count = len(names)
        self._share = np.full(count + 1, 1.0 / (count + 1))  # the last is the blend
        self._blend = np.full((len(BUCKETS) + 1, count), 1.0 / count)
        self._seen = np.zeros(len(BUCKETS) + 1)
        self._events = 0

    def weights(self, buckets: Int64) -> Float64:
        """Return the effective weight of each component for states in these buckets, [S, K]; lines sum to 1."""
        weights: Float64 = self._share[:-1] + self._share[-1] * self._blend[buckets]
        return weights

    def learn(self, p_BK: Float64, buckets: Int64) -> None:
        """Learn from the probability each component gave to what happened, in stream order."""
        if not len(p_BK):
            return
        blended = np.einsum("bk,bk->b", p_BK, self._blend[buckets])
        self._share = fixed_share(self._share, np.concatenate([p_BK, blended[:, None]], axis=1), self._events)
        self._events += len(p_BK)
        posterior = p_BK * self._blend[buckets] / blended[:, None]
        for index in np.unique(buckets).tolist():
            mine = posterior[buckets == index]
            self._seen[index] += len(mine)
            step = max(BLEND_RATE, (self._seen[index] + 1.0) ** -BLEND_EXPONENT)
            rate = 1.0 - (1.0 - step) ** len(mine)
            self._blend[index] += rate * (mine.mean(axis=0) - self._blend[index])

    def restart(self) -> None:
        """Give every component the same weight again, and learn as fast as at the beginning."""
        self._share[:], self._blend[:] = 1.0 / len(self._share), 1.0 / len(self.names)
        self._seen[:], self._events = 0.0, 0

    def overall(self) -> dict[str, float]:
        """Return each component's effective weight, averaged over the events seen, for people."""
        seen = self._seen if self._seen.sum() else np.ones_like(self._seen)
        blend = (self._blend * seen[:, None]).sum(axis=0) / seen.sum()
        return dict(zip(self.names, (self._share[:-1] + self._share[-1] * blend).tolist(), strict=True))

    def state(self) -> State:
        """Return all weights."""
        arrays = {"share": self._share.copy(), "blend": self._blend.copy(), "seen": self._seen.copy()}
        return State(arrays, {"names": self.names, "events": self._events})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._share, self._blend = state.arrays["share"].copy(), state.arrays["blend"].copy()
        self._seen, self._events = state.arrays["seen"].copy(), int(state.values["events"])


def combine(p_KSC: Probability, weights_KS: Probability) -> Probability:
    """Return the mixture's probability by the weights of each state, [S, C]."""
    mixed_SC: Probability = np.zeros(p_KSC.shape[1:], np.float32)
    for p_SC, weight_S in zip(p_KSC, weights_KS, strict=True):
        mixed_SC += p_SC * weight_S[:, None]
    return mixed_SC


@compiled
def fixed_share(share: Float64, p_BK: Float64, events: int) -> Float64:
    """Return the weights after B events, `events` of which came before; Bayes, then a share 1 / (t + 1) spread evenly."""
    share = share.copy()
    even = 1.0 / len(share)
    for line in range(len(p_BK)):
        total = 0.0
        for k in range(len(share)):
            share[k] *= p_BK[line, k]
            total += share[k]
        alpha = 1.0 / (events + line + 2)
        for k in range(len(share)):
            share[k] = (1.0 - alpha) * share[k] / total + alpha * even
    return share
