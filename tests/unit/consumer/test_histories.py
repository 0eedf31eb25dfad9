from __future__ import annotations

import numpy as np
import pytest
from support import TOPIC, event, same_state, small_settings

from consumer.events import key64
from consumer.histories import Histories
from consumer.ports import TopicPartition
from model.predictor import LIST_LENGTH

ZERO, ONE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


def histories(**sections) -> Histories:
    settings = small_settings(**sections)
    made = Histories(settings.history, settings.input)
    made.begin(ZERO)
    made.begin(ONE)
    return made


def put(made: Histories, *events, emitted=None):
    staged = made.stage(events)
    lists = np.zeros((len(events), LIST_LENGTH), np.int64) if emitted is None else np.array(emitted, np.int64)
    made.apply(staged, lists)
    return staged.contexts


def opens(*events, **sections):
    contexts = histories(**sections).stage(events).contexts
    return contexts.event_session_B.tolist()


def test_a_pause_opens_a_session_where_no_session_is_named():
    times = (0.0, 1800.0, 3601.0, 3000.0, 5000.0)
    assert opens(*(event("u", 1, time) for time in times)) == [True, False, True, False, True]


def test_without_times_there_is_one_session():
    assert opens(*(event("u", n) for n in range(3))) == [True, False, False]


def test_a_named_session_is_what_it_says_whatever_the_time():
    given = [("a", 0.0), ("a", 1e6), ("b", 1e6 + 1), ("a", 1e6 + 2), (None, 1e6 + 3), (None, 1e6 + 4), ("c", 1e6 + 5)]
    events = [event("u", 1, time, session=session) for session, time in given]
    assert opens(*events) == [True, False, True, True, True, False, True]


def test_sessions_go_on_over_micro_batches():
    made = histories()
    put(made, event("u", 1, 0.0, session="a"), event("v", 1, 0.0))
    later = [event("u", 1, 9e9, session="a"), event("v", 1, 1000.0), event("v", 1, 9000.0)]
    assert made.stage(later).contexts.event_session_B.tolist() == [False, False, True]


def test_each_event_sees_all_earlier_ones_of_its_user_and_micro_batch():
    made = histories()
    put(made, event("u", 1, 0.0), event("v", 2, 0.0))
    contexts = made.stage([event("u", 3, 1.0), event("v", 4, 1.0), event("u", 5, 2.0), event("w", 6, 2.0)]).contexts
    assert contexts.items_RT.tolist() == [
        [key64(1), key64(3), key64(5)],
        [key64(2), key64(4), 0],
        [key64(6), 0, 0],
    ]
    assert contexts.length_R.tolist() == [3, 2, 1]
    assert contexts.new_R.tolist() == [1, 1, 0]
    assert contexts.state_position_Q[contexts.before_B].tolist() == [0, 0, 1, -1]
    assert contexts.state_position_Q[contexts.after_B].tolist() == [1, 1, 2, 0]
    assert contexts.first_B.tolist() == [False, False, False, True]
    assert contexts.states == 7  # shared: the state after an event is the one before the next


def test_a_user_with_more_new_events_than_the_length_has_several_bounded_rows():
    made = histories(history={"length": 8})
    put(made, *(event("u", n, float(n)) for n in range(6)))
    contexts = made.stage([event("u", n, float(n)) for n in range(6, 26)]).contexts
    assert contexts.new_R.tolist() == [6, 8, 8]
    assert contexts.length_R.tolist() == [14, 16, 12]
    assert contexts.event_row_B.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert contexts.items_RT[2, :12].tolist() == [key64(n) for n in range(14, 26)]


def test_what_was_staged_does_not_change_when_it_is_applied():
    made = histories(history={"length": 8, "max_users": 2})
    put(made, *(event("u", n, float(n)) for n in range(8)))
    staged = made.stage([event("a", 1, 9.0), event("b", 2, 9.0), event("u", 99, 9.0), event("c", 3, 9.0)])
    before = staged.contexts.items_RT.tobytes()
    made.apply(staged, np.zeros((4, LIST_LENGTH), np.int64))
    assert staged.contexts.items_RT.tobytes() == before
    assert made.users == 2


