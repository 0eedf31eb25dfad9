"""A user's rhythm at every state of a micro-batch: types and intervals of the latest events, for the two heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.compiled import compiled
from model.mixture import bucket
from model.sequences import gaps

if TYPE_CHECKING:
    import numpy.typing as npt

    from model.contexts import Contexts, Float64, Int32, Int64
    from model.vocabulary import Rows, Vocabulary

LATEST = 32
"""Events looked back over."""
MEMORY = 0.7
"""Weight of the next older interval in the mean of intervals."""
TYPE_MEMORY = 0.9
"""Weight of the next older event in the counts of types."""
RUNS = 8
"""Lengths of a run of one type that are told apart."""
STEPS = 17
"""Coarse steps of log(1 + seconds): 0 unknown, then STEP wide."""
STEP = 1.5
HOURS = 25
"""Hour of the day, UTC; 0 unknown."""
INPUTS = 7
UNKNOWN_GAP = -1.0
"""In compiled code, which knows no NaN."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Of every state: the type row of the latest event and how often it came in a row before it.

    `counts_QY` are decayed counts of types; `gaps_Q3` is log(1 + seconds) of the latest interval, of the one before
    and of their decayed mean, NaN where unknown. Type 0 is none, or one that is not known.
    """

    type_Q: Int64
    run_Q: Int64
    counts_QY: npt.NDArray[np.float32]
    gaps_Q3: Float64
    hour_Q: Int64
    bucket_Q: Int64
    length_Q: Int64

    @property
    def steps(self) -> Int64:
        """The coarse step of the latest interval, the one before and the mean, [Q, 3]."""
        steps = np.minimum(np.nan_to_num(self.gaps_Q3, nan=-STEP) // STEP + 1, STEPS - 1)
        return steps.astype(np.int64)

    def inputs(self) -> npt.NDArray[np.float32]:
        """Return the same as numbers of about one, [Q, INPUTS]."""
        turn_Q = 2.0 * np.pi * self.hour_Q / 24.0
        columns = [
            *(0.1 * np.nan_to_num(self.gaps_Q3).T),
            np.isnan(self.gaps_Q3[:, 0]),
            0.3 * np.log1p(self.length_Q),
            np.sin(turn_Q),
            np.cos(turn_Q),
        ]
        return np.stack(columns, axis=1).astype(np.float32)


def rhythm(contexts: Contexts, types: Vocabulary) -> Rhythm:
    """Look at the latest events of every state."""
    types_RT = types.lookup(contexts.types_RT)
    row_Q, position_Q = contexts.state_row_Q, contexts.state_position_Q
    log_gaps_RT = np.nan_to_num(np.log1p(gaps(contexts.times_RT).astype(np.float64)), nan=UNKNOWN_GAP)
    type_Q, run_Q, counts_QY, gaps_Q3 = _latest(types_RT, log_gaps_RT, row_Q, position_Q, types.rows)
    time_Q = np.where(position_Q >= 0, contexts.times_RT[row_Q, np.maximum(position_Q, 0)], np.nan)
    known_Q = np.isfinite(time_Q)
    hour_Q = np.where(known_Q, 1 + np.where(known_Q, time_Q, 0.0) % 86_400.0 // 3_600.0, 0).astype(np.int64)
    length_Q = position_Q.astype(np.int64) + 1
    gaps_Q3 = np.where(gaps_Q3 == UNKNOWN_GAP, np.nan, gaps_Q3)
    return Rhythm(type_Q, run_Q, counts_QY, gaps_Q3, hour_Q, bucket(length_Q), length_Q)


@compiled
def _latest(
    types_RT: Rows, log_gaps_RT: Float64, row_Q: Int32, position_Q: Int32, rows: int
) -> tuple[Int64, Int64, npt.NDArray[np.float32], Float64]:
    states = len(row_Q)
    type_Q, run_Q = np.zeros(states, np.int64), np.zeros(states, np.int64)
    counts_QY, gaps_Q3 = np.zeros((states, rows), np.float32), np.full((states, 3), UNKNOWN_GAP)
    for state in range(states):
        line, latest = row_Q[state], position_Q[state]
        weight, total, known, summed = np.float32(1.0), 0.0, 0, 0.0
        unbroken, share = True, 1.0
        if latest >= 0:
            type_Q[state] = types_RT[line, latest]
        for lag in range(min(LATEST, latest + 1)):
            place = latest - lag
            kind = types_RT[line, place]
            counts_QY[state, kind] += weight
            weight *= np.float32(TYPE_MEMORY)
            if lag > 0 and unbroken:
                unbroken = kind == type_Q[state]
                if unbroken:
                    run_Q[state] = min(run_Q[state] + 1, RUNS - 1)
            gap = log_gaps_RT[line, place]
            if gap >= 0.0:
                if known < 2:
                    gaps_Q3[state, known] = gap
                total += share * gap
                summed += share
                share *= MEMORY
                known += 1
        if known:
            gaps_Q3[state, 2] = total / summed
    return type_Q, run_Q, counts_QY, gaps_Q3
