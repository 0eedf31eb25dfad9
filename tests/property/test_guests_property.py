"""What first appears in a micro-batch is known after its moment, and no state knows anything of what comes later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Worker, event, same_state, small_settings

from consumer.events import key64
from model.guests import guests_of
from model.vocabulary import UNKNOWN, Vocabulary


@st.composite
def batches(draw, min_size=1, partitions=1):
    """Users are items too; some events are late and left out. With two partitions a user may act in both."""
    one = st.tuples(
        *(st.integers(1, 6), st.integers(1, 14), st.sampled_from("sst"), st.integers(0, 5)),
        *(st.integers(0, partitions - 1), st.integers(0, 10_000), st.sampled_from(("view", "buy"))),
    )
    return [
        event(user, item, 1e9 + time, session=session, late=late == 0, partition=partition, kind=kind)
        for user, item, session, late, partition, time, kind in draw(st.lists(one, min_size=min_size, max_size=24))
    ]


def told(worker, events, hidden):
    """Stage events, of which those of some users are not learned, and predict; the worker's histories stay."""
    contexts = worker.histories.stage(events).contexts
    in_quarantine = np.isin(contexts.event_user_B, [key64(user) for user in hidden])
    contexts = replace(contexts, shown_B=contexts.learn_B & ~in_quarantine)
    worker.learner._receive(contexts)
    return contexts, *worker.predictor.predict(contexts, exclude_seen=False)


@settings(max_examples=30, deadline=None)
@given(
    *(batches(partitions=2), batches(partitions=2), batches(partitions=2), batches(min_size=0, partitions=2)),
    *(st.sets(st.integers(1, 6), max_size=2), st.integers(1, 24), st.integers(4, 12)),
)
def test_what_comes_later_in_the_micro_batch_changes_nothing(first, unlearned, second, others, hidden, stop, length):
    worker = Worker(small_settings(input={"on_late": "skip"}, history={"length": length}), partitions=(0, 1))
    worker.step(first)
    worker.step(unlearned, learn=False)  # histories may hold items that were never admitted
    before = worker.learner.state()
    _, scores, predictions = told(worker, second, hidden)
    _, earlier, said = told(worker, second[:stop] + others, hidden)
    stop = min(stop, len(second))
    assert (scores.target_B[:stop] == UNKNOWN).tolist() == (earlier.target_B[:stop] == UNKNOWN).tolist()
    assert scores.log_prob_B[:stop] == pytest.approx(earlier.log_prob_B[:stop], abs=1e-4)
    assert predictions.p_BK[:stop] == pytest.approx(said.p_BK[:stop], abs=1e-5)
    assert scores.p_BM[:stop] == pytest.approx(earlier.p_BM[:stop], abs=1e-5)
    for one, other in ((scores.type_p_BY, earlier.type_p_BY), (scores.gap_quantiles_B3, earlier.gap_quantiles_B3)):
        if one is not None and other is not None:  # a micro-batch without times, or of one type, has none
            assert one[:stop] == pytest.approx(other[:stop], rel=1e-4, abs=1e-5, nan_ok=True)
    worker.model.items.see_off()
    assert same_state(before, worker.learner.state())  # guests leave no trace


@settings(max_examples=40, deadline=None)
@given(batches(), batches(), st.sets(st.integers(1, 6), max_size=2))
def test_probabilities_of_all_that_a_state_can_know_sum_to_one(first, second, hidden):
    worker = Worker(small_settings(input={"on_late": "skip"}))
    worker.step(first)
    contexts, scores, predictions = told(worker, second, hidden)
    items, states = worker.model.items, np.arange(contexts.states)
    rows = np.tile(np.arange(items.height, dtype=np.int32), (contexts.states, 1))
    known = items.came(rows) < contexts.moment_Q[:, None]
    known[:, 1:] &= np.isin(rows[:, 1:], items.admitted_rows()) | items.are_guests(rows[:, 1:])
    for view in scores.views.all:
        p = view.score(states, np.where(known, rows, UNKNOWN)) * known
        assert p.sum(axis=1) == pytest.approx(np.ones(contexts.states), abs=1e-4)
    assert ((predictions.p_BK.sum(axis=1)) <= 1.0 + 1e-4).all()
    moments = contexts.moment_Q[contexts.after_B]
    assert (items.came(predictions.rows_BK) < moments[:, None]).all()


