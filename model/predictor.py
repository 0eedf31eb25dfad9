"""The predictor: ranks what really happened, then tells what comes next. It changes nothing.

For every state each component proposes candidates; their union is scored by all components; the mixture of the
scores orders it. That order is what is published, so it is also what the evaluation ranks: a target outside the
union is a miss. Probabilities of single items come from the same mixture and are defined for every item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.mixture import bucket
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from model.components import View
    from model.contexts import Bool, Contexts, Float64, Int32, Int64
    from model.model import Model
    from model.own_items import OwnItemsView
    from model.smoothing import Probability
    from model.transformer import TransformerView

MISS = np.int32(2**31 - 1)
"""The rank of what is not in the list."""
LIST_LENGTH = 20
"""Items that are ranked, and kept to see later how good the published list was."""


@dataclass(frozen=True, slots=True)
class Views:
    """One micro-batch through the eyes of every component."""

    transformer: TransformerView
    own_items: OwnItemsView
    all: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """How the event that happened was ranked from the state before it, for all B events (mask with `learn_B`).

    `p_BM` are the components' probabilities of it, `rank_MB` their own ranks, in the order of the mixture's names.
    """

    target_B: Rows
    rank_B: Int32
    log_prob_B: Float64
    p_BM: Float64
    rank_MB: tuple[Int32, ...]
    emitted_rank_B: Int32
    bucket_B: Int64
    type_B: Rows
    type_p_BY: Probability | None
    log_gap_B: Float64  # log(1 + seconds since the user's previous event), NaN where unknown
    gap_quantiles_B3: Float64
    repeat_B: Bool
    support: int  # admitted items when the micro-batch was scored
    unknown: float  # the rate of items that are not admitted, as of then
    views: Views


@dataclass(frozen=True, slots=True)
class Predictions:
    """What comes next after each event: LIST_LENGTH items with probabilities, event types, seconds (p10, p50, p90).

    `type_p_BY` is None where the stream has at most one type, `seconds_B3` where it has no times.
    """

    rows_BK: Rows
    keys_BK: Int64
    p_BK: Probability
    type_p_BY: Probability | None
    seconds_B3: Float64 | None


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The ordered list of every state."""

    rows_QK: Rows
    p_QK: Probability


