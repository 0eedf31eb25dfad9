"""A simulated log of user behaviour whose parameters never change: users with interests, items that follow each other.

A user has a few topics of interest. The next item is mostly one of the usual successors of the last one (a Markov
chain), else it is drawn from a topic by popularity. Users come and go, so that the stream is stationary although
every user is new at some time. Event types follow each other too, and gaps inside and between visits are log-normal.
"""

from __future__ import annotations

import numpy as np

from model.compiled import compiled
from tests.bench.streams import Log

TYPES = ("view", "cart", "buy")


TOPICS = 30
ACTIVE = 400
"""Users at any time."""
VISITS = 60
"""Events of a user, on average."""
FOLLOW = 0.55
"""Chance that an item follows from the last one."""
SUCCESSORS = 6


def simulate(events, seed, *, items=1500):
    """Return a log of so many events; the world itself depends on nothing, only the draws depend on the seed."""
    start, order, follows = world(items)
    draw = np.random.default_rng(seed)
    uniform, normal = draw.random((events, 6)), draw.standard_normal(events)
    user, item, kind, gap = walk(uniform, normal, follows, order, start, ACTIVE, VISITS, FOLLOW)
    user += items  # nobody is an item: those who come later would be fewer and fewer of them
    return Log(user, item, np.array(TYPES)[kind], 1_700_000_000.0 + np.cumsum(gap), np.ones(events, bool))


def world(items):
    """Return where each topic begins among the items ordered by topic, those items, and each item's successors."""
    fixed = np.random.default_rng(7)
    topic_of = fixed.integers(TOPICS, size=items)
    order = np.argsort(topic_of, kind="stable")
    start = np.searchsorted(topic_of[order], np.arange(TOPICS + 1))
    anywhere = fixed.integers(items, size=(items, SUCCESSORS))
    size = np.diff(start)[topic_of][:, None]
    nearby = order[start[topic_of][:, None] + fixed.integers(1 << 30, size=anywhere.shape) % size]
    return start, order, np.where(fixed.random(anywhere.shape) < 0.7, nearby, anywhere)


@compiled
def walk(u, z, follows, order, start, active, visits, follow):
    """Draw one event after another: who, what, of which type, how long after the event before."""
    events = len(u)
    topics, successors = len(start) - 1, follows.shape[1]
    user, item = np.empty(events, np.int64), np.empty(events, np.int64)
    kind, gap = np.empty(events, np.int64), np.empty(events)
    who = np.arange(active)
    last, previous = np.full(active, -1), np.zeros(active, np.int64)
    interests = np.zeros((active, 2), np.int64)
    born = active
    for n in range(events):
        slot = int(u[n, 0] * active)
        if last[slot] >= 0 and u[n, 1] < 1.0 / visits:
            who[slot], last[slot] = born, -1
            born += 1
        if last[slot] < 0:
            interests[slot, 0] = int(u[n, 4] * topics)
            interests[slot, 1] = int(u[n, 5] * topics)
        if last[slot] >= 0 and u[n, 2] < follow:
            chosen = follows[last[slot], int(u[n, 3] ** 2 * successors)]
        else:
            topic = interests[slot, int(u[n, 5] * 2)]
            size = start[topic + 1] - start[topic]
            chosen = order[start[topic] + int(u[n, 3] ** 3 * size)]
        user[n], item[n], last[slot] = who[slot], chosen, chosen
        kind[n] = (previous[slot] + int(u[n, 4] < 0.25)) % 3
        previous[slot] = kind[n]
        gap[n] = np.exp(0.5 * z[n]) * 0.5
    return user, item, kind, gap
