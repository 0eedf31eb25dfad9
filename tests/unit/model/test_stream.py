from dataclasses import replace

import numpy as np
import pytest
from support import Worker, event, random_events, small_settings

from consumer.events import key64
from model.stream import stream_of
from model.vocabulary import Vocabulary


def staged(events, hidden=(), **settings):
    contexts = Worker(small_settings(**settings)).histories.stage(events).contexts
    return replace(contexts, shown_B=contexts.learn_B & ~np.isin(np.arange(len(events)), hidden))


EVENTS = [event("u", 1), event("v", 2), event("u", 3), event("w", 4)]


def test_a_state_after_an_event_knows_it_and_one_before_a_users_first_event_does_not():
    contexts = staged(EVENTS)
    known = stream_of(contexts, Vocabulary(8)).known_Q
    assert known[contexts.after_B].tolist() == [1, 2, 3, 4]
    assert known[contexts.before_B].tolist() == [0, 1, 1, 3]


def test_what_is_not_shown_is_not_there():
    contexts = staged(EVENTS, hidden=[1])
    stream = stream_of(contexts, Vocabulary(8))
    assert stream.users_V.tolist() == [key64("u"), key64("u"), key64("w")]
    assert stream.known_Q[contexts.after_B].tolist() == [1, 1, 2, 3]


def test_late_events_that_are_left_out_are_never_shown():
    events = [event("u", 1), event("v", 2, late=True), event("u", 3)]
    contexts = staged(events, input={"on_late": "skip"})
    assert len(stream_of(contexts, Vocabulary(8)).rows_V) == 2
    assert contexts.moment_Q[contexts.after_B].tolist() == [1, 1, 3]


def test_items_that_are_not_admitted_have_no_row():
    items = Vocabulary(8)
    items.observe(np.array([key64(1), key64(3)]), [1, 3], 0)
    assert stream_of(staged(EVENTS), items).rows_V.tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("length", [2, 3, 12])
def test_states_are_gone_through_by_what_they_know(length):
    contexts = staged(random_events(40, users=3), history={"length": length}, model={"context": 2})
    stream = stream_of(contexts, Vocabulary(8))
    assert sorted(stream.order_Q.tolist()) == list(range(contexts.states))
    assert (np.diff(stream.known_Q[stream.order_Q]) >= 0).all()
    some = np.array([5, 0, 3])
    part = stream.of(some)
    assert part.known_Q.tolist() == stream.known_Q[some].tolist()
    assert (np.diff(part.known_Q[part.order_Q]) >= 0).all()
