"""Streams whose behaviour changes at a known place, made from one log that is taken as unchanging.

Every stream has `before` events of the log as they are, and `after` events in which something changed; `change` is
the place of the first changed event. All draws are seeded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BOT = 1 << 40
"""Ids of bots, and of items that replace others, begin here."""


@dataclass(frozen=True)
class Log:
    """Columns of a log in stream order; `time` in seconds. Only `genuine` events are scored."""

    user: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    time: np.ndarray
    genuine: np.ndarray

    def __len__(self):
        return len(self.user)

    def __getitem__(self, part):
        return Log(self.user[part], self.item[part], self.kind[part], self.time[part], self.genuine[part])


@dataclass(frozen=True)
class Stream:
    """A log, where it changes, and the places where it changes again (for `recurring`)."""

    name: str
    log: Log
    change: int
    returns: tuple[int, ...] = ()


def read(path, limit=None, *, ties_seed=None):
    """Read an event log; with `ties_seed` the events of equal time are shuffled."""
    table = pq.read_table(path, columns=["user_id", "item_id", "event_type", "timestamp"]).slice(0, limit)
    item = table["item_id"].to_numpy()
    if item.dtype == object:
        item = np.unique(item.astype(str), return_inverse=True)[1]
    time = table["timestamp"].to_numpy() / 1000.0
    kind = np.array(table["event_type"].to_pylist())
    log = Log(table["user_id"].to_numpy(), item.astype(np.int64), kind, time, np.ones(len(time), bool))
    if ties_seed is None:
        return log
    return log[np.lexsort((np.random.default_rng(ties_seed).random(len(time)), time))]


def write(path, log):
    """Write a log as `tidemill replay` and `read` take it."""
    columns = {"user_id": log.user, "item_id": log.item, "event_type": log.kind}
    pq.write_table(pa.table(columns | {"timestamp": np.round(log.time * 1000).astype(np.int64)}), path)


def stationary(log, before, seed):
    """The simulator's log as it is."""
    del seed
    return Stream("a", log, before)


def abrupt(log, before, seed):
    """Permute all items at once: their identity is lost, behaviour is kept."""
    return Stream("b", changed(log, other_items(log, seed), np.arange(len(log)) >= before), before)


def partial(log, before, seed):
    """Permute the items of 30 % of the users."""
    users, index = np.unique(log.user, return_inverse=True)
    chosen = np.random.default_rng(seed).random(len(users)) < 0.3
    return Stream("c", changed(log, other_items(log, seed), (np.arange(len(log)) >= before) & chosen[index]), before)


def gradual(log, before, seed):
    """Permute the items of ever more events, until after 50,000 (or five sixths of what is left) it is all of them."""
    over = min(50_000, (len(log) - before) * 5 // 6)
    share = (np.arange(len(log)) - before) / over
    return Stream(
        "d", changed(log, other_items(log, seed), np.random.default_rng(seed).random(len(log)) < share), before
    )


def recurring(log, before, seed):
    """A B A B A: after `before` events of A four equal parts."""
    length = (len(log) - before) // 4
    part = (np.arange(len(log)) - before) // length
    in_b = (part == 0) | (part == 2)
    returns = tuple(before + length * n for n in (1, 2, 3))
    return Stream("e", changed(log, other_items(log, seed), in_b), before, returns)


def burst(log, before, seed):
    """For 10,000 events every other one is of one of ten bots that go through 500 items in random order."""
    draw = np.random.default_rng(seed)
    bots = min(5_000, (len(log) - before) // 4)
    at = before + np.arange(bots)
    items = draw.choice(np.unique(log.item), min(500, len(np.unique(log.item))), replace=False)
    kind = np.full(bots, log.kind[before])
    robots = Log(BOT + draw.integers(10, size=bots), draw.choice(items, bots), kind, log.time[at], np.zeros(bots, bool))
    place = np.concatenate([np.arange(len(log)) + 0.5, at.astype(float)])
    joined = {name: np.concatenate([getattr(log, name), getattr(robots, name)]) for name in Log.__annotations__}
    return Stream("f", Log(**joined)[np.argsort(place, kind="stable")], before)


def new_catalogue(log, before, seed):
    """30 % of the items are replaced by new ones, one after the other within 20,000 events."""
    draw = np.random.default_rng(seed)
    items, index = np.unique(log.item, return_inverse=True)
    over = min(20_000, (len(log) - before) // 3)
    leaves = np.where(draw.random(len(items)) < 0.3, before + draw.random(len(items)) * over, np.inf)
    gone = np.arange(len(log)) >= leaves[index]
    return Stream("g", replace(log, item=np.where(gone, BOT + index, log.item)), before)


def natural(log, before, seed):
    """The log as it is."""
    del seed
    return Stream("h", log, before)


STREAMS = {
    "a": stationary,
    "b": abrupt,
    "c": partial,
    "d": gradual,
    "e": recurring,
    "f": burst,
    "g": new_catalogue,
    "h": natural,
}


def other_items(log, seed):
    """Return what each event's item becomes under a permutation of all items."""
    items, index = np.unique(log.item, return_inverse=True)
    return np.random.default_rng(seed).permutation(items)[index]


def changed(log, other, where):
    """Return the log with other items in some places."""
    return replace(log, item=np.where(where, other, log.item))
