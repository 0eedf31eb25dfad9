"""What each method made of each event of a micro-batch: the currency between predictor, baselines and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model.contexts import Bool, Float64, Int32, Int64

MISS = np.int32(2**31 - 1)
"""The rank of a target that is not in a method's list."""

Kind = npt.NDArray[np.uint8]
IGNORED, SCORED, FIRST = 0, 1, 2
"""Not counted (late or repeated) · ranked, the user has a history · ranked, but a user's first event."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One micro-batch of what happened, in stream order. Keys are 64-bit hashes of ids.

    `admitted_B`: whether the item was known to the vocabulary when it was predicted; where it was not, every method is
    charged the probability of `unknown`. `support` is the number of admitted items at that time, `unknown` not
    counted. `exclude_seen`: whether a user's kept items are left out of every ranking in this micro-batch.
    """

    kind_B: Kind
    user_B: Int64
    item_B: Int64
    type_B: Int64
    time_B: Float64  # seconds, NaN where unknown
    admitted_B: Bool
    support: int
    exclude_seen: bool


@dataclass(frozen=True, slots=True)
class ItemOutcomes:
    """One method on the item of each event: 0-based rank (ties against the method) or MISS; natural log-probability."""

    rank_B: Int32
    log_prob_B: Float64


@dataclass(frozen=True, slots=True)
class TypeOutcomes:
    """One method on the type of each event: whether its first guess was right; natural log-probability."""

    correct_B: Bool
    log_prob_B: Float64


@dataclass(frozen=True, slots=True)
class TimeOutcomes:
    """One method on the seconds to each event; NaN where the event or its predecessor has no time.

    `abs_log_error_B` = |log1p(median) - log1p(seconds)|; `pinball_B` = mean over p10, p50 and p90 of the pinball loss
    of log1p(seconds).
    """

    abs_log_error_B: Float64
    pinball_B: Float64


@dataclass(frozen=True, slots=True)
class Guesses:
    """The model's first guess at each event: the probability it was given (NaN: there was none), and whether it came."""

    confidence_B: Float64
    correct_B: Bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether the time to each event was less than p10, p50 and p90, or the same; where it is known."""

    known_B: Bool
    below_B3: Bool
    at_B3: Bool


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All methods on one micro-batch. `emitted` scores what was published after the user's previous event.

    `new_B`: whether the event is among the first of its item; `guest_B`: whether that first came in the same
    micro-batch, after which it was known. `guesses` are by head, "item" and "event_type".
    """

    kind_B: Kind
    items: Mapping[str, ItemOutcomes]
    emitted: ItemOutcomes | None
    types: Mapping[str, TypeOutcomes]
    times: Mapping[str, TimeOutcomes]
    new_B: Bool | None = None
    guesses: Mapping[str, Guesses] = field(default_factory=dict)
    coverage: Coverage | None = None
    guest_B: Bool | None = None