class Predictor:
    """Reads a model; holds no state of its own."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, contexts: Contexts, *, exclude_seen: bool) -> tuple[Scores, Predictions]:
        """Score a micro-batch by the model as it is, and predict from the state after every event."""
        views = self._views(contexts)
        proposals = [view.propose(self.model.settings.proposals) for view in views.all]
        ranking = self._rank(contexts, views, proposals, exclude_seen=exclude_seen)
        type_p_QY = views.transformer.type_probabilities() if self.model.types.size > 1 else None
        gap_Q3 = views.transformer.time_quantiles()
        scores = self._score(contexts, views, proposals, ranking, type_p_QY, gap_Q3, exclude_seen=exclude_seen)
        return scores, self._publish(contexts, ranking, type_p_QY, gap_Q3)

    def _views(self, contexts: Contexts) -> Views:
        model, smoothing = self.model, self.model.smoothing
        transformer = model.transformer.view(contexts, smoothing)
        own = model.own_items.view(contexts, smoothing)
        return Views(transformer, own, (transformer, model.popularity.view(contexts, smoothing), own))

    def _rank(
        self, contexts: Contexts, views: Views, proposals: list[tuple[Rows, Probability]], *, exclude_seen: bool
    ) -> _Ranking:
        """Order the union of all proposals by the mixture."""
        rows_QC = distinct(np.concatenate([rows for rows, _ in proposals], axis=1))
        states = np.arange(contexts.states)
        p_QC = self._mix(contexts, views, states, rows_QC)
        left_out = rows_QC == UNKNOWN
        if exclude_seen:
            left_out |= views.own_items.holds(states, rows_QC)
        p_QC[left_out] = -1.0
        best = np.argpartition(-p_QC, LIST_LENGTH - 1, axis=1)[:, :LIST_LENGTH]
        rows, p = np.take_along_axis(rows_QC, best, axis=1), np.take_along_axis(p_QC, best, axis=1)
        order = np.lexsort((rows, -p), axis=-1)
        rows, p = np.take_along_axis(rows, order, axis=1), np.take_along_axis(p, order, axis=1)
        return _Ranking(np.where(p > 0, rows, UNKNOWN), np.maximum(p, 0.0))

    def _mix(self, contexts: Contexts, views: Views, states: Int64, rows_SC: Rows) -> Probability:
        p_SCM = np.stack([view.score(states, rows_SC) for view in views.all], axis=-1)
        return self.model.mixture.combine(p_SCM, bucket(contexts.state_position_Q[states] + 1))

    def _score(
        self,
        contexts: Contexts,
        views: Views,
        proposals: list[tuple[Rows, Probability]],
        ranking: _Ranking,
        type_p_QY: Probability | None,
        gap_Q3: Float64,
        *,
        exclude_seen: bool,
    ) -> Scores:
        before = contexts.before_B.astype(np.int64)
        target_B = self.model.items.lookup(contexts.event_item_B)
        p_BM = np.stack([view.score(before, target_B[:, None])[:, 0] for view in views.all], axis=-1)
        buckets = bucket(contexts.state_position_Q[before] + 1)
        log_prob_B = np.log(np.einsum("bm,bm->b", p_BM, self.model.mixture.weights(buckets)))
        repeat_B = views.own_items.holds(before, target_B[:, None])[:, 0] & (target_B != UNKNOWN)
        seen_QK = [_without_seen(rows, views, exclude_seen=exclude_seen) for rows, _ in proposals]
        rank_B = rank_in(ranking.rows_QK[before], target_B)
        return Scores(
            target_B,
            rank_B,
            log_prob_B,
            p_BM.astype(np.float64),
            tuple(rank_in(rows[before], target_B) for rows in seen_QK),
            self._emitted_rank(contexts, rank_B),
            buckets,
            self.model.types.lookup(contexts.event_type_B),
            None if type_p_QY is None else type_p_QY[before],
            _log_gaps(contexts),
            gap_Q3[before],
            repeat_B,
            self.model.items.size,
            self.model.unknown.rate,
            views,
        )

    def _emitted_rank(self, contexts: Contexts, rank_B: Int32) -> Int32:
        """Rank in what was published after the user's previous event; in the same micro-batch that is `rank_B`."""
        published = contexts.emitted_BK.any(axis=1)
        emitted = rank_in(contexts.emitted_BK, contexts.event_item_B)
        goes_on_R = np.ones(len(contexts.user_R), np.bool_)  # rows that go on where an earlier one of the user ended
        goes_on_R[np.unique(contexts.user_R, return_index=True)[1]] = False
        row_B, position_B = contexts.event_row_B, contexts.state_position_Q[contexts.before_B]
        in_batch = (position_B >= contexts.new_R[row_B]) | goes_on_R[row_B]
        return np.where(published, emitted, np.where(in_batch, rank_B, MISS)).astype(np.int32)

    def _publish(
        self, contexts: Contexts, ranking: _Ranking, type_p_QY: Probability | None, gap_Q3: Float64
    ) -> Predictions:
        after = contexts.after_B
        rows_BK = ranking.rows_QK[after]
        seconds = np.maximum(np.expm1(np.clip(gap_Q3[after], 0.0, 25.0)), 0.0) if self.model.has_times else None
        types = None if type_p_QY is None else type_p_QY[after]
        return Predictions(rows_BK, self.model.items.keys(rows_BK), ranking.p_QK[after], types, seconds)


def distinct(rows: Rows) -> Rows:
    """Return each line sorted, with every repetition replaced by UNKNOWN."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = UNKNOWN
    return rows


def rank_in(rows_BK: npt.NDArray[np.integer], target_B: npt.NDArray[np.integer]) -> Int32:
    """Return the 0-based place of each target in its list, MISS where it is not there or is unknown (0)."""
    found = (rows_BK == target_B[:, None]) & (target_B != UNKNOWN)[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1), MISS).astype(np.int32)


def _without_seen(rows_QK: Rows, views: Views, *, exclude_seen: bool) -> Rows:
    """Keep the first LIST_LENGTH of a component's own list, what was seen moved out of it."""
    if exclude_seen:
        held = views.own_items.holds(np.arange(len(rows_QK)), rows_QK)
        order = np.argsort(held, axis=1, kind="stable")
        rows_QK = np.take_along_axis(np.where(held, UNKNOWN, rows_QK), order, axis=1)
    return rows_QK[:, :LIST_LENGTH]


def _log_gaps(contexts: Contexts) -> Float64:
    """Return log(1 + seconds) from the user's previous event to each event, NaN where unknown."""
    position = contexts.state_position_Q[contexts.before_B]
    previous = contexts.times_RT[contexts.event_row_B, np.maximum(position, 0)]
    gap = np.maximum(contexts.event_time_B - previous, 0.0)
    return np.where(position >= 0, np.log1p(gap), np.nan)
