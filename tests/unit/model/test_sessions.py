import numpy as np
import pytest
from support import Worker, event, same_state, small_settings

from consumer.events import key64
from model.sessions import CANDIDATE_DECAY, LENGTH, MATCH_DECAY, NEIGHBOURS, Sessions
from model.smoothing import Smoothing
from model.vocabulary import Vocabulary

NO_SMOOTHING = Smoothing(1e-9, 40, 0.0)
HALF_LIFE = 100.0


def vocabulary(size=40):
    items = Vocabulary(10_000)
    items.observe(np.array([key64(n) for n in range(1, size + 1)]), list(range(1, size + 1)), 0)
    return items


def learned(sessions, histories, batch=1000, length=64, prefix="u"):
    """Learn whole histories, one user after another."""
    worker = Worker(small_settings(history={"length": length}))
    events = [event(f"{prefix}{user}", item) for user, history in enumerate(histories) for item in history]
    for start in range(0, len(events), batch):
        staged = worker.histories.stage(events[start : start + batch])
        sessions.learn(staged.contexts, np.arange(staged.contexts.events))
        worker.histories.apply(staged, np.zeros((staged.contexts.events, 20), np.int64))
    return worker


def weights_of(sessions, items, user="q"):
    contexts = Worker(small_settings(history={"length": 64})).histories.stage([event(user, i) for i in items]).contexts
    last = np.array([contexts.after_B[-1]], np.int64)
    return sessions.view(contexts, NO_SMOOTHING).score(last, np.arange(1, 41, dtype=np.int32)[None])[0]


def naive(histories, context, half_life=HALF_LIFE):
    """The definition for histories that fit one session each, without the bounds."""
    times, clock = [], 0
    for history in histories:
        clock += len(history)
        times.append(clock)
    held = {item: sum(item in history for history in histories) for item in range(1, 41)}
    votes = np.zeros(41)
    newest_first = list(dict.fromkeys(reversed(context[-8:])))
    lag_of = {item: list(reversed(context)).index(item) for item in newest_first}
    for history, time in zip(histories, times, strict=True):
        shared = [item for item in newest_first if item in history]
        if not shared:
            continue
        alike = sum(np.exp(-lag_of[item] / MATCH_DECAY) / (held[item] + 1.0) ** 0.5 for item in shared)
        alike *= 0.5 ** ((clock - time) / half_life) / len(history) ** 0.5
        centre = max(place for place, item in enumerate(history) if item == shared[0])
        for place, item in enumerate(history):
            if place != centre:
                votes[item] += alike * np.exp(-(abs(place - centre) - 1) / CANDIDATE_DECAY)
    return votes[1:] / max(votes.sum(), 1e-30)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 1000])
def test_votes_are_those_of_the_definition(seed, batch):
    draw = np.random.default_rng(seed)
    histories = [draw.integers(1, 41, draw.integers(1, 9)).tolist() for _ in range(25)]
    sessions = Sessions(vocabulary(), HALF_LIFE, 1000)
    learned(sessions, histories, batch)
    for context in ([3], [1, 2, 3], [5, 5, 6], draw.integers(1, 41, 8).tolist()):
        expected = naive(histories, context)
        if expected.sum() > 0.0:
            assert weights_of(sessions, context) == pytest.approx(expected, abs=1e-5)


def test_nobody_is_similar_to_oneself():
    sessions = Sessions(vocabulary(), HALF_LIFE, 1000)
    learned(sessions, [[1, 2, 3]])
    assert weights_of(sessions, [1, 2, 3], user="u0") == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert weights_of(sessions, [1], user="q").argmax() == 1


def test_the_oldest_session_makes_room_and_is_not_found_any_more():
    sessions = Sessions(vocabulary(), HALF_LIFE, 16)
    learned(sessions, [[1 + n, 21 + n] for n in range(20)])
    assert len(sessions._rings.length) == 16
    assert weights_of(sessions, [4]) == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert weights_of(sessions, [5]).argmax() == 24
    assert weights_of(sessions, [20]).argmax() == 39
    assert len(sessions._open) <= 16


def test_a_long_session_goes_on_in_another_slot():
    sessions = Sessions(vocabulary(), HALF_LIFE, 100)
    learned(sessions, [[1 + n % 40 for n in range(LENGTH + 5)]], length=128)
    assert sessions._rings.length[:2].tolist() == [LENGTH, 5]


def test_a_new_session_of_a_user_is_another_session():
    worker, sessions = Worker(), Sessions(vocabulary(), HALF_LIFE, 100)
    contexts = worker.histories.stage([event("u", 1, session="a"), event("u", 2, session="b")]).contexts
    sessions.learn(contexts, np.arange(2))
    assert sessions._rings.length[:2].tolist() == [1, 1]


def test_more_similar_sessions_than_count_are_cut_to_the_most_similar():
    sessions = Sessions(vocabulary(), 1e9, 2000)
    learned(sessions, [[1, 2]] * NEIGHBOURS + [[1, 9, 3]] * 50)
    q = weights_of(sessions, [9, 1])
    assert q[2] > 0.0
    assert q[1] < naive([[1, 2]] * NEIGHBOURS + [[1, 9, 3]] * 50, [9, 1], half_life=1e9)[1] - 0.01


def test_evicted_items_leave_all_sessions_and_a_new_owner_starts_clean():
    sessions = Sessions(vocabulary(), HALF_LIFE, 100)
    learned(sessions, [[1, 2, 3], [2, 4]])
    sessions.evict([2])
    assert not (sessions._rings.items == 2).any()
    assert sessions._rings.head[2] == 0
    assert weights_of(sessions, [2]) == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert weights_of(sessions, [1])[1] == pytest.approx(0.0, abs=1e-6)
    learned(sessions, [[2, 7]], prefix="v")
    assert weights_of(sessions, [2])[6] == pytest.approx(1.0)


def test_a_forgotten_user_is_in_no_session():
    sessions = Sessions(vocabulary(), HALF_LIFE, 100)
    learned(sessions, [[1, 2], [1, 3]])
    sessions.forget(key64("u0"))
    q = weights_of(sessions, [1])
    assert q[1] == pytest.approx(0.0, abs=1e-6)
    assert q[2] == pytest.approx(1.0)
    assert not (sessions._rings.user == key64("u0")).any()
    assert key64("u0") not in sessions._open
    learned(sessions, [[5, 6]])  # the same user again
    assert weights_of(sessions, [5]).argmax() == 5


def test_predicting_changes_nothing_and_the_state_goes_on():
    draw = np.random.default_rng(5)
    histories = [draw.integers(1, 41, 6).tolist() for _ in range(30)]
    for capacity in (16, 1000):
        sessions = Sessions(vocabulary(), HALF_LIFE, capacity)
        learned(sessions, histories)
        before = sessions.state()
        weights_of(sessions, [1, 2, 3])
        assert same_state(before, sessions.state())
        other = Sessions(sessions.items, HALF_LIFE, capacity)
        other.load(before)
        for one in (sessions, other):
            learned(one, histories[::-1], prefix="v", batch=16)
        assert same_state(sessions.state(), other.state())


def test_a_micro_batch_of_nothing():
    sessions = Sessions(vocabulary(), HALF_LIFE, 100)
    contexts = Worker().histories.stage([]).contexts
    sessions.learn(contexts, np.zeros(0, np.int64))
    assert sessions.view(contexts, NO_SMOOTHING).propose(3)[0].shape == (0, 3)
