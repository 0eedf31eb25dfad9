from itertools import pairwise
from types import SimpleNamespace

import pytest

from consumer.clock import ManualClock
from consumer.track import POINTS, Track


class Prequential:
    methods = ("tidemill", "fresh")

    def recent(self, method):
        return {"hr@10": 0.25} if method == "tidemill" else {}


def pipeline():
    parts = SimpleNamespace(
        evaluation=SimpleNamespace(prequential=Prequential()),
        model=SimpleNamespace(mixture=SimpleNamespace(overall=lambda: {"a": 1.0})),
    )
    return SimpleNamespace(events=0, parts=parts)


def run(events, step=256, per_step_s=0.5):
    clock, stream = ManualClock(), pipeline()
    track = Track(clock)
    for seen in range(step, events + 1, step):
        stream.events = seen
        clock.advance(per_step_s)
        track.note(stream)
    return track.series()


def test_notes_are_taken_every_so_many_events():
    series = run(4096)
    assert [at for at, _ in series.speed] == [1024, 2048, 3072, 4096]
    assert [speed for _, speed in series.speed] == pytest.approx([512.0] * 4)
    assert series.weights == tuple((at, {"a": 1.0}) for at, _ in series.speed)
    assert series.hit_rates == tuple((at, {"tidemill": 0.25}) for at, _ in series.speed)


def test_a_short_stream_has_no_notes_and_a_standing_clock_no_division_by_zero():
    assert run(512).speed == ()
    assert all(speed > 0 for _, speed in run(2048, per_step_s=0.0).speed)


def test_a_long_stream_has_bounded_notes_spread_over_all_of_it():
    series = run(1024 * POINTS * 5, step=1024)
    assert POINTS // 2 <= len(series.speed) <= POINTS
    places = [at for at, _ in series.speed]
    steps = {b - a for a, b in pairwise(places)}
    assert places[0] <= 8 * 1024
    assert places[-1] > 1024 * (POINTS * 5 - 8)
    assert max(steps) <= 2 * min(steps)