@settings(max_examples=40, deadline=None)
@given(batches(), st.lists(st.sampled_from([1, 2, 3]), max_size=3))
def test_guests_are_those_who_will_be_admitted(events, minimum):
    worker = Worker(small_settings(model={"min_count": minimum[0] if minimum else 1}))
    contexts = worker.histories.stage(events).contexts
    contexts = replace(contexts, shown_B=contexts.learn_B)
    guests = guests_of(contexts, worker.model.items)
    wanted = (
        []
        if minimum and minimum[0] > 1
        else worker.model.items.observe(
            contexts.event_item_B[contexts.learn_B],
            [contexts.item_ids_B[n] for n in np.flatnonzero(contexts.learn_B)],
            0,
        )[0]
    )
    assert guests.tolist() == np.flatnonzero(contexts.learn_B)[np.array(wanted, np.int64)].tolist()


KEYS = st.lists(st.integers(1, 2**62), min_size=1, max_size=700, unique=True)


@settings(max_examples=30, deadline=None)
@given(KEYS, st.integers(0, 700), st.integers(0, 3))
def test_guests_come_and_go_and_the_vocabulary_is_what_it_was(keys, admitted, rounds):
    names = [str(key) for key in keys]
    one, other = Vocabulary(1000), Vocabulary(1000)
    for vocabulary in (one, other):
        vocabulary.observe(np.array(keys[:admitted], np.int64), names[:admitted], 0)
    guests = keys[admitted:]
    for _ in range(rounds):
        rows = one.receive(np.array(guests, np.int64), names[admitted:], np.arange(len(guests)))
        assert one.lookup(np.array(keys)).tolist() == [*range(1, len(keys) + 1)]
        assert one.keys(rows).tolist() == guests
        assert [one.names[row] for row in rows] == names[admitted:]
        assert (one.size, one.rows, one.height) == (other.size, other.rows, len(keys) + 1)
        assert one.admitted_rows().tolist() == other.admitted_rows().tolist()
        assert one.guests_at(np.array([0, 1, len(guests)])).tolist() == [0, min(1, len(guests)), len(guests)]
        assert same_state(one.state(), other.state())
    one.see_off()
    assert one.lookup(np.array(keys)).tolist() == other.lookup(np.array(keys)).tolist()
    assert one.height == other.height
    for vocabulary in (one, other):
        vocabulary.observe(np.array(keys, np.int64), names, 1000)
    assert same_state(one.state(), other.state())


def test_what_a_user_does_in_another_partition_is_not_taken_for_this_ones_history():
    """Item 777 is in the history of partition 1, never admitted; that somebody will have it is known to nobody before."""
    said = []
    for item in (777, 778):
        worker = Worker(small_settings(), partitions=(0, 1))
        worker.run([event(n % 5, n % 11, 1e9 + n) for n in range(120)])
        worker.step([event("u", 777, 2e9, partition=1)], learn=False)
        mine = [event("u", 1, 2e9 + 1), event("u", 2, 2e9 + 2, partition=1), event("u", 5, 2e9 + 3, partition=1)]
        later = [event("v", item, 2e9 + 4), event("u", 3, 2e9 + 5)]
        contexts, scores, predictions = told(worker, [*mine, *later], set())
        assert contexts.earlier_R.tolist() == [-1, -1, -1]
        assert key64(777) not in predictions.keys_BK[:3]
        said.append((scores.log_prob_B[:3].tolist(), predictions.keys_BK[:3].tolist()))
    assert said[0] == said[1]
