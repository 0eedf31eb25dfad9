"""Champion and challenger: weights from before an action go on scoring a sample, to tell whether the action helped.

The copies do not learn. On the events of every n-th micro-batch or so, drawn by seed, the network's copy and the
network itself are asked for the probability of what happened, and so are both rankers, on the same lists. After a
stated number of events whichever is worse than its own past returns to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from incremental.drift import Detection
from model.state import State
from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Int64
    from model.model import Model
    from model.predictor import Scores
    from model.ranker import Ranker
    from model.transformer import Transformer

SMALLEST = 1e-12
PARTS = ("network", "ranker")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Mean loss in nats of the copy and of what came of it, on `scored` events; the better one stays."""

    part: str
    champion: float
    challenger: float
    scored: int

    @property
    def undone(self) -> bool:
        """Whether the copy was better."""
        return self.scored > 0 and self.champion < self.challenger


def verdicts_told(verdicts: Sequence[Verdict], event: int) -> list[Detection]:
    """Return verdicts as they are told: `before` is the loss of the copy, `after` what came of it."""
    return [
        Detection(
            event,
            f"champion/{v.part}",
            "paired",
            v.champion,
            v.challenger,
            f"roll_back_{v.part}" if v.undone else "keep",
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
        self._sums = {part: np.zeros(3) for part in PARTS}  # events, loss of the copy, loss of the present

    def score(self, contexts: Contexts, scores: Scores) -> None:
        """Compare both on a micro-batch, before it is learned."""
        known = np.flatnonzero(contexts.learn_B & ~contexts.first_B & (scores.target_B != UNKNOWN))
        if "transformer" in self._model.mixture.names:
            self._compare_networks(contexts, scores, known)
        listed = known[scores.column_B[known] >= 0]
        states, columns = contexts.before_B[listed].astype(np.int64), scores.column_B[listed]
        lists = scores.candidates.of(states)
        earlier, present = self._ranker.shares(lists), self._model.ranker.shares(lists)
        lines = np.arange(len(listed))
        self._add("ranker", earlier[lines, columns], present[lines, columns])

    def _compare_networks(self, contexts: Contexts, scores: Scores, known: Int64) -> None:
        self._reserve()
        if not bool((self._network.table.bias > -torch.inf).any()):  # none of its items is left
            return
        view = self._network.view(contexts, self._model.smoothing(contexts))
        earlier = view.score(contexts.before_B[known].astype(np.int64), scores.target_B[known][:, None])[:, 0]
        self._add("network", earlier, scores.p_BM[known, self._model.mixture.names.index("transformer")])

    def _add(self, part: str, earlier: Any, present: Any) -> None:
        losses = [-np.log(np.maximum(p, SMALLEST)).sum(dtype=np.float64) for p in (earlier, present)]
        self._sums[part] += [len(earlier), *losses]

    def verdicts(self) -> list[Verdict]:
        """Return how the comparison stands."""
        return [
            Verdict(part, earlier / max(count, 1.0), present / max(count, 1.0), int(count))
            for part, (count, earlier, present) in ((part, sums.tolist()) for part, sums in self._sums.items())
        ]

    def restore_network(self) -> None:
        """Let the network return to its copy."""
        self._model.transformer.return_to(self._network)

    def restore_ranker(self) -> None:
        """Let the ranker return to its copy."""
        self._model.ranker.load(self._ranker.state())

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
