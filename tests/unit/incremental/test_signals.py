import numpy as np
import pytest

from incremental.outcomes import FIRST, IGNORED, SCORED, ItemOutcomes, Observed, Outcomes, TimeOutcomes, TypeOutcomes
from incremental.signals import Signals, Surprise, names, share_of_same


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
    assert values["active_users"].tolist() == [0.5, 0.0, 0.5]
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


def test_a_restored_distribution_goes_on_the_same():
    one, other = Signals([], 4), Signals([], 4)
    one._types.update(np.array([1, 1, 2]))
    other.load(one.state())
    assert one._types.update(np.array([1])) == other._types.update(np.array([1]))


@pytest.mark.parametrize(("users", "shares"), [([1], []), ([1, 2], [0, 0]), ([1, 1, 2], [0.5, 0.5, 0])])
def test_the_share_of_the_same_user_does_not_depend_on_the_size(users, shares):
    assert share_of_same(np.array(users)).tolist() == shares
