"""The event type methods: the most frequent type, the user's previous type, and what follows that type.

Probabilities before the share ε that is spread over the K types seen so far and one more: the mode's are the shares
of the counts; `last` gives the previous type the share of repetitions so far, (repeats + 1) / (events + 2), and the
others the rest in proportion to their counts; `per_type` is Witten-Bell smoothed towards the counts.
"""

from __future__ import annotations

from math import log, nan

TYPE_METHODS = ("mode", "last", "per_type")
MAX_TYPES = 1024
"""Types told apart; later ones are one more type, `OTHER`."""
OTHER = 0

Guess = tuple[bool, float]
NO_GUESS: Guess = (False, nan)


class Tally:
    """Counts of types and the most frequent one; of equals, the first to get there."""

    __slots__ = ("guess", "of", "total")

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.total = 0
        self.guess: int | None = None

    def add(self, kind: int) -> None:
        """Count one event."""
        count = self.of.get(kind, 0) + 1
        self.of[kind] = count
        self.total += 1
        if self.guess is None or count > self.of[self.guess]:
            self.guess = kind

    def share(self, kind: int) -> float:
        """Return the type's share of the events."""
        return self.of.get(kind, 0) / self.total if self.total else 0.0


class TypeBaselines:
    """Guesses for the type of a user's next event from the type of the one before."""

    def __init__(self, epsilon: float) -> None:
        self._all = Tally()
        self._after: dict[int, Tally] = {}
        self._repeats = 0
        self._pairs = 0
        self._epsilon = epsilon

    def known(self, kind: int) -> int:
        """Return the key under which a type is counted."""
        return kind if kind in self._all.of or len(self._all.of) < MAX_TYPES else OTHER

    def score(self, kind: int, previous: int | None) -> list[Guess]:
        """Judge each of TYPE_METHODS; NO_GUESS while the stream has shown fewer than two types."""
        counts = self._all
        if len(counts.of) < 2:
            return [NO_GUESS] * len(TYPE_METHODS)
        mode = (counts.guess == kind, counts.share(kind))
        if previous is None:
            guesses = [mode, mode, mode]
        else:
            guesses = [mode, (previous == kind, self._last_share(kind, previous)), self._following(kind, previous)]
        floor = self._epsilon / (len(counts.of) + 1)
        return [(correct, log(floor + (1.0 - self._epsilon) * share)) for correct, share in guesses]

    def learn(self, kind: int, previous: int | None) -> None:
        """Count one event."""
        self._all.add(kind)
        if previous is not None:
            self._pairs += 1
            self._repeats += kind == previous
            self._after.setdefault(previous, Tally()).add(kind)

    def _last_share(self, kind: int, previous: int) -> float:
        again = (self._repeats + 1) / (self._pairs + 2)
        if kind == previous:
            return again
        others = 1.0 - self._all.share(previous)
        return (1.0 - again) * self._all.share(kind) / others if others > 0.0 else 0.0

    def _following(self, kind: int, previous: int) -> tuple[bool, float]:
        overall = self._all.share(kind)
        row = self._after.get(previous)
        if row is None:
            return self._all.guess == kind, overall
        distinct = len(row.of)
        return row.guess == kind, (row.of.get(kind, 0) + distinct * overall) / (row.total + distinct)