def test_a_user_of_the_micro_batch_keeps_the_history_it_was_staged_with():
    """Others of the micro-batch come first and fill the partition: the user unseen for longest is another one."""
    made = histories(history={"max_users": 2})
    put(made, event("old", 1, 0.0), event("idle", 1, 1.0))
    put(made, event("new", 2, 2.0), event("old", 3, 3.0))
    assert made.users == 2
    contexts = made.stage([event("old", 4, 4.0), event("idle", 5, 5.0), event("new", 6, 6.0)]).contexts
    assert contexts.new_R.tolist() == [2, 0, 1]


def test_the_last_published_list_is_remembered():
    made = histories()
    lists = np.arange(1, 1 + 2 * LIST_LENGTH).reshape(2, -1)
    put(made, event("u", 1, 0.0), event("u", 2, 1.0), emitted=lists)
    contexts = made.stage([event("u", 3, 2.0), event("u", 4, 3.0), event("v", 1, 3.0)]).contexts
    assert contexts.emitted_BK.tolist() == [lists[1].tolist(), [0] * LIST_LENGTH, [0] * LIST_LENGTH]


def test_a_repeated_id_is_told_inside_and_across_micro_batches():
    made = histories(input={"repeat_window": 2})
    one, two, three = (event("u", n, float(n), event_id=f"e{n}") for n in range(3))
    assert made.stage([one, one, event("v", 0, 0.0, event_id="e0")]).repeated_B == (False, True, False)
    put(made, one, two)
    assert made.stage([one]).repeated_B == (True,)
    put(made, three)
    assert made.stage([two, three, one]).repeated_B == (True, True, False)


def test_a_repetition_by_another_users_id_is_none():
    made = histories()
    put(made, event("u", 1, 0.0, event_id="x"))
    assert made.stage([event("v", 1, 1.0, event_id="x")]).repeated_B == (False,)


@pytest.mark.parametrize(("rule", "kept"), [("keep", 3), ("skip", 2)])
def test_late_events_follow_the_rule(rule, kept):
    made = histories(input={"on_late": rule})
    contexts = put(made, event("u", 1, 100.0), event("u", 2, 1.0, late=True), event("u", 3, 101.0))
    assert contexts.learn_B.sum() == contexts.length_R[0] == kept


def test_a_user_whose_only_event_was_skipped_has_no_history():
    made = histories(input={"on_late": "skip"})
    put(made, event("u", 1, 1.0, late=True))
    contexts = made.stage([event("u", 2, 100.0)]).contexts
    assert contexts.first_B.tolist() == [True]
    part = histories().partitions[ZERO]
    part.load(made.partitions[ZERO].state())
    assert same_state(part.state(), made.partitions[ZERO].state())


def test_partitions_come_and_go_with_their_users():
    made = histories()
    put(made, event("u", 1, 0.0), event("v", 1, 0.0, partition=1))
    assert made.users == 2
    two = TopicPartition(TOPIC, 2)
    made.drop(ONE)
    made.drop(two)  # which was never there
    assert made.users == 1
    for partition in (ZERO, ONE, two):
        made.begin(partition)
    assert made.stage([event("v", 2, 1.0, partition=1)]).contexts.first_B.tolist() == [True]
    assert made.stage([event("u", 2, 1.0)]).contexts.first_B.tolist() == [False]


def test_the_bound_is_per_partition():
    made = histories(history={"max_users": 2})
    put(made, *(event(n, 1, 0.0, partition=n % 2) for n in range(10)))
    assert [len(made.partitions[p]) for p in (ZERO, ONE)] == [2, 2]


def test_no_events_are_a_micro_batch_too():
    contexts = histories().stage([]).contexts
    assert (contexts.events, contexts.states) == (0, 0)


@pytest.mark.parametrize("empty", [True, False])
def test_the_state_is_bytes_by_keys_and_comes_back(empty):
    made = histories()
    if not empty:
        put(made, event("secret-user", "item", 5.0, event_id="e"), event("v", 2), emitted=np.ones((2, LIST_LENGTH)))
    state = made.partitions[ZERO].state()
    other = histories()
    put(other, event("x", 1, 0.0), event("y", 1, 0.0))
    other.partitions[ZERO].load(state)
    assert same_state(state, other.partitions[ZERO].state())
    assert b"secret-user" not in b"".join(array.tobytes() for array in state.arrays.values())
    again = (
        made.stage([event("secret-user", 3, 6.0, event_id="e")]),
        other.stage([event("secret-user", 3, 6.0, event_id="e")]),
    )
    assert again[0].repeated_B == again[1].repeated_B == (not empty,)
    assert again[0].contexts.emitted_BK.tolist() == again[1].contexts.emitted_BK.tolist()
