"""The ranker: a small network that orders the candidates, learned online from the lists it was asked about.

Of an admitted item p(i) = pi * softmax over the candidates of z(i); what is left, 1 - pi, belongs to all others. z is
a linear function of the features plus a multilayer perceptron; it begins as the logarithm of the mixture as the features
tell it, so that the first order is the mixture's own but for items of the current session. pi, the chance that the
candidates hold an admitted item that happens, is counted online for each bucket of history lengths. Learning minimises
the listwise cross-entropy (Cao et al. 2007) on lists that were scored before their event was learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from model.adam import Adam
from model.candidates import LOG_SCALE
from model.compiled import compiled
from model.mixture import BUCKETS
from model.state import State

if TYPE_CHECKING:
    from model.candidates import Candidates, Features
    from model.contexts import Bool, Float64, Int64
    from model.smoothing import Probability

HIDDEN = 64
LISTS = 128
"""Lists in a step at most: of a micro-batch, several small steps teach more than a large one."""
LEARNING_RATE, DECAY_STEPS, LEAST_RATE = 8e-3, 300, 1e-3
"""The rate falls as (1 + step / DECAY_STEPS) ** -0.5, down to the least: a stream never ends."""
BETAS = (0.9, 0.999)
TILE = 4096
"""Candidates looked at together: their hidden units stay in the cache."""
LARGE = 3e38
PRIOR_EVENTS = 20.0
PRIOR_COVERED = 0.8
HALF_LIFE_EVENTS = 10_000.0


class RankNetwork(nn.Module):
    """One number for a candidate, from its F features; `mixture` is the place of the mixture's log among them."""

    def __init__(self, features: int, mixture: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, bias=False)
        self.hidden = nn.Linear(features, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.linear.weight[0, mixture] = 1.0 / LOG_SCALE

    def forward(self, x_PF: Tensor) -> Tensor:
        """Return z [P]."""
        z_P1: Tensor = self.linear(x_PF) + self.out(F.gelu(self.hidden(x_PF)))
        return z_P1[:, 0]


class Ranker:
    """The network, its optimizer, and the coverage of each bucket."""

    name = "ranker"

    def __init__(self, features: int, mixture: int, seed: int) -> None:
        self._shape = features, mixture
        self.restart(seed)
        self._events = np.full(len(BUCKETS) + 1, PRIOR_EVENTS)
        self._covered = np.full(len(BUCKETS) + 1, PRIOR_EVENTS * PRIOR_COVERED)

    def restart(self, seed: int) -> None:
        """Let the network begin again as the mixture's own order; what is known of coverage stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = RankNetwork(*self._shape)
        self._optimizer = Adam(self.network.parameters(), BETAS)

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(max(LEAST_RATE, LEARNING_RATE * (1.0 + self._optimizer.steps / DECAY_STEPS) ** -0.5))

    def copy(self) -> Ranker:
        """Return another ranker in the same state."""
        other = Ranker(*self._shape, 0)
        other.load(self.state())
        return other

    def coverage(self, size_S: Int64, buckets: Int64, support_S: Int64) -> Float64:
        """Return pi [S] for states with so many candidates, of so many items that they know."""
        share_S = (self._covered / self._events)[buckets]
        return np.where(size_S == 0, 0.0, np.where(size_S >= support_S, 1.0, share_S))

    @torch.inference_mode()
    def shares(self, candidates: Candidates) -> Probability:
        """Return the softmax over the candidates of every state [Q, C], 0 where padded."""
        valid_QC = candidates.rows_QC != 0
        size_Q = valid_QC.sum(axis=1)
        x_PF = _packed(candidates.features_QCF, np.arange(len(size_Q)), size_Q)
        z_P = torch.empty(len(x_PF))
        for start in range(0, len(x_PF), TILE):
            z_P[start : start + TILE] = self.network(x_PF[start : start + TILE])
        p_QC = np.zeros(valid_QC.shape, np.float32)
        p_QC[valid_QC] = softmax_by_line(z_P.numpy(), size_Q)
        return p_QC

    def learn(self, candidates: Candidates, states: Int64, target_S: Int64, buckets: Int64) -> bool:
        """Learn from the lists of states whose target, an admitted item, stands at column `target_S`; -1: it was not there.

        In steps of LISTS at most. Returns whether the network took any; it does not where nothing was covered or a
        number is not finite.
        """
        covered = np.flatnonzero(target_S >= 0)
        self._count(target_S >= 0, buckets)
        parts = np.array_split(covered, -(-len(covered) // LISTS)) if len(covered) else []
        return any([self._step(candidates, states[part], target_S[part]) for part in parts])  # noqa: C419 - all of them

    def _step(self, candidates: Candidates, states: Int64, target_S: Int64) -> bool:
        """Take one step; nothing is changed where a number is not finite."""
        size = (candidates.rows_QC[states] != 0).sum(axis=1)
        z_P = self.network(_packed(candidates.features_QCF, states, size))
        if not bool(z_P.isfinite().all()):
            return False
        gradient = softmax_by_line(z_P.detach().numpy(), size)
        start = np.cumsum(size) - size
        gradient[start + target_S] -= 1.0  # candidates stand first in a line, padding after them
        self._optimizer.clear()
        loss = torch.dot(z_P, torch.from_numpy(gradient).div(float(len(target_S))))  # has this gradient by z
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped; of a vector it would load sympy
        if not all(bool(p.grad.isfinite().all()) for p in self.network.parameters() if p.grad is not None):
            return False
        self._optimizer.step(self.learning_rate)
        return True

    def _count(self, covered: Bool, buckets: Int64) -> None:
        """Note how often the candidates held what happened."""
        length = len(self._events)
        events = np.bincount(buckets, minlength=length)
        keep = 0.5 ** (events / HALF_LIFE_EVENTS)
        self._events = keep * self._events + events
        self._covered = keep * self._covered + np.bincount(buckets[covered], minlength=length)

    def state(self) -> State:
        """Return weights, optimizer state and coverage."""
        state = State({"events": self._events.copy(), "covered": self._covered.copy()})
        state.put("network", State({name: t.numpy().copy() for name, t in self.network.state_dict().items()}))
        state.put("optimizer", self._optimizer.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._events, self._covered = state.arrays["events"].copy(), state.arrays["covered"].copy()
        weights = state.take("network").arrays
        self.network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        self._optimizer.load(state.take("optimizer"))


def _packed(features_QCF: Features, states: Int64, size_S: Int64) -> Tensor:
    """Return the features of the candidates of some states, of which each has so many, [P, F], in memory that torch aligned.

    The last bits of a matrix product may depend on where in memory its factors stand, and a learner that went through
    a snapshot must go on with the same bits.
    """
    packed = torch.empty(int(size_S.sum()), features_QCF.shape[2])
    copy_prefixes(features_QCF, states, size_S, packed.numpy())
    return packed


@compiled
def copy_prefixes(features_QCF: Features, states: Int64, size_S: Int64, out_PF: Features) -> None:
    """Copy the first `size_S` lines of each of some states, one after another."""
    start = 0
    for line in range(len(states)):
        stop = start + size_S[line]
        out_PF[start:stop] = features_QCF[states[line], : size_S[line]]
        start = stop


@compiled
def softmax_by_line(z_P: Probability, size_S: Int64) -> Probability:
    """Return the softmax of each stretch of z; stretch s holds `size_S[s]` numbers."""
    p_P = np.empty(len(z_P), np.float32)
    start = 0
    for line in range(len(size_S)):
        stop = start + size_S[line]
        highest = np.float32(-LARGE)
        for index in range(start, stop):
            highest = max(highest, z_P[index])
        for index in range(start, stop):
            p_P[index] = z_P[index] - highest
        for index in range(start, stop):
            p_P[index] = np.exp(p_P[index])  # a loop over one array alone: see `model.compiled`
        total = np.float32(0.0)
        for index in range(start, stop):
            total += p_P[index]
        for index in range(start, stop):
            p_P[index] /= total
        start = stop
    return p_P
