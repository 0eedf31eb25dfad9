"""The baselines against a naive implementation that scores every item for every event."""

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incremental.baselines import Baselines
from incremental.outcomes import FIRST, IGNORED, MISS, SCORED, Observed

HALF_LIVES = {
    "popularity": None,
    "recent_popularity@1000": 1000,
    "recent_popularity@10000": 10_000,
    "recent_popularity@100000": 100_000,
}
LATEST = "_latest"
"""End of the names of methods by which of equal counts the latest stands first."""
NAMES = [*HALF_LIVES, "markov", f"markov{LATEST}", "own_recent", "own_frequent", f"own_frequent{LATEST}"]


class Naive:
    """Everything from the log of learned events, with one loop over all items per method."""

    def __init__(self, history_length, epsilon):
        self.length, self.epsilon = history_length, epsilon
        self.users = {}
        self.pairs, self.order = {}, {}
        self.weights = {name: Counter() for name in HALF_LIVES}
        self.increment = dict.fromkeys(HALF_LIVES, 1.0)

    def scores(self, name, user):
        """Item → score of the method's own list, and of what it backs off to."""
        kept = self.users.get(user, [])
        recent = self.weights["recent_popularity@10000"]
        if name in HALF_LIVES:
            return dict(self.weights[name]), {}
        if name.startswith("markov"):
            counts, order = (self.pairs.get(kept[-1], {}), self.order.get(kept[-1], [])) if kept else ({}, [])
        elif name.startswith("own_frequent"):
            counts, order = Counter(kept), kept
        else:
            counts = None
        if counts is not None:
            late = {item: place for place, item in enumerate(order)}  # tells equals apart: less than a whole count
            return {i: n + (late[i] / 1e6 if name.endswith(LATEST) else 0) for i, n in counts.items()}, recent
        return {item: position for position, item in enumerate(kept)}, recent

    def rank(self, name, user, item, exclude):
        hidden = set(self.users.get(user, [])) if exclude else set()
        own, back = self.scores(name, user)
        own = {i: s for i, s in own.items() if i not in hidden}
        back = {i: s for i, s in back.items() if i not in hidden and i not in own}
        if item in own:
            rank = sum(s >= own[item] for i, s in own.items() if i != item)
        elif item in back:
            rank = len(own) + sum(s >= back[item] for i, s in back.items() if i != item)
        else:
            return int(MISS)
        return rank if rank < 20 else int(MISS)

    def q(self, name, user):
        own, _ = self.scores(name, user)
        recent = self.weights["recent_popularity@10000"]
        r = {i: w / sum(recent.values()) for i, w in recent.items()}
        if name in HALF_LIVES:
            return {i: w / sum(own.values()) for i, w in own.items()}
        if not own:
            return r
        own = own if name == "own_recent" else {i: int(s) for i, s in own.items()}
        n, t = sum(own.values()), len(own)
        if name == "own_recent":
            n = len(self.users[user])
            latest = sorted(own, key=own.get, reverse=True)[:20]
            weights = {i: 1 / (1 + position) for position, i in enumerate(latest)}
            own = {i: n * w / sum(weights.values()) for i, w in weights.items()}
        return {i: (own.get(i, 0) + t * r[i]) / (n + t) for i in r}

    def probability(self, name, user, item, support):
        return self.epsilon / (support + 1) + (1 - self.epsilon) * self.q(name, user).get(item, 0.0)

    def learn(self, user, item):
        for name, half_life in HALF_LIVES.items():
            self.weights[name][item] += self.increment[name]
            self.increment[name] *= 2.0 ** (1.0 / half_life) if half_life else 1.0
        kept = self.users.setdefault(user, [])
        if kept:
            self.pairs.setdefault(kept[-1], Counter())[item] += 1
            self.order.setdefault(kept[-1], []).append(item)
        kept.append(item)
        del kept[: -self.length]


def observed(events, admitted, support, exclude):
    kinds, users, items = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    ones = np.ones(len(events))
    return Observed(
        kinds.astype(np.uint8), users, items, ones.astype(np.int64), ones, np.array(admitted), support, exclude
    )


def compare(events, history_length, exclude, batch=7):
    """Feed both; every rank and probability must agree, and no distribution may sum to more than one."""
    baselines, naive = Baselines(history_length, 0.01, 1000), Naive(history_length, 0.01)
    support = set()
    below = 0
    for start in range(0, len(events), batch):
        part = events[start : start + batch]
        admitted = [item in support for _, _, item in part]
        outcomes, _, _ = baselines.observe(observed(part, admitted, len(support), exclude))
        assert list(outcomes) == NAMES
        for index, (kind, user, item) in enumerate(part):
            if kind == FIRST:
                naive.users.pop(user, None)
            for name in NAMES:
                rank, log_prob = outcomes[name].rank_B[index], outcomes[name].log_prob_B[index]
                if kind == IGNORED:
                    assert rank == MISS
                    assert np.isnan(log_prob)
                    continue
                assert rank == naive.rank(name, user, item, exclude), (start + index, name)
                below += rank < 20
                known = item if admitted[index] else None
                assert log_prob == pytest.approx(log(naive.probability(name, user, known, len(support))), abs=1e-9)
                if support and index == 0:
                    assert sum(naive.probability(name, user, i, len(support)) for i in support) <= 1 + 1e-12
            if kind != IGNORED:
                naive.learn(user, item)
        support.update(item for kind, _, item in part if kind != IGNORED)
    return below


def with_kinds(pairs, ignored=()):
    seen = set()
    events = []
    for index, (user, item) in enumerate(pairs):
        kind = IGNORED if index in ignored else SCORED if user in seen else FIRST
        if kind != IGNORED:
            seen.add(user)
        events.append((kind, user, item))
    return events


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 45)), min_size=1, max_size=90),
    ignored=st.sets(st.integers(0, 89), max_size=10),
    history_length=st.integers(1, 6),
    exclude=st.booleans(),
)
def test_ranks_and_probabilities_equal_the_naive_ones(pairs, ignored, history_length, exclude):
    compare(with_kinds(pairs, ignored), history_length, exclude)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("items", "skew"), [(30, 1.1), (90, 1.3), (400, 2.0)])
def test_long_skewed_streams_with_more_items_than_the_sorted_lists_hold(items, skew, exclude):
    rng = np.random.default_rng(items)
    drawn = np.minimum(rng.zipf(skew, 700), items)
    repeats = rng.random(700) < 0.3
    users = rng.integers(1, 25, 700)
    pairs = [
        (int(u), int(users[i] * 3 % items + 1 if r else d))
        for i, (u, d, r) in enumerate(zip(users, drawn, repeats, strict=True))
    ]
    below = compare(with_kinds(pairs), 5, exclude, batch=64)
    assert below > 500


@pytest.mark.parametrize("exclude", [False, True])
def test_users_with_long_histories(exclude):
    rng = np.random.default_rng(5)
    pairs = [(int(u), int(i)) for u, i in zip(rng.integers(1, 4, 400), rng.geometric(0.02, 400), strict=True)]
    compare(with_kinds(pairs), 60, exclude, batch=50)
