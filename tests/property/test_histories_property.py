from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TOPIC, event, same_state, small_settings

from consumer.events import key64
from consumer.histories import Histories
from consumer.ports import TopicPartition
from model.predictor import LIST_LENGTH

if TYPE_CHECKING:
    from consumer.events import Event
    from model.contexts import Contexts


@dataclass
class NaiveUser:
    events: list[tuple[int, int, float, bool]] = field(default_factory=list)
    session: int = 0
    ids: list[int] = field(default_factory=list)
    emitted: int = 0  # number of the list last published


@dataclass
class Expected:
    """What one event must see: the events before, those after, what it is, and the list emitted before the batch."""

    before: list[tuple[int, int, float, bool]]
    after: list[tuple[int, int, float, bool]]
    learn: bool
    repeated: bool
    emitted: int


class NaiveHistories:
    """Lists in a dict, event by event; the rules in plain words."""

    def __init__(self, length: int, max_users: int, window: int, gap_s: float, on_late: str) -> None:
        self.length, self.max_users, self.window, self.gap_s, self.on_late = length, max_users, window, gap_s, on_late
        self.users: dict[tuple[int, int], NaiveUser] = {}
        self.lists = 0

    def batch(self, events: list[Event]) -> list[Expected]:
        expected, touched = [], {}
        for one in events:
            who = (one.record.partition, one.user_key)
            user = self.users.pop(who, NaiveUser())
            self.users[who] = user  # the latest seen comes last
            repeated = bool(one.event_key) and one.event_key in user.ids
            keep = not repeated and not (one.late and self.on_late == "skip")
            before = list(user.events)
            emitted = user.emitted if touched.get(who, 0) == 0 else 0
            if keep:
                user.events.append((one.item_key, one.type_key, one.event_time, self.opens(user, one)))
                user.session = one.session_key
                touched[who] = touched.get(who, 0) + 1
                if one.event_key:
                    user.ids = [*user.ids, one.event_key][-self.window :] if self.window else []
            expected.append(Expected(before, list(user.events), keep, repeated, emitted))
        for one in events:
            self.lists += 1
            self.users[one.record.partition, one.user_key].emitted = self.lists
        self.bound()
        return expected

    def opens(self, user: NaiveUser, one: Event) -> bool:
        if not user.events:
            return True
        if one.session_key or user.session:
            return one.session_key != user.session
        return one.event_time - user.events[-1][2] > self.gap_s

    def bound(self) -> None:
        for user in self.users.values():
            user.events = user.events[-self.length :]
        for partition in {partition for partition, _ in self.users}:
            mine = [who for who in self.users if who[0] == partition]
            for who in mine[: max(0, len(mine) - self.max_users)]:
                del self.users[who]


@st.composite
def batches(draw):
    """Few users, items and ids, so that they meet; times that jump, tie, go back and are missing; one partition each."""
    made, now = [], 1000.0
    for _ in range(draw(st.integers(1, 6))):
        batch = []
        for _ in range(draw(st.integers(0, 14))):
            now += draw(st.sampled_from([0.0, 1.0, 5.0, -3.0, 60.0]))
            user = draw(st.integers(0, 5))
            batch.append(
                event(
                    user,
                    draw(st.integers(0, 9)),
                    draw(st.sampled_from([now, now, float("nan")])),
                    kind=draw(st.sampled_from(["a", "b"])),
                    partition=user % 2,
                    event_id=draw(st.sampled_from([None, "x", "y", "z"])),
                    session=draw(st.sampled_from([None, None, "s1", "s2"])),
                    late=draw(st.booleans()),
                )
            )
        made.append(batch)
    return made


def sees(contexts: Contexts, state: int) -> list[tuple[int, int, float, bool]]:
    row, stop = contexts.state_row_Q[state], contexts.state_position_Q[state] + 1
    assert stop <= contexts.length_R[row]
    columns = contexts.items_RT, contexts.types_RT, contexts.times_RT, contexts.session_RT
    return list(zip(*(column[row, :stop].tolist() for column in columns), strict=True))


def equal(left, right) -> bool:
    return len(left) == len(right) and all(
        a[:2] == b[:2] and np.array_equal(a[2], b[2], equal_nan=True) and a[3] == b[3]
        for a, b in zip(left, right, strict=True)
    )


def emitted_list(number: int) -> np.ndarray:
    return np.arange(number * 100, number * 100 + LIST_LENGTH, dtype=np.int64)


def check_moments(contexts: Contexts, expected: list[Expected]) -> None:
    """A state knows what came up to its user's latest event, or up to the first one that it is looked at for."""
    moment: dict[int, int] = {}
    for index, should in enumerate(expected):
        who = int(contexts.event_user_B[index])
        assert contexts.moment_Q[contexts.before_B[index]] == moment.setdefault(who, index)
        if should.learn:
            moment[who] = index + 1
        assert contexts.moment_Q[contexts.after_B[index]] == moment[who]
    assert not contexts.shown_B.any()


