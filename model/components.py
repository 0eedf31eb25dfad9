"""The component port: what the predictor asks of everything that can tell what a user does next.

Every component gives a distribution over the admitted items and one symbol `unknown` (row 0), already smoothed:
`model.smoothing` says how. It never changes while it predicts; it learns after it was scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Int64
    from model.smoothing import Probability, Smoothing
    from model.state import State
    from model.vocabulary import Rows


class View(Protocol):
    """A component's sight of one micro-batch: it holds what all questions about the same states share."""

    def propose(self, n: int) -> tuple[Rows, Probability]:
        """Return the component's best items of every state and their probabilities, [Q, n], best first.

        Places that are not filled hold row 0 and probability 0.
        """

    def score(self, states: Int64, rows: Rows) -> Probability:
        """Return the probability of `rows` [S, C] for some states [S]; row 0 asks for `unknown`."""


class Component(Protocol):
    """One way to tell what comes next."""

    name: str

    def view(self, contexts: Contexts, smoothing: Smoothing) -> View:
        """Look at a micro-batch; changes nothing."""

    def evict(self, rows: Sequence[int]) -> None:
        """Clear everything kept under these vocabulary rows."""

    def forget(self, user: int) -> None:
        """Remove what is kept about one user (by key), as far as it is kept by user."""

    def state(self) -> State:
        """Return everything that learning changed."""

    def load(self, state: State) -> None:
        """Become what `state` holds."""


def best_first(rows: Rows, p: Probability, n: int) -> tuple[Rows, Probability]:
    """Keep the n most probable of each line, best first, ties by row; pads to n. Shapes [S, M] to [S, n]."""
    order = np.lexsort((rows, -p), axis=-1)[:, :n]
    rows, p = np.take_along_axis(rows, order, axis=1), np.take_along_axis(p, order, axis=1)
    missing = n - rows.shape[1]
    if missing > 0:
        rows = np.pad(rows, ((0, 0), (0, missing)))
        p = np.pad(p, ((0, 0), (0, missing)))
    return rows, p
