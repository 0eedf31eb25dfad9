"""Calibration of what the model says: are things that it gives 30 % to true in 30 % of the cases?

Expected calibration error (Guo et al. 2017): the events are put into BINS bins of equal width by the probability of the
first guess; the differences between mean probability and share of right guesses are averaged, weighted by events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from model.gaps import QUANTILES

if TYPE_CHECKING:
    from incremental.outcomes import Coverage, Guesses
    from model.contexts import Bool, Float64

BINS = 15


def guess_sums(guesses: Guesses, chosen_B: Bool) -> Float64:
    """Return events, summed probability and right guesses of each bin, [BINS, 3]; NaN: there was no guess."""
    made_B = chosen_B & ~np.isnan(guesses.confidence_B)
    p, right = guesses.confidence_B[made_B], guesses.correct_B[made_B]
    bin_P = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    sums = [np.bincount(bin_P, weight, BINS) for weight in (np.ones_like(p), p, right.astype(np.float64))]
    return np.stack(sums, axis=1)


def coverage_sums(coverage: Coverage, chosen_B: Bool) -> Float64:
    """Return events, and for each of QUANTILES the events below it and those at it, [1 + 2 * 3]."""
    known_B = chosen_B & coverage.known_B
    below_3, at_3 = coverage.below_B3[known_B].sum(axis=0), coverage.at_B3[known_B].sum(axis=0)
    return np.concatenate([[known_B.sum()], below_3, at_3]).astype(np.float64)


def calibration_error(sums: Float64) -> float:
    """Return the expected calibration error."""
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / max(1.0, sums[:, 0].sum()))


def reliability(sums: Float64) -> dict[str, Any]:
    """Return the error and the bins in use."""
    bins = [
        {"events": int(events), "confidence": p / events, "accuracy": right / events}
        for events, p, right in sums.tolist()
        if events
    ]
    return {"ece": calibration_error(sums), "bins": bins}


def covered(sums: Float64) -> dict[str, float]:
    """Return the share of events at most as late as each quantile, which should be 0.1, 0.5 and 0.9.

    Where many gaps are alike, several quantiles are the same number: events exactly there count as far as is needed.
    """
    below_3, at_3 = sums[1:4] / sums[0], sums[4:] / sums[0]
    shares = np.clip(np.array(QUANTILES), below_3, below_3 + at_3)
    return {f"p{round(100 * level)}": share for level, share in zip(QUANTILES, shares.tolist(), strict=True)}
