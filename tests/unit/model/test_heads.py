from __future__ import annotations

import numpy as np
import pytest
from support import Worker, event, random_events, same_state, small_settings

from model.gaps import CELL, WIDTH


def habits(n, seed=0, sure=0.9):
    """Users who alternate between two types, and come back after a minute or after a day by the type they had."""
    draw = np.random.default_rng(seed)
    clock, kind = dict.fromkeys(range(6), 1.7e9), dict.fromkeys(range(6), "view")
    events = []
    for _ in range(n):
        user = int(draw.integers(6))
        if draw.random() < sure:
            kind[user] = "buy" if kind[user] == "view" else "view"
        events.append(event(user, int(draw.integers(9)), clock[user], kind=kind[user]))
        clock[user] += 60.0 if kind[user] == "view" else 86_400.0
    return events


def judged(events, batch=16, settings=None):
    """Types and times that the heads expected, beside what came, over the second half of the stream."""
    worker = Worker(settings or small_settings())
    expected = []
    for start in range(0, len(events), batch):
        scores = worker.step(events[start : start + batch]).scores
        if start >= len(events) // 2:
            expected.append((scores.type_p_BY.argmax(axis=1), scores.type_B, scores.gap_quantiles_B3, scores.log_gap_B))
    return [np.concatenate(column) for column in zip(*expected, strict=True)]


def test_they_learn_what_follows_which_type_and_when():
    kinds, came, quantiles, gap = judged(habits(1600))
    assert (kinds == came).mean() > 0.85
    assert (np.abs(quantiles[:, 1] - gap) <= 2 * CELL).mean() > 0.95


def test_a_state_before_anything_was_learned_has_times_but_no_types():
    worker = Worker()
    _, scores, _ = worker.look(random_events(10))
    assert scores.type_p_BY is None
    assert np.isfinite(scores.gap_quantiles_B3).all()


def test_type_probabilities_sum_to_one_and_are_never_zero():
    worker = Worker()
    worker.run(random_events(60, kinds=("a", "b", "c")), batch=16)
    _, scores, predictions = worker.look(random_events(20, seed=1, kinds=("a", "b", "c", "new")))
    for p in (scores.type_p_BY, predictions.type_p_BY):
        assert p.shape == (20, 4)
        assert p.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
        assert (p > 0.0).all()


def test_more_types_than_are_told_apart_share_a_row():
    kinds = [f"k{n}" for n in range(12)]
    worker = Worker(small_settings(model={"max_types": 5}))
    worker.run(random_events(120, kinds=kinds), batch=16)
    _, scores, _ = worker.look(random_events(20, seed=1, kinds=kinds))
    assert scores.type_p_BY.shape == (20, 6)
    assert scores.type_p_BY[:, 0].mean() > 0.3  # the seven that are not told apart


def test_looking_changes_nothing():
    worker = Worker()
    worker.run(random_events(60), batch=16)
    before = worker.model.heads.state()
    worker.look(random_events(20, seed=1))
    assert same_state(before, worker.model.heads.state())


def test_the_quantiles_cover_what_they_say():
    _, _, quantiles, gap = judged(random_events(3000), batch=64)
    known = np.isfinite(gap)
    shares = (gap[known, None] <= quantiles[known]).mean(axis=0)
    assert shares == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


def test_the_first_micro_batch_already_knows_the_times_of_its_own_earlier_events():
    ticks = [event(place % 3, place % 7, 1.7e9 + 10.0 * place) for place in range(96)]  # 30 s for each of three users
    scores = Worker().step(ticks).scores
    off = np.abs(scores.gap_quantiles_B3[-48:, 1] - np.log1p(30.0))
    assert off.max() <= WIDTH


def test_times_of_events_that_come_later_in_the_micro_batch_are_not_known():
    events = random_events(60)
    worker, other = Worker(), Worker()
    whole, part = worker.step(events).scores, other.step(events[:30]).scores
    assert np.array_equal(whole.gap_quantiles_B3[:30], part.gap_quantiles_B3)
