"""Prequential evaluation: each event is ranked before it is learned, and the ranks are summed up as the stream goes.

Shape legend: B events of a micro-batch, S sums (the first one counts events), P parts of the stream.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from incremental.calibration import coverage_sums, covered, guess_sums, reliability
from incremental.outcomes import FIRST, SCORED, Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from incremental.outcomes import ItemOutcomes
    from model.contexts import Bool, Float64

ITEM_METRICS = ("hr@10", "ndcg@10", "mrr@10", "recall@20", "mrr@20", "log_loss")
HEAD_METRICS = {"event_type": ("accuracy", "log_loss"), "next_event_s": ("mae_log", "pinball")}
K = (10, 20)
WINDOWS = 10
RECENT_POPULARITY = "recent_popularity"
OURS = "tidemill"
"""The name of the model among the methods."""

_MAX_PARTS = 1280
_RECENT_CHUNKS = 5

Metrics = dict[str, float]


class Parts:
    """Sums over equal parts of a stream whose length is not known in advance.

    Parts begin with one event each. When there are `limit` of them, neighbours are merged and each holds twice as
    many. So memory is bounded, no sum is lost, and at least half the limit is there to be folded into windows.
    """

    def __init__(self, limit: int = _MAX_PARTS) -> None:
        self.limit = limit
        self.size = 1  # events per part
        self.events = 0
        self.sums: dict[str, Float64] = {}  # method → PS

    def add(self, values: Mapping[str, Float64]) -> None:
        """Add the BS values of the next B events per method."""
        count = max((len(rows) for rows in values.values()), default=0)
        while self.events + count > self.limit * self.size:
            self._merge()
        part_B = (self.events + np.arange(count)) // self.size
        for method, values_BS in values.items():
            sums_PS = self.sums.setdefault(method, np.zeros((self.limit, values_BS.shape[1])))
            np.add.at(sums_PS, part_B, values_BS)
        self.events += count

    def totals(self) -> dict[str, Float64]:
        """Return the sums over all parts per method."""
        return {method: sums_PS.sum(axis=0) for method, sums_PS in self.sums.items()}

    def windows(self, count: int) -> list[tuple[int, dict[str, Float64]]]:
        """Fold the parts into at most `count` windows of about equal size: their events, and sums per method."""
        used = -(-self.events // self.size)
        edges = [round(window * self.events / count / self.size) for window in range(count)] + [used]
        return [
            (
                min(stop * self.size, self.events) - start * self.size,
                {method: sums_PS[start:stop].sum(axis=0) for method, sums_PS in self.sums.items()},
            )
            for start, stop in pairwise(edges)
            if stop > start
        ]

    def _merge(self) -> None:
        half = self.limit // 2
        for sums_PS in self.sums.values():
            sums_PS[:half] = sums_PS.reshape(half, 2, -1).sum(axis=1)
            sums_PS[half:] = 0.0
        self.size *= 2


class Prequential:
    """Sums of all methods' outcomes: overall, over ten windows, over users' first events, over new items, and lately.

    `recent` looks at the latest five chunks of about `window_events` scored events. A head counts an event only
    where every one of its methods has a number, so that all are compared on the same events.
    """

    def __init__(self, window_events: int = 1000) -> None:
        self._window_events = window_events
        self._items = Parts()
        self._first: dict[str, Float64] = {}
        self._new: dict[str, Float64] = {}
        self._guests: dict[str, Float64] = {}
        self._calibration: dict[str, Float64] = {}  # head → sums of `incremental.calibration`
        self._emitted: dict[str, Float64] = {}
        self._heads: dict[str, Float64] = {}  # "head/method" → S
        self._recent: deque[dict[str, Float64]] = deque([{}], maxlen=_RECENT_CHUNKS)  # "items/…" and "head/method"
        self._chunk_events = 0

    @property
    def scored(self) -> int:
        """Scored events so far."""
        return self._items.events

    @property
    def methods(self) -> list[str]:
        """Names of all methods on the next item so far; recent popularity has one per half-life."""
        return list(self._items.sums)

    def update(self, outcomes: Outcomes) -> None:
        """Add one micro-batch, in stream order."""
        scored_B, first_B = outcomes.kind_B == SCORED, outcomes.kind_B == FIRST
        values = {name: _item_values(method, scored_B) for name, method in outcomes.items.items()}
        self._items.add(values)
        _accumulate(self._first, {name: _item_values(method, first_B) for name, method in outcomes.items.items()})
        for group, chosen_B in ((self._new, outcomes.new_B), (self._guests, outcomes.guest_B)):
            if chosen_B is not None:
                chosen_S = chosen_B[scored_B]
                _accumulate(group, {name: rows[chosen_S] for name, rows in values.items()})
        self._calibrate(outcomes, scored_B)
        if outcomes.emitted is not None:
            _accumulate(self._emitted, {OURS: _item_values(outcomes.emitted, scored_B)[:, :-1]})
        heads = _head_values(outcomes, scored_B)
        _accumulate(self._heads, heads)
        self._remember({f"items/{name}": rows for name, rows in values.items()} | heads, int(scored_B.sum()))

    def _calibrate(self, outcomes: Outcomes, scored_B: Bool) -> None:
        sums = {head: guess_sums(guesses, scored_B) for head, guesses in outcomes.guesses.items()}
        if outcomes.coverage is not None:
            sums["next_event_s"] = coverage_sums(outcomes.coverage, scored_B)
        for head, added in sums.items():
            self._calibration[head] = self._calibration[head] + added if head in self._calibration else added

    def recent(self, method: str) -> Metrics:
        """Return the item metrics of one method over the latest 5,000 or so scored events; empty without any."""
        return _means(self._recent_sums().get(f"items/{method}"), ITEM_METRICS)

    def recent_heads(self) -> dict[str, dict[str, Metrics]]:
        """Return head → method → metrics over the latest 5,000 or so scored events."""
        heads = {name: sums_S for name, sums_S in self._recent_sums().items() if not name.startswith("items/")}
        return _by_head(heads)

    def result(self) -> dict[str, Any]:
        """Return the parts of the summary: `metrics`, `emitted`, `first_events` and so on up to `windows`.

        Of the half-lives of recent popularity the best by hit rate @10 over the whole stream stands for all.
        """
        totals = self._items.totals()
        best = _best_recent(totals)
        calibration = {
            head: covered(sums) if head == "next_event_s" else reliability(sums)
            for head, sums in self._calibration.items()
            if sums.any()
        }
        tables = {"metrics": _item_table(totals, best)} | _by_head(self._heads)
        for table, head in (("metrics", "item"), ("event_type", "event_type")):
            if head in calibration and OURS in tables.get(table, {}):
                tables[table][OURS]["ece"] = calibration[head]["ece"]
        return {
            "metrics": tables.pop("metrics"),
            "emitted": {name: _means(sums_S, ITEM_METRICS[:-1]) for name, sums_S in self._emitted.items() if sums_S[0]},
            "first_events": _item_table(self._first, best),
            "new_items": _item_table(self._new, best),
            "same_batch_items": {"events": _events(self._guests)} | _item_table(self._guests, best),
            "heads": tables,
            "calibration": calibration,
            "windows": [{"events": events} | _item_table(sums, best) for events, sums in self._items.windows(WINDOWS)],
        }

    def _remember(self, values: Mapping[str, Float64], events: int) -> None:
        if self._chunk_events >= self._window_events:
            self._recent.append({})
            self._chunk_events = 0
        _accumulate(self._recent[-1], values)
        self._chunk_events += events

    def _recent_sums(self) -> dict[str, Float64]:
        sums: dict[str, Float64] = {}
        for chunk in self._recent:
            for name, sums_S in chunk.items():
                sums[name] = sums[name] + sums_S if name in sums else sums_S
        return sums


def _item_values(method: ItemOutcomes, chosen_B: Bool) -> Float64:
    """Return BS: one, and each of ITEM_METRICS, for the chosen events. One target per event: recall is a hit."""
    rank_B = method.rank_B[chosen_B].astype(np.float64)
    top10_B, top20_B = rank_B < K[0], rank_B < K[1]
    reciprocal_B = 1.0 / (rank_B + 1.0)
    columns = (
        np.ones_like(rank_B),
        top10_B,
        top10_B / np.log2(rank_B + 2.0),
        top10_B * reciprocal_B,
        top20_B,
        top20_B * reciprocal_B,
        -method.log_prob_B[chosen_B],
    )
    return np.stack(columns, axis=1)


def _head_values(outcomes: Outcomes, scored_B: Bool) -> dict[str, Float64]:
    """Return "head/method" → BS over the scored events for which all methods of the head have numbers."""
    heads = {
        "event_type": {
            name: np.stack([types.correct_B.astype(np.float64), -types.log_prob_B], axis=1)
            for name, types in outcomes.types.items()
        },
        "next_event_s": {
            name: np.stack([times.abs_log_error_B, times.pinball_B], axis=1) for name, times in outcomes.times.items()
        },
    }
    values: dict[str, Float64] = {}
    for head, methods in heads.items():
        counted_B = scored_B.copy()
        for numbers in methods.values():
            counted_B &= ~np.isnan(numbers).any(axis=1)  # an infinite loss stays, to be seen
        for name, numbers in methods.items():
            rows = numbers[counted_B]
            values[f"{head}/{name}"] = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    return values


def _accumulate(sums: dict[str, Float64], values: Mapping[str, Float64]) -> None:
    for name, values_BS in values.items():
        added_S = values_BS.sum(axis=0)
        sums[name] = sums[name] + added_S if name in sums else added_S


def _means(sums_S: Float64 | None, names: tuple[str, ...]) -> Metrics:
    if sums_S is None or not sums_S[0]:
        return {}
    return dict(zip(names, (sums_S[1:] / sums_S[0]).tolist(), strict=True))


def _by_head(sums: Mapping[str, Float64]) -> dict[str, dict[str, Metrics]]:
    heads: dict[str, dict[str, Metrics]] = {}
    for name, sums_S in sums.items():
        head, _, method = name.partition("/")
        if sums_S[0]:
            heads.setdefault(head, {})[method] = _means(sums_S, HEAD_METRICS[head])
    return heads


def _best_recent(totals: Mapping[str, Float64]) -> str | None:
    variants = [name for name in totals if name.startswith(f"{RECENT_POPULARITY}@")]
    return max(variants, key=lambda name: totals[name][1], default=None)


def _events(sums: Mapping[str, Float64]) -> int:
    """Return how many events were summed up, the same for all methods."""
    return int(max((sums_S[0] for sums_S in sums.values()), default=0))


def _item_table(sums: Mapping[str, Float64], best: str | None) -> dict[str, Metrics]:
    """Return method → metrics; the best half-life takes the name of all and the others are left out."""
    table: dict[str, Metrics] = {}
    for name, sums_S in sums.items():
        if not sums_S[0] or (name.startswith(f"{RECENT_POPULARITY}@") and name != best):
            continue
        table[RECENT_POPULARITY if name == best else name] = _means(sums_S, ITEM_METRICS)
    return table
