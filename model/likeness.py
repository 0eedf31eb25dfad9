"""Likeness: how near a candidate stands to what its session was about, by the embeddings of items.

Counts know pairs that happened. Embeddings, learned by the transformer from all of them, also say that two items that
never met are alike, which is what the ranker has to go by where counts are thin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled, compiled_products

if TYPE_CHECKING:
    from model.contexts import Bool, Int32
    from model.vocabulary import Rows

Cosines = npt.NDArray[np.float32]

LIKENESSES = 2
SESSION_ITEMS = 4
DECAY = 0.7
"""Weight of the next older item of the session."""
TINY = 1e-12


@compiled
def likeness(
    weight_ND: Cosines, rows_RT: Rows, opens_RT: Bool, row_Q: Int32, position_Q: Int32, rows_QC: Rows
) -> Cosines:
    """Return the cosines [Q, C, LIKENESSES] of every candidate with the latest item and with the session's mean.

    The mean is of the latest SESSION_ITEMS of the session, the latest weighing most. Of the latest item itself the
    first is 0.
    """
    states, width = rows_QC.shape
    dim = weight_ND.shape[1]
    out_QCV = np.zeros((states, width, LIKENESSES), np.float32)
    scale_N = np.empty(len(weight_ND), np.float32)
    for row in range(len(weight_ND)):
        scale_N[row] = np.float32(1.0) / np.sqrt(product(weight_ND[row], weight_ND[row]) + np.float32(TINY))
    mean_D = np.empty(dim, np.float32)
    for state in range(states):
        line, latest = row_Q[state], position_Q[state]
        if latest < 0:
            continue
        newest = rows_RT[line, latest]
        known = newest != 0
        mean_D[:] = 0.0
        share = np.float32(1.0)
        for lag in range(min(SESSION_ITEMS, latest + 1)):
            item = rows_RT[line, latest - lag]
            if item != 0:
                mean_D += share * scale_N[item] * weight_ND[item]
            if opens_RT[line, latest - lag]:
                break
            share *= np.float32(DECAY)
        scale = np.float32(1.0) / np.sqrt(product(mean_D, mean_D) + np.float32(TINY))
        for column in range(width):
            item = rows_QC[state, column]
            if item == 0:
                continue
            if known and item != newest:
                near = product(weight_ND[item], weight_ND[newest])
                out_QCV[state, column, 0] = near * scale_N[item] * scale_N[newest]
            out_QCV[state, column, 1] = product(weight_ND[item], mean_D) * scale_N[item] * scale
    return out_QCV


@compiled_products
def product(one_D: Cosines, two_D: Cosines) -> np.float32:
    """Return the inner product."""
    total = np.float32(0.0)
    for index in range(len(one_D)):
        total += one_D[index] * two_D[index]
    return total
