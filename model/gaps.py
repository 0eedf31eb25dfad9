"""The time between events as classes: bins of log(1 + seconds), and where inside a bin the stream's gaps lie.

Bin 0 is a gap of exactly nothing, as of events with one time; bin b covers [b - 1, b) times WIDTH. A distribution over
bins becomes quantiles by the decayed counts of all gaps in cells of CELL, so that gaps of one length (a tick of 30
seconds) are met exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.state import State

if TYPE_CHECKING:
    from model.contexts import Contexts, Float64, Int64

QUANTILES = (0.1, 0.5, 0.9)
"""Of log(1 + seconds) to the next event."""
BINS = 65
CELLS = 34
CELL = 0.01
"""Half a percent to either side."""
WIDTH = CELLS * CELL
HALF_LIFE_EVENTS = 20_000.0
PRIOR_EVENTS = 1.0
LEAST = 1e-6
"""Events that every cell has at least: no bin is impossible."""

Floats = npt.NDArray[np.floating]


def cell_of(log_gap: Floats) -> Int64:
    """Return the cell of each log(1 + seconds), counted over all bins; a gap of nothing is in cell 0 of bin 0."""
    cell = np.clip(np.floor(log_gap / CELL), 0, (BINS - 1) * CELLS - 1).astype(np.int64) + CELLS
    return np.where(log_gap > 0.0, cell, 0)


def bin_of(log_gap: Floats) -> Int64:
    """Return the bin of each log(1 + seconds), which is a number."""
    return cell_of(log_gap) // CELLS


def log_gaps(contexts: Contexts) -> Float64:
    """Return log(1 + seconds) from the user's previous event to each event, [B], NaN where unknown."""
    position = contexts.state_position_Q[contexts.before_B]
    previous = contexts.times_RT[contexts.event_row_B, np.maximum(position, 0)]
    gap = np.maximum(contexts.event_time_B - previous, 0.0)
    return np.where(position >= 0, np.log1p(gap), np.nan)


class Gaps:
    """Decayed counts of all gaps of the stream."""

    name = "gaps"

    def __init__(self) -> None:
        self._counts = np.full((BINS, CELLS), LEAST)
        self._counts[:, 0] += PRIOR_EVENTS * _prior()

    def share(self) -> Float64:
        """Return the share of each bin, [BINS]; never 0."""
        counts = self._counts.sum(axis=1)
        share: Float64 = counts / counts.sum()
        return share

    def shares(self, contexts: Contexts) -> Float64:
        """Return the same for every state, [Q, BINS], with the V events of the micro-batch that it may look at."""
        shown = np.flatnonzero(contexts.shown_B)
        log_gap_V = log_gaps(contexts)[shown]
        timed = np.flatnonzero(np.isfinite(log_gap_V))
        came = np.zeros((len(shown) + 1, BINS))  # by the event before the state, the first line: none
        came[timed + 1, bin_of(log_gap_V[timed])] = 1.0
        known_Q = np.searchsorted(shown, contexts.moment_Q)
        counts = self._counts.sum(axis=1) + np.cumsum(came, axis=0)[known_Q]
        shares: Float64 = counts / counts.sum(axis=1, keepdims=True)
        return shares

    def quantiles(self, p_QB: Floats) -> Float64:
        """Return p10 <= p50 <= p90 of log(1 + seconds) under distributions over bins, [Q, 3]."""
        below_QB = np.cumsum(p_QB, axis=1, dtype=np.float64)
        below_QB /= below_QB[:, -1:]
        inside = np.cumsum(self._counts, axis=1)
        steps = (np.arange(BINS)[:, None] + inside / inside[:, -1:]).reshape(-1)
        return np.stack([_quantile(below_QB, level, steps) for level in QUANTILES], axis=1)

    def learn(self, log_gap: Float64) -> None:
        """Count gaps."""
        self._counts *= 0.5 ** (len(log_gap) / HALF_LIFE_EVENTS)
        self._counts += np.bincount(cell_of(log_gap), minlength=BINS * CELLS).reshape(BINS, CELLS)

    def state(self) -> State:
        """Return the counts."""
        return State({"counts": self._counts.copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._counts = state.arrays["counts"].copy()


def _prior() -> Float64:
    """Before anything is known: half at once, and the longer the rarer."""
    weight = np.concatenate([[0.0], 1.0 / (1.0 + np.arange(BINS - 1))])
    return np.where(np.arange(BINS) == 0, 0.5, 0.5 * weight / weight.sum())


def _quantile(below_QB: Float64, level: float, steps: Float64) -> Float64:
    lines = np.arange(len(below_QB))
    bin_Q = np.minimum((below_QB < level).sum(axis=1), BINS - 1)
    before_Q = np.where(bin_Q > 0, below_QB[lines, bin_Q - 1], 0.0)
    share_Q = (level - before_Q) / np.maximum(below_QB[lines, bin_Q] - before_Q, 1e-12)
    cell_Q = np.searchsorted(steps, bin_Q + np.clip(share_Q, 1e-9, 1.0 - 1e-9), side="left")
    return np.where(bin_Q == 0, 0.0, (cell_Q - CELLS + 0.5) * CELL)
