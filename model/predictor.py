"""The predictor: ranks what really happened, then tells what comes next. It changes nothing.

For every state each component proposes items; all components score them; the ranker orders the RANKED most probable by
the mixture, the candidates. That order is what is published, so it is also what the evaluation ranks: a target that is
no candidate is a miss. One distribution serves lists, probabilities and log-loss. `unknown` has the share that every component gives it; of the
rest, p(i) = pi * softmax of the ranker on the candidates, and (1 - pi) * mixture(i) / mixture(not candidates) on the
other admitted items. What the first of a list is given is calibrated (`model.calibrator`) at the cost of its rivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.candidates import Candidates, features, union
from model.gaps import log_gaps
from model.guests import rows_of
from model.mixture import bucket, combine
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from model.contexts import Bool, Contexts, Float64, Int32, Int64
    from model.model import Model, Views
    from model.smoothing import Probability

MISS = np.int32(2**31 - 1)
"""The rank of what is not in the list."""
LIST_LENGTH = 20
"""Items that are ranked, and kept to see later how good the published list was."""
RANKED = 96
"""Candidates of a state at most: the most probable of all proposals by the mixture. What stands behind hardly ever rises."""
SMALLEST = 1e-12
"""Least probability of an admitted item."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How the event that happened was ranked from the state before it, for all B events (mask with `learn_B`).

    `p_BM` are the components' probabilities of it, `rank_MB` their own ranks, in the order of the mixture's names.
    """

    target_B: Rows
    guest_B: Bool  # whether the target first came in this micro-batch, and was known all the same
    rank_B: Int32
    top_p_B: Float64  # what the first of the list was given; 0: the list was empty
    top_raw_B: Float64  # the same before it was calibrated
    log_prob_B: Float64
    p_BM: Float64
    rank_MB: tuple[Int32, ...]
    emitted_rank_B: Int32
    bucket_B: Int64
    type_B: Rows
    type_p_BY: Probability | None
    log_gap_B: Float64  # log(1 + seconds since the user's previous event), NaN where unknown
    gap_quantiles_B3: Float64 | None
    repeat_B: Bool
    support: int  # admitted items when the micro-batch was scored
    unknown: float  # the rate of items that are not admitted, as of then
    views: Views
    candidates: Candidates
    column_B: Int64  # the target's place among the candidates of its state, -1 where it is not there


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
    """The candidates of every state with their probabilities, and the ordered list."""

    candidates: Candidates
    known_Q: Float64  # p of all items that the state can know
    covered_Q: Float64  # p of all candidates together
    p_QC: Probability
    rows_QK: Rows
    p_QK: Probability
    first_Q: Float64  # of the first of the list, before it was calibrated


class Predictor:
    """Reads a model; holds no state of its own."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, contexts: Contexts, *, exclude_seen: bool) -> tuple[Scores, Predictions]:
        """Score a micro-batch by the model as it is, and predict from the state after every event."""
        views = self.model.views(contexts)
        proposals = [view.propose(self.model.settings.proposals) for view in views.all]
        ranking = self._rank(contexts, views, proposals, exclude_seen=exclude_seen)
        type_p_QY, gap_Q3 = views.heads.type_p_QY, views.heads.time_Q3
        scores = self._score(contexts, views, proposals, ranking, type_p_QY, gap_Q3, exclude_seen=exclude_seen)
        return scores, self._publish(contexts, ranking, type_p_QY, gap_Q3)

    def _rank(
        self, contexts: Contexts, views: Views, proposals: list[tuple[Rows, Probability]], *, exclude_seen: bool
    ) -> _Ranking:
        """Order the candidates by the ranker."""
        candidates = self._candidates(contexts, views, proposals)
        states, rows_QC = np.arange(contexts.states), candidates.rows_QC
        size_Q = (rows_QC != UNKNOWN).sum(axis=1)
        buckets = bucket(contexts.state_position_Q + 1)
        known_Q = 1.0 - self._unknown(views)
        covered_Q = self.model.ranker.coverage(size_Q, buckets, views.smoothing.size()[:, 0]) * known_Q
        p_QC = self.model.ranker.shares(candidates) * covered_Q[:, None].astype(np.float32)
        left_out = rows_QC == UNKNOWN
        if exclude_seen:
            left_out |= views.own_items.holds(states, rows_QC)
        best_QK, p_QK = heaviest_columns(np.where(left_out, np.float32(-1.0), p_QC), LIST_LENGTH)
        rows_QK = np.where(p_QK > 0, np.take_along_axis(rows_QC, best_QK, axis=1), UNKNOWN)
        p_QK = np.maximum(p_QK, 0.0)
        first_Q = self._calibrate(p_QC, p_QK, best_QK[:, 0], covered_Q)
        return _Ranking(candidates, known_Q, covered_Q, p_QC, rows_QK, p_QK, first_Q)

    def _calibrate(self, p_QC: Probability, p_QK: Probability, first_column_Q: Int64, covered_Q: Float64) -> Float64:
        """Correct, in place, what the first of each list is given and what that leaves to the others.

        Returns what it was given before.
        """
        first_Q = p_QK[:, 0].astype(np.float64)
        given_Q, factor_Q = self.model.calibrator.correct(first_Q, p_QK[:, 1].astype(np.float64), covered_Q)
        p_QC *= factor_Q[:, None].astype(np.float32)
        p_QK *= factor_Q[:, None].astype(np.float32)
        p_QK[:, 0] = np.where(first_Q > 0.0, np.maximum(given_Q.astype(np.float32), p_QK[:, 1]), 0.0)
        lines = np.flatnonzero(first_Q > 0.0)
        p_QC[lines, first_column_Q[lines]] = p_QK[lines, 0]
        return first_Q

    def _candidates(self, contexts: Contexts, views: Views, proposals: list[tuple[Rows, Probability]]) -> Candidates:
        """Choose from all proposals by the mixture alone, also where what was seen will not be listed: that was better."""
        model, states = self.model, np.arange(contexts.states)
        rows_QC = union(np.concatenate([rows for rows, _ in proposals], axis=1), model.items.height, LIST_LENGTH)
        p_MQC = np.stack([view.score(states, rows_QC) for view in views.all])
        weights_MQ = model.mixture.weights(bucket(contexts.state_position_Q + 1)).T.astype(np.float32)
        mixture_QC = combine(p_MQC, weights_MQ)
        mixture_QC[rows_QC == UNKNOWN] = 0.0
        if rows_QC.shape[1] > RANKED:
            best_QC, mixture_QC = heaviest_columns(mixture_QC, RANKED)
            rows_QC = np.take_along_axis(rows_QC, best_QC, axis=1)
            place_QC = states[:, None] * p_MQC.shape[2] + best_QC
            p_MQC = np.take(p_MQC.reshape(len(p_MQC), -1), place_QC, axis=1)
        rows_RT = rows_of(contexts, model.items)
        told = features(
            contexts,
            rows_RT,
            rows_QC,
            p_MQC,
            mixture_QC,
            weights_MQ,
            model.statistics,
            model.embeddings,
            model.places,
        )
        return Candidates(rows_QC, mixture_QC, told)

    def _score(
        self,
        contexts: Contexts,
        views: Views,
        proposals: list[tuple[Rows, Probability]],
        ranking: _Ranking,
        type_p_QY: Probability | None,
        gap_Q3: Float64 | None,
        *,
        exclude_seen: bool,
    ) -> Scores:
        before = contexts.before_B.astype(np.int64)
        target_B = self.model.items.lookup(contexts.event_item_B)
        target_B[self.model.items.came(target_B) >= contexts.moment_Q[before]] = UNKNOWN  # it comes with this event
        p_BM = np.stack([view.score(before, target_B[:, None])[:, 0] for view in views.all], axis=-1)
        buckets = bucket(contexts.state_position_Q[before] + 1)
        found_BC = (ranking.candidates.rows_QC[before] == target_B[:, None]) & (target_B != UNKNOWN)[:, None]
        column_B = np.where(found_BC.any(axis=1), found_BC.argmax(axis=1), -1)
        repeat_B = views.own_items.holds(before, target_B[:, None])[:, 0] & (target_B != UNKNOWN)
        seen_QK = [_without_seen(rows, views, exclude_seen=exclude_seen) for rows, _ in proposals]
        rank_B = rank_in(ranking.rows_QK[before], target_B)
        return Scores(
            target_B,
            self.model.items.are_guests(target_B),
            rank_B,
            ranking.p_QK[before, 0].astype(np.float64),
            ranking.first_Q[before],
            np.log(self._probability(ranking, before, target_B, column_B, p_BM, buckets)),
            p_BM.astype(np.float64),
            tuple(rank_in(rows[before], target_B) for rows in seen_QK),
            self._emitted_rank(contexts, rank_B),
            buckets,
            self.model.types.lookup(contexts.event_type_B),
            None if type_p_QY is None else type_p_QY[before],
            log_gaps(contexts),
            None if gap_Q3 is None else gap_Q3[before],
            repeat_B,
            self.model.items.size,
            self.model.unknown.rate,
            views,
            ranking.candidates,
            column_B,
        )

    def _probability(
        self,
        ranking: _Ranking,
        before: Int64,
        target_B: Rows,
        column_B: Int64,
        p_BM: Probability,
        buckets: Int64,
    ) -> Float64:
        """Return p of each target: the ranker's among the candidates, its share of the mixture's rest elsewhere."""
        mixed_B = np.einsum("bm,bm->b", p_BM, self.model.mixture.weights(buckets))
        known_B = ranking.known_Q[before]
        outside_B = known_B - ranking.candidates.mixture_QC[before].sum(axis=1, dtype=np.float64)
        rest_B = (known_B - ranking.covered_Q[before]) * mixed_B / np.maximum(outside_B, mixed_B)
        listed_B = ranking.p_QC[before, np.maximum(column_B, 0)].astype(np.float64)
        p_B = np.maximum(np.where(column_B >= 0, listed_B, rest_B), SMALLEST)
        return np.where(target_B == UNKNOWN, 1.0 - known_B, p_B)

    def _unknown(self, views: Views) -> Float64:
        """Return p(unknown) of every state: all components say the same."""
        states = len(views.transformer.h_QD)
        return views.smoothing(np.zeros((states, 1)), np.zeros((states, 1), np.int32))[:, 0].astype(np.float64)

    def _emitted_rank(self, contexts: Contexts, rank_B: Int32) -> Int32:
        """Rank in what was published after the user's previous event; in the same micro-batch that is `rank_B`."""
        published = contexts.emitted_BK.any(axis=1)
        emitted = rank_in(contexts.emitted_BK, contexts.event_item_B)
        goes_on_R = contexts.earlier_R >= 0
        row_B, position_B = contexts.event_row_B, contexts.state_position_Q[contexts.before_B]
        in_batch = (position_B >= contexts.new_R[row_B]) | goes_on_R[row_B]
        return np.where(published, emitted, np.where(in_batch, rank_B, MISS)).astype(np.int32)

    def _publish(
        self, contexts: Contexts, ranking: _Ranking, type_p_QY: Probability | None, gap_Q3: Float64 | None
    ) -> Predictions:
        after = contexts.after_B
        rows_BK = ranking.rows_QK[after]
        seconds = None if gap_Q3 is None or not self.model.has_times else np.expm1(gap_Q3[after])
        types = None if type_p_QY is None else type_p_QY[after]
        return Predictions(rows_BK, self.model.items.keys(rows_BK), ranking.p_QK[after], types, seconds)


def heaviest_columns(p_QC: Probability, n: int) -> tuple[Int64, Probability]:
    """Return where the n largest of each line are, largest first, ties by column, and what they are.

    They are sorted as whole numbers, which is many times as fast: those of positive floats are in the order of their
    bits, and negative ones, of which the order is not told, come behind.
    """
    keys_QC = np.int64(2**31 - 1) - np.ascontiguousarray(p_QC).view(np.int32)
    keys_QC = (keys_QC << 30) | np.arange(p_QC.shape[1])
    best = np.sort(keys_QC, axis=1)[:, :n] & (2**30 - 1)
    return best, np.take_along_axis(p_QC, best, axis=1)


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
