from __future__ import annotations

import numpy as np
import pytest
from support import same_state

import model.count_table as module
from model.count_table import HALF_LIFE_EVENTS, CountTable

EVEN = np.full(4, 0.25)


def test_a_line_without_events_says_what_all_say():
    overall = np.array([0.7, 0.1, 0.1, 0.1])
    assert CountTable(3, 4, 5.0).probabilities(np.array([2]), overall)[0] == pytest.approx(overall)


def test_counts_are_smoothed_towards_all():
    table = CountTable(3, 4, 2.0)
    table.learn(np.array([1, 1, 1, 2]), np.array([0, 0, 3, 1]))
    weight = 2.0 ** (4 / HALF_LIFE_EVENTS)
    expected = (weight * np.array([2, 0, 0, 1]) + 2.0 * EVEN) / (3 * weight + 2.0)
    found = table.probabilities(np.array([1, 2]), EVEN)
    assert found[0] == pytest.approx(expected, rel=1e-3)
    assert found.sum(axis=1) == pytest.approx(np.ones(2))


def test_classes_may_grow():
    table = CountTable(2, 6, 1.0)
    table.learn(np.array([0]), np.array([5]))
    assert table.probabilities(np.array([0]), np.full(3, 1 / 3)).shape == (1, 3)
    assert table.probabilities(np.array([0]), np.full(6, 1 / 6))[0].argmax() == 5


def test_old_counts_fade_and_renormalising_changes_nothing(monkeypatch):
    tables = []
    for limit in (1e6, 1.5):
        monkeypatch.setattr(module, "RENORMALISE_ABOVE", limit)
        table = CountTable(1, 4, 0.1)
        table.learn(np.zeros(20_000, np.int64), np.zeros(20_000, np.int64))
        for _ in range(80):
            table.learn(np.zeros(1000, np.int64), np.full(1000, 2))
        tables.append(table.probabilities(np.array([0]), EVEN)[0])
    assert tables[0] == pytest.approx(tables[1], rel=1e-4)
    assert tables[0][2] > 0.9


def test_it_comes_back_as_it_was():
    table, again = CountTable(9, 4, 5.0), CountTable(9, 4, 5.0)
    table.learn(np.array([1, 7]), np.array([0, 3]))
    again.learn(np.array([2]), np.array([2]))
    again.load(table.state())
    assert same_state(table.state(), again.state())
    every = np.arange(9)
    assert again.probabilities(every, EVEN).tolist() == table.probabilities(every, EVEN).tolist()
