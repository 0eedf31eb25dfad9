from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pytest
from support import Worker, event, same_state

from model.gaps import BINS, CELL, QUANTILES, WIDTH, Gaps, bin_of


def test_bin_0_is_nothing_and_the_others_are_equally_wide():
    log_gap = np.array([0.0, 1e-9, WIDTH - 1e-6, WIDTH + 1e-6, 10.5 * WIDTH, 1e3])
    assert bin_of(log_gap).tolist() == [0, 1, 1, 2, 11, BINS - 1]


def test_before_anything_is_known_every_bin_is_possible():
    share = Gaps().share()
    assert share.sum() == pytest.approx(1.0)
    assert (share > 0.0).all()


def test_quantiles_are_those_of_the_gaps():
    """The stream's own shares, turned into quantiles, are the quantiles of what came; ticks are met exactly."""
    draw = np.random.default_rng(0)
    log_gap = np.where(draw.random(4000) < 0.3, np.log1p(30.0), np.log1p(draw.exponential(4000.0, 4000)))
    gaps = Gaps()
    gaps.learn(log_gap)
    found = gaps.quantiles(gaps.share()[None])[0]
    assert found == pytest.approx(np.quantile(log_gap, QUANTILES), abs=0.1)
    assert abs(found[0] - np.log1p(30.0)) <= CELL


def test_quantiles_never_cross_and_stay_in_their_bins():
    draw = np.random.default_rng(1)
    gaps = Gaps()
    gaps.learn(draw.exponential(5.0, 500))
    p_QB = draw.dirichlet(np.full(BINS, 0.05), 300)
    found = gaps.quantiles(p_QB)
    assert (np.diff(found, axis=1) >= 0.0).all()
    below = np.cumsum(p_QB, axis=1)
    for index, level in enumerate(QUANTILES):
        assert bin_of(found[:, index]).tolist() == (below < level).sum(axis=1).tolist()


def test_many_equal_times_make_all_quantiles_nothing():
    gaps = Gaps()
    gaps.learn(np.zeros(1000))
    assert gaps.quantiles(gaps.share()[None]).tolist() == [[0.0, 0.0, 0.0]]


def test_old_gaps_fade():
    gaps = Gaps()
    gaps.learn(np.full(20_000, 2.0))
    for _ in range(80):
        gaps.learn(np.full(1000, 8.0))
    assert gaps.quantiles(gaps.share()[None])[0] == pytest.approx([8.0] * 3, abs=2 * CELL)


def test_it_comes_back_as_it_was():
    gaps, again = Gaps(), Gaps()
    gaps.learn(np.linspace(0.0, 9.0, 77))
    again.load(gaps.state())
    assert same_state(gaps.state(), again.state())
    assert again.share().tolist() == gaps.share().tolist()


def shares(times, hidden=()):
    """What the states after some events of one user take for the shares of the bins."""
    contexts = Worker().histories.stage([event("u", 1, time) for time in times]).contexts
    contexts = replace(contexts, shown_B=contexts.learn_B & ~np.isin(np.arange(len(times)), hidden))
    return Gaps().shares(contexts)[contexts.after_B]


def test_a_state_counts_the_gaps_of_the_micro_batch_up_to_its_moment():
    found = shares([100.0, 160.0, 220.0])
    share, minute = Gaps().share(), bin_of(np.log1p([60.0]))[0]
    assert np.allclose(found[0], share)  # a first event has no gap
    assert share[minute] < 0.1
    assert 0.5 < found[1][minute] < found[2][minute]
    assert np.allclose(found.sum(axis=1), 1.0)


def test_what_a_state_may_not_look_at_and_what_has_no_time_is_not_counted():
    assert np.allclose(shares([100.0, 160.0, 220.0], hidden=[1])[1], Gaps().share())
    assert np.allclose(shares([100.0, 160.0, 220.0], hidden=[0, 1, 2]), Gaps().share())
    assert np.allclose(shares([nan, nan, nan]), Gaps().share())
