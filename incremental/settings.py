"""Settings of learning and of its evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from model.settings import IDENTITY, OPERATIONAL, Count, Positive, Section, Share


class LearningSettings(Section):
    """How the model follows the stream."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether this worker learns; without it the weights stay as they were loaded."""
    learning_rate: Positive = Field(4e-3, json_schema_extra=OPERATIONAL)
    """Peak learning rate of the network."""
    learning_rate_decay_steps: Positive = Field(1000.0, json_schema_extra=OPERATIONAL)
    """The rate falls as (1 + step / this) ** -0.5 ..."""
    learning_rate_floor: Share = Field(0.25, json_schema_extra=OPERATIONAL)
    """... down to this share of the peak: a stream never ends."""
    gradient_clip: Positive = Field(1.0, json_schema_extra=IDENTITY)
    """Largest norm of the gradient of the network's body."""
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, json_schema_extra=IDENTITY)
    """Decoupled weight decay of the network's body."""
    negatives: Count = Field(2048, json_schema_extra=IDENTITY)
    """Sampled items that each target is told apart from; all items where there are no more than this."""
    rehearsal_windows: Annotated[int, Field(ge=0)] = Field(128, json_schema_extra=OPERATIONAL)
    """Remembered windows of events that are learned again with every 256 new events ..."""
    rehearsal_targets: Count = Field(512, json_schema_extra=IDENTITY)
    """... as long as they hold no more events than about this; where windows are long, fewer are taken."""
    rehearsal_capacity: Count = Field(50_000, json_schema_extra=IDENTITY)
    """Windows that the rehearsal memory holds; the oldest is overwritten."""
    rehearsal_length: Annotated[int, Field(ge=2)] = Field(32, json_schema_extra=IDENTITY)
    """Events in a remembered window."""


class EvaluationSettings(Section):
    """Prequential evaluation beside the learning."""

    baselines: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether the counting baselines are computed and reported too (about 30 µs per event)."""
    max_users: Count = Field(1_000_000, json_schema_extra=OPERATIONAL)
    """Users that the per-user baselines remember; the one unseen for longest is dropped."""
