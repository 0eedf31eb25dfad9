"""Settings of learning and of its evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from model.settings import IDENTITY, OPERATIONAL, Count, HalfLife, Positive, Section, Share


class LearningSettings(Section):
    """How the model follows the stream."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether this worker learns; without it the weights stay as they were loaded."""
    learning_rate: Positive = Field(8e-3, json_schema_extra=OPERATIONAL)
    """Peak learning rate of the network."""
    learning_rate_decay_events: Positive = Field(64_000.0, json_schema_extra=OPERATIONAL)
    """The rate falls as (1 + events learned / this) ** -0.5 ..."""
    learning_rate_floor: Share = Field(0.125, json_schema_extra=OPERATIONAL)
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
    rehearsal_recent_share: Share = Field(0.0, json_schema_extra=OPERATIONAL)
    """Share of the rehearsed windows that is drawn from the latest ..."""
    rehearsal_recent_windows: Count = Field(1_000, json_schema_extra=OPERATIONAL)
    """... so many windows; the rest from all."""


class EvaluationSettings(Section):
    """Prequential evaluation beside the learning."""

    baselines: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether the counting baselines are computed and reported too (about 30 µs per event, 1 to 12 kB
    per user)."""
    max_users: Count = Field(1_000_000, json_schema_extra=OPERATIONAL)
    """Users that the per-user baselines remember; the one unseen for longest is dropped."""


class DriftSettings(Section):
    """Watching for drift."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether the signals are watched; without it no policy acts."""
    warm_up_events: Annotated[int, Field(ge=0)] = Field(10_000, json_schema_extra=OPERATIONAL)
    """Events at the beginning of a lineage that are not watched: there everything changes."""
    recovery_window_events: Annotated[int, Field(ge=32, le=65_536)] = Field(2048, json_schema_extra=OPERATIONAL)
    """The model has recovered when its mean log-loss over so many events is back at what it was ..."""
    recovery_slack: Share = Field(0.1, json_schema_extra=OPERATIONAL)
    """... but for this share of the rise."""
    new_normal_after_events: Count = Field(200_000, json_schema_extra=OPERATIONAL)
    """What has not recovered after so many events is the usual level from then on."""

    segment: str = Field("", json_schema_extra=OPERATIONAL)
    """Watch the log-loss per value of this feature too, such as `country`; `input.map` must map it. Empty: do not."""
    max_segments: Annotated[int, Field(ge=1, le=63)] = Field(16, json_schema_extra=OPERATIONAL)
    """Values that are watched each by itself; all others together are `other`."""
    segment_events: Count = Field(1_000, json_schema_extra=OPERATIONAL)
    """Events of a value before it is watched by itself."""


class PolicySettings(Section):
    """What is done about drift. `incremental/policy.py` says which signal calls for which action."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether anything is done at all; without it drift is only reported."""
    cool_down_events: Count = Field(20_000, json_schema_extra=OPERATIONAL)
    """An action is not begun again within so many events of its last beginning."""
    short_half_lives: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Let the quicker counting memories forget still faster for a while: their half-life is no longer than ..."""
    half_life_events: HalfLife = Field(200.0, json_schema_extra=OPERATIONAL)
    """... so many events ..."""
    half_life_for_events: Count = Field(256, json_schema_extra=OPERATIONAL)
    """... during so many events."""
    rehearse_recent: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Rehearse only windows that began after the alarm ..."""
    rehearse_recent_for_events: Count = Field(10_000, json_schema_extra=OPERATIONAL)
    """... during so many events."""
    boost_learning_rate: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Raise the learning rate of the network ..."""
    learning_rate_factor: Annotated[float, Field(ge=1.0, le=10.0)] = Field(1.5, json_schema_extra=OPERATIONAL)
    """... to so many times what it is, at first ..."""
    learning_rate_half_life_events: Count = Field(4_000, json_schema_extra=OPERATIONAL)
    """... the excess falling by half in so many events."""
    restart_mixture: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Let all components begin again with equal weight."""
    restart_ranker: bool = Field(False, json_schema_extra=OPERATIONAL)
    """Let the ranker begin again as the mixture's own order."""
    restart_items: bool = Field(False, json_schema_extra=OPERATIONAL)
    """Let the network's item embeddings, which are its head for items too, begin again."""
    restart_heads: bool = Field(False, json_schema_extra=OPERATIONAL)
    """Let the network's head for event types, or for times, begin again where that head's loss rose."""
    quarantine: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Do not learn from users who act much and cost far more log-loss than others, such as bots: ..."""
    quarantine_above: Positive = Field(0.75, json_schema_extra=OPERATIONAL)
    """... by so many nats."""
    pause_quarantine: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Learn from everyone after a change of everything, when whoever acts is hard to predict ..."""
    pause_quarantine_for_events: Count = Field(20_000, json_schema_extra=OPERATIONAL)
    """... during so many events."""
    roll_back: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Return to the weights from before an action where it made things worse: a copy of them goes on scoring ..."""
    champion_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.25, json_schema_extra=OPERATIONAL)
    """... this share of the events, in whole micro-batches ..."""
    champion_events: Count = Field(8_000, json_schema_extra=OPERATIONAL)
    """... until so many have passed since the latest action; then what is surely worse than its past returns to it."""
