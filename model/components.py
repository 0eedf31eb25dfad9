"""The components by name, and their port: what the predictor asks of everything that can tell what a user does next.

Every component gives a distribution over the admitted items and one symbol `unknown` (row 0), already smoothed:
`model.smoothing` says how. It never changes while it predicts; it learns after it was scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Int64
    from model.smoothing import Probability
    from model.state import State
    from model.vocabulary import Rows


COUNTING = (
    "next_item",
    "transitions",
    "co_occurrence",
    "next_item_now",
    "transitions_now",
    "co_occurrence_now",
    "similar_sessions",
)
"""Components that have counted the current session by the time its next event is ranked."""
COMPONENTS = (
    "transformer",
    "recency_popularity",
    "popularity_now",
    "own_items",
    "own_counts",
    "replies",
    *COUNTING,
    "latest_items",
)
"""What can tell what comes next, in the order of the mixture's weights."""


def left_out(names: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in names.split(",") if name.strip()]


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
