import numpy as np
import pytest

from incremental.repeats import DECIDE_AFTER, RepeatRule


def feed(rule, repeated, scored=DECIDE_AFTER, batch=256):
    flags = np.arange(scored) < repeated
    for start in range(0, scored, batch):
        rule.learn(flags[start : start + batch])


@pytest.mark.parametrize(("repeated", "exclude"), [(0, True), (9, True), (11, False), (5000, False)])
def test_auto_decides_once_by_the_share_of_repeats(repeated, exclude):
    rule = RepeatRule("auto")
    feed(rule, repeated, DECIDE_AFTER - 256)
    assert rule.exclude is False
    feed(rule, 0, 256)
    assert rule.exclude is exclude
    feed(rule, 0 if not exclude else 5000)
    assert rule.exclude is exclude


@pytest.mark.parametrize(("mode", "exclude"), [("on", True), ("off", False)])
def test_the_other_modes_are_said_not_learned(mode, exclude):
    rule = RepeatRule(mode)
    assert rule.exclude is exclude
    feed(rule, 0 if not exclude else 5000)
    assert rule.exclude is exclude


def test_the_state_goes_on():
    one, other = RepeatRule("auto"), RepeatRule("auto")
    feed(one, 0, DECIDE_AFTER - 1)
    other.load(one.state())
    for rule in (one, other):
        assert rule.exclude is False
        rule.learn(np.array([False]))
        assert rule.exclude is True
    third = RepeatRule("auto")
    third.load(one.state())
    assert third.exclude is True