def check(contexts: Contexts, staged, batch: list[Event], expected: list[Expected], length: int) -> None:
    assert contexts.events == len(batch)
    assert contexts.items_RT.shape[1] <= max(1, 2 * length)
    for index, (one, should) in enumerate(zip(batch, expected, strict=True)):
        before, after = sees(contexts, contexts.before_B[index]), sees(contexts, contexts.after_B[index])
        assert len(before) >= min(length, len(should.before))
        assert equal(before, should.before[len(should.before) - len(before) :])
        assert equal(after, should.after[len(should.after) - len(after) :])
        assert len(after) == len(before) + should.learn
        assert contexts.learn_B[index] == should.learn
        assert staged.repeated_B[index] == should.repeated
        assert contexts.first_B[index] == (not should.before)
        assert contexts.user_R[contexts.event_row_B[index]] == contexts.event_user_B[index] == one.user_key
        assert contexts.event_item_B[index] == one.item_key
        assert contexts.item_ids_B[index] == one.item_id
        assert contexts.type_names_B[index] == one.event_type
        assert contexts.event_session_B[index] == (should.learn and should.after[-1][3])
        expect = emitted_list(should.emitted) if should.emitted else np.zeros(LIST_LENGTH, np.int64)
        assert contexts.emitted_BK[index].tolist() == expect.tolist()
    for row in range(len(contexts.length_R)):
        assert contexts.new_R[row] <= length
        assert contexts.length_R[row] - contexts.new_R[row] <= length
        assert not contexts.items_RT[row, contexts.length_R[row] :].any()


@settings(max_examples=150, deadline=None)
@given(
    batches(),
    st.sampled_from([2, 3, 9]),
    st.sampled_from([1, 2, 100]),
    st.sampled_from([0, 2, 8]),
    st.sampled_from(["keep", "skip"]),
    st.integers(0, 6),
)
def test_histories_do_what_lists_do(stream, length, max_users, window, on_late, save_at):
    chosen = small_settings(
        history={"length": length, "max_users": max_users},
        model={"context": 2},
        input={"repeat_window": window, "session_gap_s": 30.0, "on_late": on_late},
    )
    histories = Histories(chosen.history, chosen.input)
    partitions = [TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)]
    for partition in partitions:
        histories.begin(partition)
    naive = NaiveHistories(length, max_users, window, 30.0, on_late)
    for number, batch in enumerate(stream):
        unchanged = [histories.partitions[partition].state() for partition in partitions]
        published = naive.lists
        staged = histories.stage(batch)
        again = [histories.partitions[partition].state() for partition in partitions]
        assert all(same_state(a, b) for a, b in zip(unchanged, again, strict=True))
        expected = naive.batch(batch)
        check(staged.contexts, staged, batch, expected, length)
        check_moments(staged.contexts, expected)
        lists = np.array([emitted_list(published + 1 + n) for n in range(len(batch))], np.int64)
        histories.apply(staged, lists.reshape(-1, LIST_LENGTH))
        assert {(p, user) for p in (0, 1) for user in histories.partitions[partitions[p]]._users} == set(naive.users)
        if number == save_at:
            histories = through_the_state(histories, chosen)


def through_the_state(histories: Histories, chosen) -> Histories:
    fresh = Histories(chosen.history, chosen.input)
    for partition in histories.partitions:
        fresh.begin(partition)
    for partition, part in histories.partitions.items():
        fresh.partitions[partition].load(part.state())
        assert same_state(part.state(), fresh.partitions[partition].state())
    return fresh


@settings(max_examples=40, deadline=None)
@given(batches(), st.integers(0, 5))
def test_a_forgotten_user_is_a_new_one_and_the_others_stay(stream, user):
    chosen = small_settings(history={"length": 4}, model={"context": 2})
    histories = Histories(chosen.history, chosen.input)
    for number in (0, 1):
        histories.begin(TopicPartition(TOPIC, number))
    for batch in stream:
        histories.apply(histories.stage(batch), np.ones((len(batch), LIST_LENGTH), np.int64))
    key, before = key64(user), histories.users
    known = any(one.user_key == key for batch in stream for one in batch)
    assert histories.forget(key) == known
    assert histories.users == before - known
    assert histories.forget(key) is False
    for other in range(6):
        contexts = histories.stage([event(other, 1, 1e6, partition=other % 2)]).contexts
        seen = [e for batch in stream for e in batch if e.user_id == other]
        kept = [e for n, e in enumerate(seen) if not e.event_key or e.event_key not in [x.event_key for x in seen[:n]]]
        expected = [] if other == user else [one.item_key for one in kept_by_window(seen)][-4:]
        assert contexts.items_RT[0, : contexts.new_R[0]].tolist() == expected
        assert len(kept) <= len(seen)


def kept_by_window(seen: list[Event], window: int = 8) -> list[Event]:
    kept, ids = [], []
    for one in seen:
        if not one.event_key or one.event_key not in ids:
            kept.append(one)
            ids = [*ids, one.event_key][-window:] if one.event_key else ids
    return kept
