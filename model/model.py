"""Everything that predicts, as one thing that can be saved: vocabularies, components and the mixture over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.mixture import Mixture
from model.own_items import OwnItems
from model.popularity import Popularity
from model.smoothing import Smoothing, UnknownRate
from model.state import State
from model.transformer import Transformer
from model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.components import Component
    from model.settings import ModelSettings


class Model:
    """Built empty from settings and a seed; changes only when told to learn, admit, evict, forget or load."""

    def __init__(self, settings: ModelSettings, seed: int) -> None:
        torch.set_num_threads(1)  # one process, one core: faster here, and the same sums in the same order
        self.settings = settings
        self.items = Vocabulary(settings.max_items, settings.min_count)
        self.types = Vocabulary(settings.max_types, evict=False)
        self.transformer = Transformer(settings, self.items, self.types, seed)
        self.popularity = Popularity(self.items, settings.popularity_half_life_events)
        self.own_items = OwnItems(self.items)
        self.mixture = Mixture([component.name for component in self.components])
        self.unknown = UnknownRate()
        self.has_times = False

    @property
    def smoothing(self) -> Smoothing:
        """How components are smoothed now; with nothing admitted all they can say is `unknown`."""
        return Smoothing(self.settings.epsilon, self.items.size, self.unknown.rate if self.items.size else 1.0)

    @property
    def components(self) -> list[Component]:
        """All components, in the order of the mixture's weights."""
        return [self.transformer, self.popularity, self.own_items]

    def evict(self, rows: Sequence[int]) -> None:
        """Clear evicted vocabulary rows in every component."""
        for component in self.components:
            component.evict(rows)

    def forget(self, user: int) -> None:
        """Remove what is kept about one user."""
        for component in self.components:
            component.forget(user)

    def state(self) -> State:
        """Return everything that learning changed."""
        state = State(values={"has_times": self.has_times})
        state.put("items", self.items.state())
        state.put("types", self.types.state())
        state.put("unknown", self.unknown.state())
        state.put("mixture", self.mixture.state())
        for component in self.components:
            state.put(component.name, component.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.has_times = bool(state.values["has_times"])
        self.items.load(state.take("items"))
        self.types.load(state.take("types"))
        self.unknown.load(state.take("unknown"))
        self.mixture.load(state.take("mixture"))
        for component in self.components:
            component.load(state.take(component.name))
