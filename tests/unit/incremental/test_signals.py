from types import SimpleNamespace

import numpy as np
import pytest

from incremental.drift import DriftMonitor
from incremental.outcomes import FIRST, IGNORED, SCORED, ItemOutcomes, Observed, Outcomes, TimeOutcomes, TypeOutcomes
from incremental.signals import NEARBY, Nearby, Signals, Surprise, names


def test_signals_are_told_of_the_events_that_they_are_about():
    kinds = np.array([SCORED, FIRST, IGNORED, SCORED], dtype=np.uint8)
    users = np.array([1, 2, 3, 1])
    observed = Observed(
        kinds, users, users, users, np.ones(4), np.array([True, False, False, True]), 10, exclude_seen=False
    )
    ours = ItemOutcomes(np.array([3, 0, 0, 12], np.int32), np.array([-1.0, -2.0, np.nan, -4.0]))
    theirs = ItemOutcomes(np.zeros(4, np.int32), np.array([-3.0, -2.0, np.nan, -5.0]))
    types = {"tidemill": TypeOutcomes(np.ones(4, bool), np.array([-0.1, -0.2, -0.3, -0.4]))}
    times = {"tidemill": TimeOutcomes(np.ones(4), np.array([0.5, np.nan, 0.6, 0.7]))}
    outcomes = Outcomes(kinds, {"tidemill": ours, "one": theirs}, None, types, times)
    values = Signals(["one"], 4).values(
        observed,
        outcomes,
        np.array([1, 1, 1, 2]),
        np.array([1.0, np.nan, 2.0, 3.0]),
        np.array([False, True, True, True]),
    )
    assert set(values) == set(names(["one"]))
    assert values["log_loss"].tolist() == [1.0, 4.0]
    assert values["log_loss/one"].tolist() == [3.0, 5.0]
    assert values["misses"].tolist() == [0.0, 1.0]
    assert values["misses/known"].tolist() == [1.0]
    assert values["lost_hits"].tolist() == [4.0]
    assert values["unknown"].tolist() == [0.0, 1.0, 0.0]
    assert values["active_users"].tolist() == []  # there are not enough events yet
    assert values["event_type/log_loss"].tolist() == [0.1, 0.4]
    assert values["next_event_s/pinball"].tolist() == [0.5, 0.7]
    assert len(values["event_type"]) == 3
    assert len(values["time_gap"]) == 2

    watched = Signals(["one"], 4).values(
        observed,
        outcomes,
        np.array([1, 1, 1, 2]),
        np.array([1.0, np.nan, 2.0, 3.0]),
        np.ones(4, bool),
        np.array([False, True, True, True]),
    )
    assert watched["log_loss"].tolist() == [4.0]
    assert watched["unknown"].tolist() == [1.0, 0.0]


def test_a_distribution_that_changes_is_a_surprise():
    draw = np.random.default_rng(1)
    surprise = Surprise(4)
    usual = [surprise.update(draw.choice(4, 256, p=[0.7, 0.2, 0.1, 0.0])).mean() for _ in range(50)]
    other = surprise.update(draw.choice(4, 256, p=[0.2, 0.2, 0.3, 0.3])).mean()
    assert other > max(usual[10:]) + 1.0


def test_what_is_restored_goes_on_the_same():
    one, other = Signals([], 4), Signals([], 4)
    one._types.update(np.array([1, 1, 2]))
    one._nearby.update(PAIRS[:300])
    other.load(one.state())
    assert one._types.update(np.array([1])) == other._types.update(np.array([1]))
    assert one._nearby.update(PAIRS[300:400]).tolist() == other._nearby.update(PAIRS[300:400]).tolist()


PAIRS = np.repeat(np.random.default_rng(0).integers(400, size=5_000), 2)
"""Users whose events come in pairs."""


def cut(users, *sizes):
    """The signal of the stream in micro-batches of these sizes in turn, and the micro-batches after which it alarms."""
    nearby, monitor, values, alarms, place = Nearby(), DriftMonitor(["active_users"]), [], [], 0
    while place < len(users):
        size = sizes[len(values) % len(sizes)]
        values.append(nearby.update(users[place : place + size]))
        alarms += monitor.update({"active_users": values[-1]}, place)
        place += size
    return np.concatenate(values), alarms


@pytest.mark.parametrize("sizes", [(8,), (256,), (1, 300, 7), (4096,)])
def test_who_acts_is_the_same_wherever_micro_batches_begin_and_end(sizes):
    shares, _ = cut(PAIRS, *sizes)
    by_hand = [np.mean(PAIRS[place - NEARBY : place] == PAIRS[place]) for place in range(NEARBY, len(PAIRS))]
    assert shares.tolist() == by_hand


@pytest.mark.parametrize(
    ("users", "effective"), [([], 1.0), ([7] * 300, 1.0), ([1, 2, 3, 4] * 100, 4.0), ([1] * 256 + [2, 3] * 96, 2.0)]
)
def test_how_many_users_the_latest_events_of_a_signal_are_of(users, effective):
    signals = Signals([], 4)
    assert signals.users("misses") == signals.users("lost_hits") == 1.0
    for start in range(0, len(users), 50):
        saw(signals, users[start : start + 50], known=start >= 100)
    assert signals.users("misses") == pytest.approx(effective)
    assert signals.users("lost_hits") == signals.users("misses/known")
    assert signals.users("lost_hits") == pytest.approx(effective)
    saw(signals, [9] * 500, known=False)  # newcomers
    assert signals.users("misses") == 1.0
    assert signals.users("lost_hits") == pytest.approx(effective)
    other = Signals([], 4)
    other.load(signals.state())
    assert (other.users("misses"), other.users("lost_hits")) == (1.0, pytest.approx(effective))
    older = signals.state()
    del older.arrays["scored_users"], older.arrays["known_users"]
    other.load(older)
    assert other.users("misses") == other.users("lost_hits") == 1.0  # nothing is sure until they are seen again


def saw(signals, users, *, known):
    """Let it see scored events of these users."""
    count = len(users)
    kinds, missed = np.full(count, SCORED, np.uint8), np.zeros(count)
    observed = SimpleNamespace(kind_B=kinds, admitted_B=np.ones(count, bool), user_B=np.array(users, np.int64))
    outcomes = SimpleNamespace(kind_B=kinds, items={}, types={}, times={})
    signals.values(observed, outcomes, np.zeros(count, np.int64), missed, np.full(count, known))


def test_a_worker_that_has_caught_up_alarms_about_nobody():
    """Its micro-batches were full and are small from then on."""
    _, alarms = cut(PAIRS, *[256] * 30, *[8] * 10_000)
    assert alarms == []


def test_a_user_who_makes_half_of_the_traffic_is_an_alarm():
    users = PAIRS.copy()
    users[6000::2] = 400
    _, alarms = cut(users, 64)
    assert 6000 <= alarms[0].event < 6400
