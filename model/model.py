"""Everything that predicts, as one thing that can be saved: vocabularies, components, mixture and ranker."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from model.calibrator import Calibrator
from model.candidates import FIXED, Places
from model.components import COMPONENTS, COUNTING, left_out
from model.gaps import Gaps
from model.heads import Heads
from model.item_statistics import ItemStatistics
from model.latest_items import LatestItems
from model.mixture import Mixture
from model.own_items import OwnItems
from model.popularity import Popularity
from model.ranker import Ranker
from model.replies import Replies
from model.sessions import Sessions
from model.smoothing import Smoothing, UnknownRate
from model.state import State
from model.transformer import Transformer
from model.transitions import Transitions
from model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.components import Memory, View
    from model.contexts import Contexts, Int64
    from model.heads import HeadsView
    from model.latest_items import LatestItemsView
    from model.own_items import OwnItemsView
    from model.settings import ModelSettings
    from model.transformer_view import TransformerView

SUMMITS = ("transformer", "next_item", "transitions", "co_occurrence", "similar_sessions")
"""Components whose largest probability among the candidates the ranker is told."""

QUICK_SHARE = 4
"""The memory of the shorter half-life holds this part of what the other one holds."""


@dataclass(frozen=True, slots=True)
class Views:
    """One micro-batch through the eyes of every component; `all` in the order of the mixture's names."""

    transformer: TransformerView
    own_items: OwnItemsView
    latest_items: LatestItemsView
    heads: HeadsView
    smoothing: Smoothing
    all: tuple[View, ...]


class Model:
    """Built empty from settings and a seed; changes only when told to learn, admit, evict, forget or load."""

    def __init__(self, settings: ModelSettings, seed: int) -> None:
        torch.set_num_threads(1)  # one process, one core: faster here, and the same sums in the same order
        self.settings = settings
        self.items = Vocabulary(settings.max_items, settings.min_count)
        self.types = Vocabulary(settings.max_types, evict=False)
        gaps = Gaps()
        self.transformer = Transformer(settings, self.items, self.types, seed, gaps)
        self.heads = Heads(settings, self.types, gaps)
        self.popularity = Popularity(self.items, settings.popularity_half_life_events)
        self.popularity_now = Popularity(self.items, settings.popularity_short_half_life_events, "popularity_now")
        self.own_items = OwnItems(self.items)
        half_life, memory = settings.memory_half_life_events, settings.memory_transitions
        self.transitions = Transitions(self.items, half_life, memory)
        short = settings.memory_short_half_life_events
        self.transitions_now = Transitions(self.items, short, memory // QUICK_SHARE, "transitions_now")
        self.sessions = Sessions(self.items, half_life, settings.memory_sessions)
        self.replies = Replies(self.items)
        self.latest_items = LatestItems(self.items)
        self.statistics = ItemStatistics(self.items)
        names = [name for name in COMPONENTS if name not in left_out(settings.leave_out)]
        self.mixture = Mixture(names)
        summits, counting = ([names.index(name) for name in group if name in names] for group in (SUMMITS, COUNTING))
        self.places = Places(np.array(summits, np.int64), np.array(counting, np.int64))
        self.ranker = Ranker(len(names) + 1 + FIXED, len(names), seed)
        self.calibrator = Calibrator()
        self.unknown = UnknownRate()
        self.has_times = False

    def smoothing(self, contexts: Contexts) -> Smoothing:
        """Return how components are smoothed in a micro-batch."""
        guests_Q = self.items.guests_at(contexts.moment_Q)
        return Smoothing(self.settings.epsilon, self.items.size, self.unknown.rate, guests_Q)

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """Return the embeddings of all items, as the ranker compares them; zeros where the transformer is left out."""
        weight: npt.NDArray[np.float32] = self.transformer.table.weight.numpy()
        return weight if "transformer" in self.mixture.names else np.zeros_like(weight)

    @property
    def memories(self) -> list[Memory]:
        """Everything that keeps something by item or by user."""
        return [
            self.transformer,
            self.popularity,
            self.popularity_now,
            self.own_items,
            self.replies,
            self.transitions,
            self.transitions_now,
            self.sessions,
            self.latest_items,
            self.statistics,
            self.heads,
        ]

    def views(self, contexts: Contexts) -> Views:
        """Look at a micro-batch with every component; changes nothing."""
        smoothing = self.smoothing(contexts)
        transformer = self.transformer.view(contexts, smoothing)
        latest = self.latest_items.view(contexts, smoothing)
        own, own_counts = self.own_items.views(contexts, smoothing)
        views: tuple[View, ...] = (
            transformer,
            self.popularity.view(contexts, smoothing),
            self.popularity_now.view(contexts, smoothing),
            own,
            own_counts,
            self.replies.view(contexts, smoothing),
            *self.transitions.views(contexts, smoothing),
            *self.transitions_now.views(contexts, smoothing),
            self.sessions.view(contexts, smoothing),
            latest,
        )
        named = zip(COMPONENTS, views, strict=True)
        chosen = tuple(view for name, view in named if name in self.mixture.names)
        return Views(transformer, own, latest, self.heads.view(contexts, transformer), smoothing, chosen)

    def count(self, contexts: Contexts, kept: Int64, longest_half_life: float = inf) -> None:
        """Let every memory that only counts learn from some events of a micro-batch, in stream order.

        The quicker of those that are kept at two half-lives forget at least as fast as `longest_half_life` says, in
        events; the slower ones keep what they have, for when it is true again.
        """
        rows = self.items.lookup(contexts.event_item_B[kept])
        self.popularity.learn(rows)
        self.popularity_now.learn(rows, longest_half_life)
        self.replies.learn(contexts, kept)
        self.latest_items.push(rows)
        self.transitions.learn(contexts, kept)
        self.transitions_now.learn(contexts, kept, longest_half_life)
        self.sessions.learn(contexts, kept)
        self.statistics.learn(contexts, kept)

    def evict(self, rows: Sequence[int]) -> None:
        """Clear evicted vocabulary rows everywhere."""
        for memory in self.memories:
            memory.evict(rows)

    def forget(self, user: int) -> None:
        """Remove what is kept about one user."""
        for memory in self.memories:
            memory.forget(user)

    def state(self) -> State:
        """Return everything that learning changed."""
        state = State(values={"has_times": self.has_times})
        state.put("items", self.items.state())
        state.put("types", self.types.state())
        state.put("unknown", self.unknown.state())
        state.put("mixture", self.mixture.state())
        state.put("ranker", self.ranker.state())
        state.put("calibrator", self.calibrator.state())
        for memory in self.memories:
            state.put(memory.name, memory.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.has_times = bool(state.values["has_times"])
        self.items.load(state.take("items"))
        self.types.load(state.take("types"))
        self.unknown.load(state.take("unknown"))
        self.mixture.load(state.take("mixture"))
        self.ranker.load(state.take("ranker"))
        self.calibrator.load(state.take("calibrator"))
        for memory in self.memories:
            memory.load(state.take(memory.name))
