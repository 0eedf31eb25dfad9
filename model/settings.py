"""Settings of the model. *Identity*: changing one needs a new lineage. *Operational*: free to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pydantic.config import JsonDict

IDENTITY: JsonDict = {"change": "identity"}
OPERATIONAL: JsonDict = {"change": "operational"}

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
HalfLife = Annotated[float, Field(ge=1.0)]


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class ModelSettings(Section):
    """The network, the vocabulary and the mixture."""

    dim: Count = Field(64, json_schema_extra=IDENTITY)
    """Width of the network and of an item's embedding; a multiple of `heads`."""
    layers: Count = Field(2, json_schema_extra=IDENTITY)
    """Transformer blocks."""
    heads: Count = Field(2, json_schema_extra=IDENTITY)
    """Attention heads."""
    context: Count = Field(48, json_schema_extra=IDENTITY)
    """Events of a user that the transformer looks back over; at most `history.length`."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.2, json_schema_extra=IDENTITY)
    """Dropout while learning, where events are rehearsed twice as often as they come; in proportion less where less."""
    max_items: Annotated[int, Field(ge=16)] = Field(1_000_000, json_schema_extra=IDENTITY)
    """Items in the vocabulary; when full, the item unseen for longest makes room."""
    min_count: Count = Field(1, json_schema_extra=IDENTITY)
    """Times an item must have been seen before it is admitted."""
    max_types: Annotated[int, Field(ge=1, le=1024)] = Field(64, json_schema_extra=IDENTITY)
    """Event types told apart; later ones share the row `other`."""
    popularity_half_life_events: HalfLife = Field(10_000.0, json_schema_extra=IDENTITY)
    """After so many events a count of the slower popularity weighs half."""
    popularity_short_half_life_events: HalfLife = Field(1_000.0, json_schema_extra=IDENTITY)
    """After so many events a count of the faster popularity weighs half."""
    memory_half_life_events: HalfLife = Field(200_000.0, json_schema_extra=IDENTITY)
    """After so many events a transition, or a similar session, weighs half."""
    memory_short_half_life_events: HalfLife = Field(3_000.0, json_schema_extra=IDENTITY)
    """After so many events a transition weighs half in a second memory of them, which follows changes sooner."""
    memory_transitions: Annotated[int, Field(ge=1024)] = Field(4_000_000, json_schema_extra=IDENTITY)
    """Pairs of items whose transitions are counted (16 bytes each); the oldest make room."""
    memory_sessions: Annotated[int, Field(ge=16)] = Field(100_000, json_schema_extra=IDENTITY)
    """Latest sessions among which similar ones are looked for (250 bytes each)."""
    leave_out: str = Field("", json_schema_extra=IDENTITY)
    """Names of components to do without, comma-separated: for measuring what each is worth."""
    epsilon: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(0.01, json_schema_extra=IDENTITY)
    """Share of every component's probability that is spread evenly over the admitted items and `unknown`."""
    proposals: Annotated[int, Field(ge=20, le=1024)] = Field(64, json_schema_extra=IDENTITY)
    """Candidates that each component proposes for a state."""


class PredictionSettings(Section):
    """What is published."""

    top_k: Annotated[int, Field(ge=1, le=20)] = Field(10, json_schema_extra=OPERATIONAL)
    """Items in a prediction."""
    exclude_seen: Literal["auto", "on", "off"] = Field("auto", json_schema_extra=IDENTITY)
    """Leave out the items in the user's history. `auto`: off for the first 10,000 scored events, then on where
    fewer than 0.1 % of those were repeats."""
