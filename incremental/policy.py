"""The policy: a table from a signal and the size of its rise to what is done about it. Nothing here has a state.

tests/bench/LOG.md has the figures that the table and the switches' defaults come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from incremental.settings import PolicySettings

Action = Literal[
    "pause_quarantine",
    "short_half_lives",
    "rehearse_recent",
    "boost_learning_rate",
    "restart_mixture",
    "restart_ranker",
    "restart_items",
    "restart_type_head",
    "restart_time_head",
    "keep_champion",
    "roll_back_network",
    "roll_back_ranker",
    "roll_back_type_head",
    "roll_back_time_head",
    "dismiss_champion",
]

ACTIONS: tuple[Action, ...] = get_args(Action)
OBSERVE = "observe"
"""Stands where nothing is done."""
GUARDED: frozenset[Action] = frozenset(
    {
        *("rehearse_recent", "boost_learning_rate"),
        *("restart_items", "restart_type_head", "restart_time_head", "restart_ranker"),
    }
)
"""Before these a copy of network and ranker is put aside, to return to."""
RETURNS: dict[str, Action] = {
    "network": "roll_back_network",
    "ranker": "roll_back_ranker",
    "type_head": "roll_back_type_head",
    "time_head": "roll_back_time_head",
}
"""What returns a part of the model to its copy."""
SWITCHES: dict[Action, str] = {
    **dict.fromkeys(("restart_type_head", "restart_time_head"), "restart_heads"),
    **dict.fromkeys(("keep_champion", *RETURNS.values()), "roll_back"),
}
"""Switches that are not called as their action."""
LEAST_HIT_RATE = 0.05
"""Where fewer of the events were hits, what is lost of them within six blocks of 32 is chance: ten are expected at least."""


LOSSES_OF_HITS = frozenset({"misses", "misses/known", "lost_hits"})
SURELY_LOST, STANDARD_ERRORS, FEWEST_USERS = 0.5, 3.0, 2.0
"""So large a share of the hits must be lost, so many standard errors off: few users who are hard to predict are no new
world. A rule of thumb: the error of a share is none at 1, so nearly all hits of two users will do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rise of `signal` whose size is at least `least` calls for `actions`, in this order.

    A loss of hits must be sure too, see `surely_lost`.
    """

    signal: str
    least: float
    actions: tuple[Action, ...]


NEW_WORLD: tuple[Action, ...] = (
    "pause_quarantine",
    "short_half_lives",
    "rehearse_recent",
    "boost_learning_rate",
    "restart_items",
    "restart_mixture",
    "restart_ranker",
)
"""For a change after which little of what was learned is still true; who acted after it is then no stranger."""

TABLE: tuple[Rule, ...] = (
    Rule("lost_hits", 0.7, NEW_WORLD),
    Rule("misses", 0.75, NEW_WORLD),
    Rule("event_type/log_loss", 0.3, ("restart_type_head",)),
    Rule("next_event_s/pinball", 0.3, ("restart_time_head",)),
)
"""Of the rules of one signal the first that fits holds; a signal that is not here is only reported."""


def size(signal: str, before: float, after: float) -> float:
    """Return how large a rise is: of misses the share of all hits that was lost, 0 where hits are rare; else the difference."""
    if signal not in LOSSES_OF_HITS:
        return after - before
    hit_rate = 1.0 - before
    return (after - before) / hit_rate if hit_rate >= LEAST_HIT_RATE else 0.0


def surely_lost(share: float, users: float) -> float:
    """Return the share of hits that is lost at least, where it was seen on so many users: hits of one user go together.

    Nothing is sure of what fewer than two lost.
    """
    if users < FEWEST_USERS:
        return 0.0
    return share - STANDARD_ERRORS * sqrt(max(0.0, share * (1.0 - share)) / users)


def respond(signal: str, rise: float, settings: PolicySettings, users: float = inf) -> tuple[Action, ...]:
    """Return what a rise of a signal, seen on so many users, calls for, as far as the settings allow it."""
    if signal in LOSSES_OF_HITS and surely_lost(rise, users) < SURELY_LOST:
        return ()
    for rule in TABLE:
        if rule.signal == signal and rise >= rule.least:
            return tuple(action for action in rule.actions if allowed(action, settings))
    return ()


def allowed(action: Action, settings: PolicySettings) -> bool:
    """Return whether the settings allow an action; a copy may always be dismissed."""
    return action == "dismiss_champion" or (settings.enabled and bool(getattr(settings, SWITCHES.get(action, action))))
