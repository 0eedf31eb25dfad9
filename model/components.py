"""The component port: what the predictor asks of everything that can tell what a user does next.

Every component gives a distribution over the admitted items and one symbol `unknown` (row 0), already smoothed:
`model.smoothing` says how. It never changes while it predicts; it learns after it was scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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


class Memory(Protocol):
    """Something that learns by counting or by gradient, and what is kept in it. Its views are its own affair."""

    name: str

    def evict(self, rows: Sequence[int]) -> None:
        """Clear everything kept under these vocabulary rows."""

    def forget(self, user: int) -> None:
        """Remove what is kept about one user (by key), as far as it is kept by user."""

    def state(self) -> State:
        """Return everything that learning changed."""

    def load(self, state: State) -> None:
        """Become what `state` holds."""


class Component(Memory, Protocol):
    """A memory that looks at a micro-batch in one way."""

    def view(self, contexts: Contexts, smoothing: Smoothing) -> View:
        """Look at a micro-batch; changes nothing."""
