"""Evaluation as the stream goes: the model, its components and the baselines on every event, before it is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from incremental.appearances import Appearances
from incremental.baselines import Baselines
from incremental.baselines.event_types import OTHER
from incremental.degradation import Degradation
from incremental.drift import SEGMENT_LOSS, Detection, DriftMonitor
from incremental.outcomes import (
    FIRST,
    IGNORED,
    MISS,
    SCORED,
    Coverage,
    Guesses,
    ItemOutcomes,
    Observed,
    Outcomes,
    TimeOutcomes,
    TypeOutcomes,
)
from incremental.prequential import Prequential
from incremental.segments import Segments
from incremental.signals import OURS, Signals, names
from model.gaps import CELL, QUANTILES
from model.mixture import BUCKETS
from model.state import State
from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.settings import DriftSettings, EvaluationSettings
    from model.contexts import Bool, Contexts, Float64, Int64
    from model.predictor import Scores
    from model.settings import ModelSettings


class Evaluation:
    """Sums of all methods, and the drift monitor over the model's own losses. `published`: items of a prediction."""

    def __init__(
        self,
        settings: EvaluationSettings,
        drift: DriftSettings,
        components: list[str],
        history_length: int,
        model: ModelSettings,
        published: int,
    ) -> None:
        self._published = published
        self._components, self._epsilon, self._max_types = components, model.epsilon, model.max_types
        self._baselines = Baselines(history_length, model.epsilon, settings.max_users) if settings.baselines else None
        self.prequential = Prequential()
        self._appearances = Appearances()
        self.signals = Signals(components, model.max_types + 1)
        self.degradation = Degradation(drift)
        self.drift = DriftMonitor(names(components), drift.warm_up_events) if drift.enabled else None
        self._segments = Segments(drift) if drift.enabled and drift.segment else None

    @property
    def watched(self) -> list[str]:
        """Names of the signals in which drift is looked for."""
        if self.drift is None:
            return []
        return [*names(self._components), *((SEGMENT_LOSS,) if self._segments else ())]

    @property
    def segments(self) -> Sequence[str]:
        """The segments that are watched apart so far."""
        return self._segments.names if self._segments else ()

    def update(
        self,
        contexts: Contexts,
        scores: Scores,
        *,
        exclude_seen: bool,
        event: int,
        watched_B: Bool | None = None,
        segment_B: Sequence[str | None] = (),
    ) -> list[Detection]:
        """Take in a scored micro-batch that begins with event number `event`; return the drifts that it revealed.

        Drift is looked for in the events `watched_B` alone; None: in all. `segment_B` are their values of the feature
        `drift.segment`, where that is set.
        """
        kind_B = np.where(contexts.learn_B, np.where(contexts.first_B, FIRST, SCORED), IGNORED).astype(np.uint8)
        observed = Observed(
            kind_B,
            contexts.event_user_B,
            contexts.event_item_B,
            self._told_apart(contexts.event_type_B, scores),
            contexts.event_time_B,
            scores.target_B != 0,
            scores.support,
            exclude_seen,
        )
        outcomes = self._outcomes(observed, scores)
        self.prequential.update(outcomes)
        if self.drift is None:
            return []
        known_B = scores.bucket_B == len(BUCKETS)
        values = self.signals.values(observed, outcomes, scores.type_B, scores.log_gap_B, known_B, watched_B)
        alarms = self.drift.update(values, event)
        if self._segments is not None:
            watched_B = (kind_B == SCORED) if watched_B is None else watched_B & (kind_B == SCORED)
            alarms += self._segments.update(segment_B, -scores.log_prob_B, watched_B, event)
        return alarms + self.degradation.update(self.drift, alarms, event)

    def _told_apart(self, type_B: Int64, scores: Scores) -> Int64:
        """Return the types that the baselines are to guess: what the model's full vocabulary lacks is one type to all."""
        full = scores.type_p_BY is not None and scores.type_p_BY.shape[1] > self._max_types
        return np.where(scores.type_B == UNKNOWN, OTHER, type_B) if full else type_B

    def _outcomes(self, observed: Observed, scores: Scores) -> Outcomes:
        items, types, times = self._baselines.observe(observed) if self._baselines else ({}, {}, {})
        items = {name: self._charged_alike(outcomes, observed, scores.unknown) for name, outcomes in items.items()}
        items = {OURS: ItemOutcomes(scores.rank_B, scores.log_prob_B)} | items
        for index, name in enumerate(self._components):
            items[name] = ItemOutcomes(scores.rank_MB[index], np.log(scores.p_BM[:, index]))
        types = {} if scores.type_p_BY is None else {OURS: _types(scores)} | types
        named_B = scores.type_B != UNKNOWN  # whoever guesses that a type is none of those told apart says nothing
        types = {name: TypeOutcomes(told.correct_B & named_B, told.log_prob_B) for name, told in types.items()}
        times = {} if scores.gap_quantiles_B3 is None else {OURS: _times(scores)} | times
        emitted_B = np.where(scores.emitted_rank_B < self._published, scores.emitted_rank_B, MISS)
        emitted = ItemOutcomes(emitted_B, np.full(len(scores.rank_B), np.nan))
        new_B = self._appearances.observe(observed.item_B, observed.kind_B != IGNORED)
        return Outcomes(
            observed.kind_B, items, emitted, types, times, new_B, _guesses(scores), _coverage(scores), scores.guest_B
        )

    def _charged_alike(self, baseline: ItemOutcomes, observed: Observed, unknown: float) -> ItemOutcomes:
        """Let a baseline keep the model's share for `unknown`: nobody wins log-loss by guessing how often that comes.

        Probabilities of known items are scaled by one minus that share, as the components' are.
        """
        floor = self._epsilon / (observed.support + 1)
        known_B = (1.0 - unknown) * (np.exp(baseline.log_prob_B) - floor) + floor
        p_B = np.where(observed.admitted_B, known_B, (1.0 - self._epsilon) * unknown + floor)
        return ItemOutcomes(baseline.rank_B, np.log(p_B))

    def state(self) -> State:
        """Return the drift monitor; the sums begin anew with the process."""
        state = State(values={"drift": {} if self.drift is None else self.drift.state()})
        state.put("signals", self.signals.state())
        state.put("degradation", self.degradation.state())
        if self._segments is not None:
            state.put("segments", self._segments.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds; where nothing is watched, nothing is degraded: it would never end."""
        self.signals.load(state.take("signals"))
        if self.drift is not None:
            self.degradation.load(state.take("degradation"))
            self.drift.load_state(state.values["drift"])
        if self._segments is not None and "segments" in state.values:
            self._segments.load(state.take("segments"))


def _types(scores: Scores) -> TypeOutcomes:
    p_BY = scores.type_p_BY
    assert p_BY is not None  # noqa: S101 - the caller has looked
    p_B = p_BY[np.arange(len(p_BY)), scores.type_B].astype(np.float64)
    return TypeOutcomes(p_BY.argmax(axis=1) == scores.type_B, np.log(p_B))


def _guesses(scores: Scores) -> dict[str, Guesses]:
    confidence_B = np.where(scores.top_p_B > 0.0, scores.top_p_B, np.nan)
    guesses = {"item": Guesses(confidence_B, scores.rank_B == 0)}
    if scores.type_p_BY is not None:
        p_BY = scores.type_p_BY.astype(np.float64)
        guesses["event_type"] = Guesses(p_BY.max(axis=1), p_BY.argmax(axis=1) == scores.type_B)
    return guesses


def _coverage(scores: Scores) -> Coverage | None:
    if scores.gap_quantiles_B3 is None:
        return None
    error_B3 = scores.log_gap_B[:, None] - scores.gap_quantiles_B3
    return Coverage(np.isfinite(scores.log_gap_B), error_B3 < -CELL, np.abs(error_B3) <= CELL)


def _times(scores: Scores) -> TimeOutcomes:
    assert scores.gap_quantiles_B3 is not None  # noqa: S101 - the caller has looked
    error_B3 = scores.log_gap_B[:, None] - scores.gap_quantiles_B3
    level: Float64 = np.array(QUANTILES)
    pinball_B = np.maximum(level * error_B3, (level - 1.0) * error_B3).mean(axis=1)
    return TimeOutcomes(np.abs(error_B3[:, 1]), pinball_B)
