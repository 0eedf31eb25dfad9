from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from support import Worker, event, random_events, small_settings

from model.rhythm import LATEST, MEMORY, RUNS, STEP, TYPE_MEMORY, rhythm


def seen(events, before=()):
    """The rhythm of all states after `before` was learned, and the staged micro-batch."""
    worker = Worker(small_settings(history={"length": 64}))
    worker.run([event("known", 1, 1e9, kind=kind) for kind in ("a", "b", "c")], batch=3)
    if before:
        worker.run(list(before), batch=len(before))
    staged, _, _ = worker.look(events)
    return rhythm(staged.contexts, worker.model.types), staged.contexts, worker


def naive(times, kinds):
    """The same for one user's events so far, by a plain loop."""
    gaps = [np.log1p(max(0.0, b - a)) for a, b in pairwise(times)][-LATEST:][::-1]
    weights = MEMORY ** np.arange(len(gaps))
    mean = float(np.dot(weights, gaps) / weights.sum()) if gaps else np.nan
    last = [*gaps[:2], np.nan, np.nan][:2]
    run = 0
    for kind in kinds[-2::-1]:
        if kind != kinds[-1]:
            break
        run += 1
    return (
        [*last, mean],
        min(run, RUNS - 1),
        {
            kind: sum(TYPE_MEMORY**lag for lag, one in enumerate(kinds[: -LATEST - 1 : -1]) if one == kind)
            for kind in "abc"
        },
    )


def test_it_is_that_of_a_loop_over_each_users_events():
    draw = np.random.default_rng(3)
    times = 1.7e9 + np.cumsum(draw.exponential(500.0, 120).round())
    users, kinds = draw.integers(0, 3, 120), draw.choice(list("aabc"), 120)
    events = [event(f"u{u}", 1, t, kind=k) for u, t, k in zip(users, times, kinds, strict=True)]
    beat, contexts, worker = seen(events[40:], events[:40])
    rows = {kind: worker.model.types.names.index(kind) for kind in "abc"}
    for index in range(80):
        mine = [n for n in range(41 + index) if users[n] == users[40 + index]]
        gaps, run, counts = naive(times[mine].tolist(), kinds[mine].tolist())
        state = contexts.after_B[index]
        assert beat.gaps_Q3[state] == pytest.approx(gaps, abs=2e-3, nan_ok=True)
        assert beat.type_Q[state] == rows[kinds[40 + index]]
        assert beat.run_Q[state] == run
        assert {kind: beat.counts_QY[state, row] for kind, row in rows.items()} == pytest.approx(counts, rel=1e-4)
        assert beat.hour_Q[state] == 1 + int(times[40 + index] % 86400 // 3600)
        assert beat.length_Q[state] == len(mine)


def test_of_a_new_user_nothing_is_known():
    beat, contexts, _ = seen([event("new", 1, 1.7e9, kind="a")])
    state = contexts.before_B[0]
    assert (beat.type_Q[state], beat.run_Q[state], beat.hour_Q[state], beat.length_Q[state]) == (0, 0, 0, 0)
    assert np.isnan(beat.gaps_Q3[state]).all()
    assert beat.steps[state].tolist() == [0, 0, 0]
    assert np.isfinite(beat.inputs()).all()


def test_without_times_the_types_remain():
    beat, contexts, _ = seen(random_events(20, kinds=("a", "b"), timed=False))
    assert np.isnan(beat.gaps_Q3).all()
    assert not beat.hour_Q.any()
    assert beat.type_Q[contexts.after_B].all()


def test_steps_are_coarse_and_zero_is_unknown():
    beat, contexts, _ = seen([event("u", 1, 1.7e9, kind="a"), event("u", 1, 1.7e9 + np.expm1(2.5 * STEP), kind="a")])
    assert beat.steps[contexts.after_B[1]].tolist() == [3, 0, 3]
