"""The plan of a micro-batch: every number by which learning could differ, decided before anything is committed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from model.transformer import LearningStep

if TYPE_CHECKING:
    from incremental.policy import Action
    from incremental.settings import LearningSettings

REFERENCE_EVENTS = 256
"""The micro-batch for which learning rate and rehearsal are meant; smaller ones do proportionally less."""
REHEARSALS = 2
"""Rehearsed targets beside a new one for which dropout is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What the policy makes of a micro-batch. `half_life_events` 0: every memory its own.

    `rehearse_since`: only windows from this number on are rehearsed. `quarantine_above`: users whose loss is that many
    nats above the others' are not learned from; 0: all are, and `quarantine_paused` says whether the policy wants that.
    `score_champion`: the copy is compared on this micro-batch. `actions` begin with it.
    """

    learning_rate_factor: float = 1.0
    half_life_events: float = 0.0
    rehearse_since: int = 0
    quarantine_above: float = 0.0
    quarantine_paused: bool = False
    score_champion: bool = False
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class LearnPlan(Measures):
    """What will be learned from micro-batch `batch`, with which numbers. `learn` false: nothing changes.

    At most `rehearsal_windows` are rehearsed, as many as it takes to hold `rehearsal_targets`;
    `rehearsal_recent_share` of them are drawn from the latest `rehearsal_recent_windows`.
    """

    batch: int
    learn: bool
    learning_rate: float
    rehearsal_windows: int
    rehearsal_targets: float
    rehearsal_recent_share: float
    rehearsal_recent_windows: int
    seed: int
    exclude_seen: bool


def plan_of(values: dict[str, Any]) -> LearnPlan:
    """Return the plan whose fields these JSON values are. Raises TypeError or KeyError where they are not."""
    return LearnPlan(**values | {"actions": tuple(values.get("actions", ()))})


def active(plan: LearnPlan) -> dict[str, bool]:
    """Return the lasting actions of the policy, and whether a plan has them under way."""
    return {
        "short_half_lives": plan.half_life_events > 0.0,
        "rehearse_recent": plan.rehearse_since > 0,
        "boost_learning_rate": plan.learning_rate_factor > 1.0,
        "pause_quarantine": plan.quarantine_paused,
    }


def seed_for(seed: int, batch: int, purpose: str) -> int:
    """Derive the seed of one random draw from the worker's seed, the micro-batch and what it is for."""
    digest = blake2b(f"{seed}/{batch}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def learning_rate(settings: LearningSettings, learned: int, events: int) -> float:
    """Inverse square root decay down to a floor; scaled by the square root of a small micro-batch's share.

    The decay is by events `learned` so far, not by steps: a quiet topic, whose micro-batches are small, is no older.
    """
    decay = (1.0 + learned / settings.learning_rate_decay_events) ** -0.5
    share = min(1.0, events / REFERENCE_EVENTS) ** 0.5
    return float(settings.learning_rate * max(settings.learning_rate_floor, decay) * share)


def rehearsal_windows(settings: LearningSettings, events: int) -> int:
    """Rehearse in proportion to the new events, but a window at least: how often it is taken, its targets decide."""
    return max(
        round(settings.rehearsal_windows * events / REFERENCE_EVENTS), min(1, events, settings.rehearsal_windows)
    )


def rehearsal_targets(settings: LearningSettings, events: int) -> float:
    """Bound the rehearsed targets in proportion to the new events."""
    return settings.rehearsal_targets * events / REFERENCE_EVENTS


def dropout(share: float, new: int, rehearsed: float) -> float:
    """Drop the whole share where two rehearsed targets stand beside a new one: what is seen once cannot be overfitted."""
    return share * min(1.0, rehearsed / max(1, REHEARSALS * new))


def step_of(plan: LearnPlan, settings: LearningSettings, dropped: float) -> LearningStep:
    """Return the network's part of the plan."""
    return LearningStep(
        plan.learning_rate, settings.weight_decay, settings.gradient_clip, settings.negatives, dropped, plan.seed
    )
