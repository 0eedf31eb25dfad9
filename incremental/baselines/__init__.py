"""Counting methods that need no training, updated event by event: what the model has to beat.

They share no code with the model's own counting components, so a mistake in one cannot hide in the other.
"""

from __future__ import annotations

from incremental.baselines.baselines import Baselines

__all__ = ["Baselines"]
