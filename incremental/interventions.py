"""What the policy orders to be done once, between two micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from incremental.champion import Champion
from incremental.policy import RETURNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from incremental.plan import LearnPlan
    from incremental.policy import Action
    from model.model import Model


def intervene(model: Model, champion: Champion | None, plan: LearnPlan, seed: int) -> Champion | None:
    """Do what a plan orders, in its order; returns the copy of the weights that is kept from now on."""
    restarts = _restarts(model, seed)
    for action in plan.actions:
        if action == "keep_champion":
            champion = Champion(model)
        elif action == "dismiss_champion":
            champion = None
        elif action in restarts:
            restarts[action]()
        elif champion is not None and action in RETURNS.values():
            champion.restore(action)
    return champion


def _restarts(model: Model, seed: int) -> Mapping[Action, Callable[[], None]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "restart_items": lambda: model.transformer.table.restart(generator),
        "restart_type_head": lambda: model.transformer.restart_head("event_type", generator),
        "restart_time_head": lambda: model.transformer.restart_head("next_event_s", generator),
        "restart_mixture": model.mixture.restart,
        "restart_ranker": lambda: model.ranker.restart(seed),
    }
