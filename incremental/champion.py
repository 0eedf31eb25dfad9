"""Champion and challenger: weights from before an action go on scoring a sample, to tell whether the action helped.

The copies do not learn. On a share of the micro-batches the network's copy and the network itself are asked for the
probability of what happened: the item and, by their heads alone, the event type and the time until it. Both rankers are
asked too, on the same lists. After a stated number of events each of these parts that is worse than its own past, by
more than twice the standard error of the paired difference, returns to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from incremental.drift import Detection
from incremental.policy import RETURNS
from model.gaps import bin_of
from model.state import State
from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.policy import Action
    from model.contexts import Contexts, Int64
    from model.model import Model
    from model.predictor import Scores
    from model.ranker import Ranker
    from model.transformer import SmallHead, Transformer
    from model.transformer_view import TransformerView

SMALLEST = 1e-12
ERRORS = 2.0
"""Standard errors by which the copy must be better."""
HEADS: dict[str, SmallHead] = {"type_head": "event_type", "time_head": "next_event_s"}
PARTS = ("network", "ranker", *HEADS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Mean loss in nats of the copy and of what came of it, on `scored` events, and the standard error of the difference."""

    part: str
    champion: float
    challenger: float
    error: float
    scored: int

    @property
    def undone(self) -> bool:
        """Whether the copy was better, and not by chance."""
        return self.scored > 1 and self.champion + ERRORS * self.error < self.challenger


def verdicts_told(verdicts: Sequence[Verdict], event: int) -> list[Detection]:
    """Return verdicts as they are told: `before` is the loss of the copy, `after` what came of it."""
    return [
        Detection(
            event,
            f"champion/{v.part}",
            "paired",
            v.champion,
            v.challenger,
            RETURNS[v.part] if v.undone else "keep",
        )
        for v in verdicts
        if v.scored
    ]


class Champion:
    """Copies of the network and the ranker, and what they were worth since they were made."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._network: Transformer = model.transformer.copy()
        self._ranker: Ranker = model.ranker.copy()
        # events, loss of the copy, loss of the present, squares of the difference
        self._sums = {part: np.zeros(4) for part in PARTS}

    def score(self, contexts: Contexts, scores: Scores) -> None:
        """Compare both on a micro-batch, before it is learned."""
        known = np.flatnonzero(contexts.learn_B & ~contexts.first_B)
        before = contexts.before_B.astype(np.int64)
        self._reserve()
        view = self._network.view(contexts, self._model.smoothing(contexts))
        items = known[scores.target_B[known] != UNKNOWN]
        if "transformer" in self._model.mixture.names and bool((self._network.table.bias > -torch.inf).any()):
            earlier = view.score(before[items], scores.target_B[items][:, None])[:, 0]
            self._add("network", earlier, scores.p_BM[items, self._model.mixture.names.index("transformer")])
        self._compare_heads(contexts, scores, view, known)
        listed = items[scores.column_B[items] >= 0]
        lists, lines = scores.candidates.of(before[listed]), np.arange(len(listed))
        earlier, present = self._ranker.shares(lists), self._model.ranker.shares(lists)
        columns = scores.column_B[listed]
        self._add("ranker", earlier[lines, columns], present[lines, columns])

    def _compare_heads(self, contexts: Contexts, scores: Scores, view: TransformerView, known: Int64) -> None:
        before, now = contexts.before_B.astype(np.int64), scores.views.transformer
        typed = known[scores.type_B[known] != UNKNOWN]
        if self._model.types.size > 1 and len(typed):
            place = before[typed], scores.type_B[typed]
            self._add("type_head", view.type_probabilities()[place], now.type_probabilities()[place])
        timed = known[np.isfinite(scores.log_gap_B[known])]
        if len(timed):
            place, shares_QB = (before[timed], bin_of(scores.log_gap_B[timed])), self._model.heads.gaps.shares(contexts)
            self._add("time_head", view.time_probabilities(shares_QB)[place], now.time_probabilities(shares_QB)[place])

    def _add(self, part: str, earlier: Any, present: Any) -> None:
        then, now = (-np.log(np.maximum(p, SMALLEST), dtype=np.float64) for p in (earlier, present))
        self._sums[part] += [len(then), then.sum(), now.sum(), ((now - then) ** 2).sum()]

    def verdicts(self) -> list[Verdict]:
        """Return how the comparison stands."""
        return [_verdict(part, *sums.tolist()) for part, sums in self._sums.items()]

    def restore(self, action: Action) -> None:
        """Let what `action` names return to its copy."""
        if action == RETURNS["network"]:
            self._model.transformer.return_to(self._network)
        elif action == RETURNS["ranker"]:
            self._model.ranker.load(self._ranker.state())
        for part, head in HEADS.items():
            if action == RETURNS[part]:
                self._model.transformer.return_head_to(self._network, head)

    def evict(self, rows: Sequence[int]) -> None:
        """Forget evicted rows here too."""
        self._reserve()
        self._network.evict(rows)

    def _reserve(self) -> None:
        """Make room for items that came since; they are unknown to the copy."""
        self._network.table.reserve(self._model.items.height)

    def state(self) -> State:
        """Return the copies and the sums."""
        state = State({part: sums.copy() for part, sums in self._sums.items()})
        state.put("network_copy", self._network.state())
        state.put("ranker_copy", self._ranker.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._sums = {part: state.arrays[part].copy() for part in PARTS}
        self._network.load(state.take("network_copy"))
        self._ranker.load(state.take("ranker_copy"))


def _verdict(part: str, scored: float, earlier: float, present: float, squares: float) -> Verdict:
    count = max(scored, 1.0)
    difference = (present - earlier) / count
    variance = max(squares / count - difference**2, 0.0)
    return Verdict(part, earlier / count, present / count, sqrt(variance / max(scored - 1.0, 1.0)), int(scored))
