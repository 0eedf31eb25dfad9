from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.vocabulary import UNKNOWN, KeyTable, Vocabulary

KEYS = st.integers(-(2**63), 2**63 - 1).filter(lambda key: key not in {0, -1}) | st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=300))
def test_the_key_table_is_a_dict(steps):
    table, model = KeyTable(8), {}
    for row, (add, key) in enumerate(steps, start=1):
        if add and key not in model:
            table.insert(key, row)
            model[key] = row
        elif not add and key in model:
            table.remove(key)
            del model[key]
    asked = np.array([key for _, key in steps] + [3, 5], np.int64)
    assert table.lookup(asked).tolist() == [model.get(key, UNKNOWN) for key in asked.tolist()]


class NaiveVocabulary:
    """The rules in plain words: names in a dict, the stalest leaves, nothing of the present micro-batch does."""

    def __init__(self, max_size: int, min_count: int) -> None:
        self.max_size, self.min_count = max_size, min_count
        self.seen: dict[int, int] = {}
        self.counts: dict[int, int] = {}

    def observe(self, keys: list[int], event: int) -> tuple[set[int], set[int]]:
        """Return the keys that were admitted and those that were evicted."""
        wanted: dict[int, int] = {}
        for place, key in enumerate(keys):
            if key in self.seen:
                self.seen[key] = event + place
            elif key not in wanted:
                count = self.counts.pop(key, 0) + 1
                if count >= self.min_count:
                    wanted[key] = event + place
                else:
                    self.counts[key] = count
                    if len(self.counts) > self.max_size:
                        del self.counts[next(iter(self.counts))]
        evicted: set[int] = set()
        if len(self.seen) + len(wanted) > self.max_size:
            stale = sorted((at, key) for key, at in self.seen.items() if at < event)
            evicted = {key for _, key in stale[: len(wanted)]}
        for key in evicted:
            del self.seen[key]
        admitted = dict(list(wanted.items())[: self.max_size - len(self.seen)])
        self.seen |= admitted
        return set(admitted), evicted


BATCHES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), max_size=25)


@settings(max_examples=120, deadline=None)
@given(BATCHES, st.integers(3, 20), st.integers(1, 3), st.integers(0, 24))
def test_the_vocabulary_does_what_the_naive_one_does(batches, max_size, min_count, save_at):
    mine, naive = Vocabulary(max_size, min_count), NaiveVocabulary(max_size, min_count)
    event = 0
    for index, batch in enumerate(batches):
        keys = np.array(batch, np.int64)
        row_of = {int(mine.lookup(np.array([key]))[0]): key for key in naive.seen}
        positions, rows = mine.observe(keys, [str(key) for key in batch], event)
        admitted, evicted = naive.observe(batch, event)
        assert {batch[place] for place in positions} == admitted
        assert {row_of[row] for row in rows} == evicted
        event += len(batch)
        check_it_is_whole(mine, naive)
        if index == save_at:
            state = mine.state()
            mine = Vocabulary(max_size, min_count)
            mine.load(state)
            check_it_is_whole(mine, naive)


def check_it_is_whole(mine: Vocabulary, naive: NaiveVocabulary) -> None:
    """Each admitted key has a row of its own with its name; nothing else has one; rows are bounded."""
    admitted = np.array(sorted(naive.seen), np.int64)
    rows = mine.lookup(admitted)
    assert mine.size == len(admitted)
    assert sorted(rows.tolist()) == mine.admitted_rows().tolist()
    assert UNKNOWN not in rows
    assert [mine.names[row] for row in rows.tolist()] == [str(key) for key in admitted.tolist()]
    assert mine.keys(rows).tolist() == admitted.tolist()
    others = np.array([key for key in range(1, 31) if key not in naive.seen], np.int64)
    assert not mine.lookup(others).any()
    assert mine.rows <= mine.max_size + 1
