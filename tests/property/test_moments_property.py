"""What a state sees of its micro-batch is what it would see had the events before its moment, and no others, been learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Worker, event, small_settings

from consumer.events import key64
from model.candidates import Places, features
from model.item_statistics import ItemStatistics
from model.latest_items import LatestItems
from model.replies import Replies
from model.smoothing import Smoothing
from model.transitions import Transitions
from model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from model.contexts import Contexts

ITEMS, USERS = 9, 5
ASKED = np.arange(ITEMS + 1, dtype=np.int32)
SMOOTHING = Smoothing(1e-6, ITEMS, 0.0)


@st.composite
def batches(draw):
    """Users are items too; one item is not admitted; an event may be late and left out."""
    size = draw(st.integers(1, 24))
    users = st.integers(1, USERS)
    items = st.integers(1, ITEMS + 1)
    return [
        event(
            draw(users), draw(items), session=draw(st.sampled_from(["s", "s", "t"])), late=draw(st.integers(0, 5)) == 0
        )
        for _ in range(size)
    ]


def admitted() -> Vocabulary:
    items = Vocabulary(64)
    items.observe(np.array([key64(n) for n in range(1, ITEMS + 1)]), list(range(1, ITEMS + 1)), 0)
    return items


class Counters:
    """Everything that counts, without what learns by gradient."""

    def __init__(self) -> None:
        items = admitted()
        self.items = items
        self.latest = LatestItems(items)
        self.replies = Replies(items)
        self.transitions = Transitions(items, 50.0, 4096)
        self.statistics = ItemStatistics(items)

    def learn(self, contexts: Contexts, kept: np.ndarray) -> None:
        rows = self.items.lookup(contexts.event_item_B[kept])
        self.latest.push(rows)
        self.replies.learn(contexts, kept)
        self.transitions.learn(contexts, kept)
        self.statistics.learn(contexts, kept)

    def views(self, contexts: Contexts):
        yield self.latest.view(contexts, SMOOTHING)
        yield self.replies.view(contexts, SMOOTHING)
        yield from self.transitions.views(contexts, SMOOTHING)

    def told(self, contexts: Contexts, state: int) -> np.ndarray:
        """The probability of every item by every view, and what the ranker is told of it."""
        states, rows = np.array([state]), ASKED[None]
        p = [view.score(states, rows)[0] for view in self.views(contexts)]
        asked = np.tile(rows, (contexts.states, 1))
        ones = np.ones((1, *asked.shape), np.float32)
        rows_RT, first = self.items.lookup(contexts.items_RT), Places(np.zeros(1, np.int64), np.zeros(0, np.int64))
        weight = np.zeros((self.items.height, 4), np.float32)
        told = features(contexts, rows_RT, asked, ones, ones[0], ones[:, :, 0], self.statistics, weight, first)
        fixed = told[state]
        return np.concatenate([np.stack(p, axis=1), fixed], axis=1)

    def proposed(self, contexts: Contexts, state: int) -> list[list[int]]:
        return [view.propose(4)[0][state].tolist() for view in self.views(contexts)]


def learned_before(earlier: Contexts, contexts: Contexts, moment: int) -> Counters:
    """Counters that learned an earlier micro-batch, and then one by one what is shown before a moment."""
    counters = Counters()
    counters.learn(earlier, np.flatnonzero(earlier.learn_B))
    for index in np.flatnonzero(contexts.shown_B[:moment]).tolist():
        counters.learn(contexts, np.array([index]))
    return counters


@settings(max_examples=40, deadline=None)
@given(batches(), batches(), st.sets(st.integers(1, USERS), max_size=2))
def test_a_state_sees_what_was_shown_before_its_moment_and_no_more(first, second, hidden):
    worker = Worker(small_settings(input={"on_late": "skip"}))
    staged = worker.histories.stage(first)
    worker.histories.apply(staged, None)
    earlier, contexts = staged.contexts, worker.histories.stage(second).contexts
    in_quarantine = np.isin(contexts.event_user_B, [key64(user) for user in hidden])
    live = replace(contexts, shown_B=contexts.learn_B & ~in_quarantine)
    counters = learned_before(earlier, live, 0)
    for state in range(contexts.states):
        expected = learned_before(earlier, live, int(contexts.moment_Q[state]))
        own = contexts.user_R[contexts.state_row_Q[state]]
        if own in contexts.event_user_B[in_quarantine]:
            continue  # such a user's own events are in the history and not in the counts
        told, wanted = counters.told(live, state), expected.told(shown_as_learned(live), state)
        assert told == pytest.approx(wanted, abs=1e-5)
        assert counters.proposed(live, state) == expected.proposed(contexts, state)


def shown_as_learned(contexts: Contexts) -> Contexts:
    """Nothing is shown, and every event of the histories counts as learned."""
    nothing = np.zeros(contexts.events, np.bool_)
    return replace(contexts, shown_B=nothing, new_R=contexts.length_R)


@settings(max_examples=40, deadline=None)
@given(batches(), batches())
def test_where_nothing_is_shown_others_events_change_nothing(first, second):
    """A state of a frozen micro-batch is that of its user's events alone."""
    worker = Worker(small_settings(input={"on_late": "skip"}))
    staged = worker.histories.stage(first)
    worker.histories.apply(staged, None)
    counters = Counters()
    counters.learn(staged.contexts, np.flatnonzero(staged.contexts.learn_B))
    for user in {one.user_key for one in second}:
        mine = [one for one in second if one.user_key == user]
        whole, alone = (worker.histories.stage(events).contexts for events in (second, mine))
        events = np.flatnonzero(whole.event_user_B == user)
        for place, index in enumerate(events.tolist()):
            together = counters.told(whole, int(whole.after_B[index]))
            assert together.tolist() == counters.told(alone, int(alone.after_B[place])).tolist()
