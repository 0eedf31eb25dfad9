from __future__ import annotations

import json

import numpy as np

from incremental.drift import SEGMENT_LOSS
from incremental.policy import respond
from incremental.segments import COUNTED, OTHER, Segments
from incremental.settings import DriftSettings, PolicySettings
from model.state import State

BATCH = 256


def segments(**settings):
    values = {"segment": "country", "warm_up_events": 0, "max_segments": 2, "segment_events": 64}
    return Segments(DriftSettings(**values | settings))


def feed(watched, events, *, worse=(), names=("at", "de", None, "fr"), start=0, seed=0):
    """Feed noisy losses around 6 nats, two more in the segments `worse`; returns what was detected."""
    draw, found = np.random.default_rng(seed + start), []
    for place in range(start, start + events, BATCH):
        who = [names[index] for index in draw.integers(len(names), size=BATCH)]
        loss = draw.normal(6.0, 1.0, BATCH) + 2.0 * np.array([name in worse for name in who])
        found += watched.update(who, loss, np.ones(BATCH, bool), place)
    return found


def test_a_change_in_one_segment_is_found_and_named():
    watched = segments()
    assert feed(watched, 80 * BATCH) == []
    found = feed(watched, 20 * BATCH, worse=("de",), start=80 * BATCH)
    assert [(alarm.signal, alarm.segment) for alarm in found] == [(SEGMENT_LOSS, "de")]
    assert found[0].is_alarm
    assert 80 * BATCH < found[0].event < 90 * BATCH
    assert 1.0 < found[0].after - found[0].before < 3.0


def test_what_is_no_segment_is_watched_together_as_other():
    watched = segments()
    feed(watched, 80 * BATCH, names=("at", "de"))  # no room is left for fr
    feed(watched, 80 * BATCH, start=80 * BATCH)
    found = feed(watched, 40 * BATCH, worse=("fr", None), start=160 * BATCH)
    assert {alarm.segment for alarm in found} == {OTHER}


def test_when_a_value_leaves_other_that_is_no_alarm():
    """What stays may be harder than what goes."""
    watched = segments(max_segments=1, segment_events=20_000)
    assert feed(watched, 200 * BATCH, worse=("fr",), names=("de", "de", "fr")) == []
    assert watched.state().values["names"] == [OTHER, "de"]


def test_events_that_are_not_watched_count_for_nothing():
    watched = segments()
    watched.update(["de"] * BATCH, np.full(BATCH, 9.0), np.zeros(BATCH, bool), 0)
    assert watched.state().values["names"] == [OTHER]
    assert watched.state().values["counts"] == {}


def test_no_more_values_are_counted_than_there_is_room_for():
    watched = segments()
    for place in range(0, 3 * COUNTED, BATCH):
        watched.update([f"v{place + n}" for n in range(BATCH)], np.ones(BATCH), np.ones(BATCH, bool), place)
        assert len(watched.state().values["counts"]) <= COUNTED
    assert watched.state().values["names"] == [OTHER]


def test_restored_it_goes_on_as_if_nothing_had_happened():
    one, other = segments(), segments()
    feed(one, 85 * BATCH)
    other.load(State(values=json.loads(json.dumps(one.state().values))))
    later = {"worse": ("at",), "start": 85 * BATCH}
    assert feed(one, 15 * BATCH, **later) == feed(other, 15 * BATCH, **later) != []
    assert one.state() == other.state()


def test_of_another_feature_nothing_is_taken_over():
    one, other = segments(), segments(segment="device")
    feed(one, 20 * BATCH)
    other.load(one.state())
    assert other.state() == segments(segment="device").state()


def test_the_policy_does_not_answer_a_segment():
    assert respond(SEGMENT_LOSS, 5.0, PolicySettings()) == ()
