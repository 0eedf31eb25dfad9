"""What the transformer says of a micro-batch: states, the best of the catalogue, and probabilities of listed items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from model.compiled import compiled, compiled_products
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from model.contexts import Contexts, Float64, Int64
    from model.smoothing import Probability, Smoothing
    from model.transformer import Transformer

TILE, TILE_STATES = 1 << 22, 64
"""Logits held at once while a catalogue is scored (16 MB), of so many states at most: what is in the cache is read fast."""
GROUP = 16
"""Items whose maximum stands for them while the best are looked for."""
LARGE = 3e38

Logits = npt.NDArray[np.float32]


class TransformerView:
    """States h [Q, D] of a micro-batch and, once asked, the catalogue's normaliser of each."""

    def __init__(self, owner: Transformer, contexts: Contexts, smoothing: Smoothing) -> None:
        self._owner, self._smooth, self._size = owner, smoothing, owner.items.size
        owner.table.reserve(owner.items.height)  # guests have rows too
        self.h_QD = owner.states(contexts)
        fresh = np.flatnonzero(contexts.state_position_Q < 0)  # of users with no history: one state, many times
        self._first_Q = np.arange(len(self.h_QD))  # the first state that is the same
        self._first_Q[fresh] = fresh[:1]
        self._log_sum_Q = torch.empty(0)
        self._top: tuple[Rows, Probability] = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))

    @torch.inference_mode()
    def _scan(self, n: int) -> None:
        """Score the catalogue tile by tile: the log of the normaliser and the n best logits of every state."""
        rows = self._owner.items.rows
        weight, bias = self._owner.table.weight[:rows], self._owner.table.bias[:rows]
        scanned, place_Q = np.unique(self._first_Q, return_inverse=True)
        h_SD, states = self.h_QD[torch.from_numpy(scanned)], len(scanned)
        tile = min(TILE_STATES, max(16, TILE // rows))
        buffer = torch.empty(min(tile, states), rows)
        top, log_sum_S = (np.zeros((states, n), np.int32), np.zeros((states, n), np.float32)), torch.empty(states)
        for start in range(0, states, tile):
            part = slice(start, min(start + tile, states))
            logits = torch.addmm(bias, h_SD[part], weight.T, out=buffer[: part.stop - start])
            top[0][part], top[1][part] = top_n(logits.numpy(), n)
            highest = torch.from_numpy(top[1][part, :1])
            total = logits.sub_(highest).exp_().sum(dim=1)
            log_sum_S[part] = total.log_().add_(highest[:, 0])
        self._top = top[0][place_Q], top[1][place_Q]
        self._log_sum_Q = log_sum_S[torch.from_numpy(place_Q)]

    def _prepare(self) -> None:
        if len(self._log_sum_Q) != len(self.h_QD):
            self._scan(self._owner.settings.proposals)

    @torch.inference_mode()
    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the n most probable items of every state; n is at most `proposals`."""
        rows, p = np.zeros((len(self.h_QD), n), np.int32), np.zeros((len(self.h_QD), n), np.float32)
        if not self._size or not len(self.h_QD):
            return rows, p
        self._prepare()
        top = min(n, self._size)
        rows[:, :top] = self._top[0][:, :top]
        p[:, :top] = self._smooth(np.exp(self._top[1][:, :top] - self._log_sum_Q.numpy()[:, None]), rows[:, :top])
        return rows, p

    @torch.inference_mode()
    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of rows [S, C]; uniform while nothing is admitted."""
        states = states.astype(np.int64)
        if not self._size or not len(self.h_QD):
            return self._smooth(1.0 / np.maximum(1, self._smooth.size(states)), rows, states)
        self._prepare()
        table = self._owner.table
        logits = listed_logits(self.h_QD.numpy(), table.weight.numpy(), table.bias.numpy(), states, rows)
        q = np.exp(logits - self._log_sum_Q.numpy()[states][:, None])
        return self._smooth(q, rows, states)

    @torch.inference_mode()
    def type_probabilities(self) -> Probability:
        """Return p over the rows of the type vocabulary, [Q, rows]; smoothed as items are."""
        rows = self._owner.types.rows
        q = torch.softmax(self._owner.network.type_logits(self.h_QD)[:, :rows], dim=1).numpy()
        epsilon = self._smooth.epsilon
        return ((1.0 - epsilon) * q + epsilon / rows).astype(np.float32)

    @torch.inference_mode()
    def time_probabilities(self, shares_QB: Float64) -> Probability:
        """Return p over the bins of the time to the next event, [Q, BINS], from their shares in the stream so far."""
        shares = torch.from_numpy(shares_QB.astype(np.float32))
        logits = self._owner.network.time_logits(self.h_QD, shares)
        p_QB: Probability = torch.softmax(logits, dim=1).numpy()
        return p_QB


@compiled_products
def listed_logits(h_QD: Logits, weight_ND: Logits, bias_N: Logits, states: Int64, rows_SC: Rows) -> Logits:
    """Return the logits of the listed rows, [S, C]; that of UNKNOWN is 0."""
    logits_SC = np.zeros(rows_SC.shape, np.float32)
    for line in range(len(states)):
        for column in range(rows_SC.shape[1]):
            row = rows_SC[line, column]
            if row != UNKNOWN:
                total = bias_N[row]
                for d in range(h_QD.shape[1]):
                    total += h_QD[states[line], d] * weight_ND[row, d]
                logits_SC[line, column] = total
    return logits_SC


def top_n(logits_SN: Logits, n: int) -> tuple[Rows, Logits]:
    """Return where the n largest of each line are, best first, ties by column, and what they are; exact.

    Only groups of columns whose maximum is among the n largest maxima can hold them, and those are found first.
    Where there are fewer than n columns the rest is 0.
    """
    peaks_SG = peaks_of(logits_SN)
    least_S = np.full(len(logits_SN), -LARGE, np.float32)
    if peaks_SG.shape[1] > n:
        least_S = np.partition(peaks_SG, -n, axis=1)[:, -n]
    return listed(logits_SN, peaks_SG, least_S, n)


@compiled
def listed(logits_SN: Logits, peaks_SG: Logits, least_S: Logits, n: int) -> tuple[Rows, Logits]:
    """Return the n largest of each line as `top_n` does; at least n of them, where there are so many, reach `least_S`."""
    lines, width = logits_SN.shape
    best, values = np.zeros((lines, n), np.int32), np.zeros((lines, n), np.float32)
    for line in range(lines):
        least, filled = least_S[line], 0
        for group in range(peaks_SG.shape[1]):
            if peaks_SG[line, group] < least or (filled == n and peaks_SG[line, group] <= values[line, n - 1]):
                continue
            for column in range(group * GROUP, min(width, (group + 1) * GROUP)):
                value = logits_SN[line, column]
                if value < least or (filled == n and value <= values[line, n - 1]):
                    continue
                filled = min(n, filled + 1)
                place = filled - 1
                while place > 0 and values[line, place - 1] < value:
                    values[line, place], best[line, place] = values[line, place - 1], best[line, place - 1]
                    place -= 1
                values[line, place], best[line, place] = value, column
    return best, values


@compiled_products
def peaks_of(logits_SN: Logits) -> Logits:
    """Return the maximum of each GROUP of columns of every line, [S, G]; the last group may be shorter."""
    lines, width = logits_SN.shape
    whole = width // GROUP
    peaks_SG = np.empty((lines, (width + GROUP - 1) // GROUP), np.float32)
    for line in range(lines):
        for group in range(whole):
            peak = np.float32(-LARGE)
            for column in range(GROUP):  # of a known number of columns, so that they are compared many at a time
                peak = max(peak, logits_SN[line, group * GROUP + column])
            peaks_SG[line, group] = peak
        if whole < peaks_SG.shape[1]:
            peak = np.float32(-LARGE)
            for column in range(whole * GROUP, width):
                peak = max(peak, logits_SN[line, column])
            peaks_SG[line, whole] = peak
    return peaks_SG
