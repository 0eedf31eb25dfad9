from __future__ import annotations

import numpy as np
import pytest
from support import Worker, event, random_events, same_state, small_settings

from consumer.events import key64
from incremental.rehearsal import Among, Rehearsal
from model.sequences import gaps
from model.vocabulary import Vocabulary

ITEMS = 2000


class Memory:
    """A rehearsal memory and the histories that feed it; item n is admitted as row n + 1."""

    def __init__(self, capacity=5, length=8, history=12):
        self.rehearsal = Rehearsal(capacity, length)
        self.worker = Worker(small_settings(history={"length": history}))
        self.items, self.types = Vocabulary(ITEMS), Vocabulary(8, evict=False)
        self.items.observe(np.array([key64(n) for n in range(ITEMS)]), list(range(ITEMS)), 0)
        self.types.observe(np.array([key64("event"), key64("buy")]), ["event", "buy"], 0)

    def add(self, events):
        staged = self.worker.histories.stage(events)
        self.rehearsal.add(staged.contexts, np.arange(len(staged.contexts.user_R)))
        self.worker.histories.apply(staged, np.zeros((len(events), 20), np.int64))

    def windows(self):
        """Every window as (items, number of those that are context only)."""
        state = self.rehearsal.state().arrays
        rows = [self.items.lookup(line[:length]) for line, length in zip(state["items"], state["length"], strict=True)]
        return [((row - 1).tolist(), int(first)) for row, first in zip(rows, state["first"], strict=True)]

    def sample(self, count=50, seed=0):
        return self.rehearsal.sample(count, np.random.default_rng(seed), self.items, self.types).windows


def of_user(user, *items, start=0.0):
    return [event(user, item, start + 10.0 * n) for n, item in enumerate(items)]


def test_a_window_fills_as_the_user_acts_and_the_next_begins_with_context():
    memory = Memory()
    memory.add(of_user("u", 1, 2, 3))
    memory.add(of_user("u", 4, 5))
    assert memory.windows() == [([1, 2, 3, 4, 5], 0)]
    memory.add(of_user("u", 6, 7, 8, 9, 10))
    assert memory.windows() == [([1, 2, 3, 4, 5, 6, 7, 8], 0), ([7, 8, 9, 10], 2)]


@pytest.mark.parametrize("batch", [1, 3, 7, 40])
def test_every_event_is_a_target_once_however_the_stream_is_cut(batch):
    memory = Memory(capacity=500, history=12)
    events = [event(f"u{n % 3}", n, 10.0 * n) for n in range(120)]
    for start in range(0, 120, batch):
        memory.add(events[start : start + batch])
    targets = [item for items, first in memory.windows() for item in items[first:]]
    assert sorted(targets) == list(range(120))
    for items, _ in memory.windows():
        assert (np.diff(items) == 3).all()  # one user's, in order


def test_the_memory_is_bounded_and_the_oldest_window_is_overwritten():
    memory = Memory(capacity=3)
    for n in range(10):
        memory.add(of_user(f"u{n}", n, 100 + n))
    assert len(memory.rehearsal) == 3
    assert sorted(memory.windows()) == [([7, 107], 0), ([8, 108], 0), ([9, 109], 0)]
    assert len(memory.rehearsal._open) == 3
    memory.add(of_user("u0", 50, 51))
    assert [1, 101] not in [items for items, _ in memory.windows()]
    assert ([50, 51], 2) not in memory.windows()
    assert len(memory.windows()) == 3


def test_a_user_whose_window_was_overwritten_begins_another():
    memory = Memory(capacity=2)
    memory.add(of_user("a", 1, 2))
    memory.add(of_user("b", 3, 4))
    memory.add(of_user("c", 5, 6))
    memory.add(of_user("a", 7))
    assert sorted(memory.windows()) == [([1, 2, 7], 2), ([5, 6], 0)]


def test_a_ring_of_one_is_enough():
    memory = Memory(capacity=1)
    memory.add(of_user("a", *range(20)))
    memory.add(of_user("b", 30, 31))
    assert memory.windows() == [([30, 31], 0)]


def test_samples_are_windows_and_context_is_no_target():
    memory = Memory()
    memory.add(of_user("u", *range(10)))
    memory.add(of_user("v", 50))
    drawn = memory.sample()
    assert len(drawn.length_R) == 50
    lines = {
        (*(drawn.items_RL[row, :length] - 1).tolist(), int(first))
        for row, (length, first) in enumerate(zip(drawn.length_R, drawn.first_target_R, strict=True))
    }
    assert lines == {(*range(8), 1), (6, 7, 8, 9, 2)}  # the first event has no predecessor to learn from
    assert not drawn.items_RL[drawn.length_R == 4, 4:].any()


def test_samples_hold_types_gaps_and_sessions():
    memory = Memory()
    times = [0.0, 5.0, 5000.0, 5001.0]
    events = [event("u", n, time, kind="buy" if n % 2 else "event") for n, time in enumerate(times)]
    memory.add(events)
    drawn = memory.sample(1)
    assert drawn.types_RL[0].tolist() == [1, 2, 1, 2]
    assert drawn.gaps_RL[0].tolist() == pytest.approx(gaps(np.array([times]))[0].tolist(), nan_ok=True)
    assert drawn.opens_RL[0].tolist() == [True, False, True, False]


def test_an_evicted_item_is_unknown_and_one_that_returns_has_its_new_row():
    memory = Memory()
    memory.add(of_user("u", 1, 2, 3))
    small = Vocabulary(16)
    small.observe(np.array([key64(3), key64(1)]), [3, 1], 0)
    drawn = memory.rehearsal.sample(1, np.random.default_rng(0), small, memory.types).windows
    assert drawn.items_RL[0].tolist() == [2, 0, 1]


def test_there_is_nothing_to_draw_from_an_empty_memory_or_first_events():
    memory = Memory()
    assert memory.sample() is None
    memory.add(of_user("a", 1) + of_user("b", 2))
    assert memory.sample() is None
    memory.add(of_user("a", 3))
    assert memory.sample(0) is None
    assert memory.sample(1) is not None


def test_the_generator_alone_decides_what_is_drawn():
    memory = Memory(capacity=50)
    memory.add(random_events(200, items=100))
    one, again, other = memory.sample(20, 1), memory.sample(20, 1), memory.sample(20, 2)
    assert one.items_RL.tolist() == again.items_RL.tolist()
    assert one.items_RL.tolist() != other.items_RL.tolist()


@pytest.mark.parametrize(("count", "targets"), [(1, 2.0), (4, 7.5), (50, 30.0)])
def test_few_targets_are_held_in_the_mean_also_where_windows_hold_more(count, targets):
    memory = Memory(capacity=50)
    memory.add(random_events(300, items=100, users=8))
    drawn = [
        memory.rehearsal.sample(count, np.random.default_rng(seed), memory.items, memory.types, targets)
        for seed in range(600)
    ]
    held = np.array([0 if one.windows is None else one.windows.targets for one in drawn])
    assert len(set(held.tolist())) > 2
    assert held.mean() == pytest.approx(np.mean([one.targets for one in drawn]), abs=4 * held.std() / 600**0.5)
    assert max(one.targets for one in drawn) == targets
    assert [one.targets for one in drawn].count(targets) > 300


def test_where_many_windows_are_drawn_the_last_one_is_whole():
    memory = Memory(capacity=50)
    memory.add(random_events(300, items=100, users=8))
    drawn = memory.rehearsal.sample(200, np.random.default_rng(0), memory.items, memory.types, 200.0)
    assert 200 < drawn.windows.targets < 200 + 8
    assert drawn.targets == drawn.windows.targets


def test_a_forgotten_user_is_gone():
    memory = Memory(capacity=6)
    memory.add(of_user("a", *range(12)) + of_user("b", 30, 31))
    memory.rehearsal.forget(key64("a"))
    assert [items for items, _ in memory.windows() if items] == [[30, 31]]
    state = memory.rehearsal.state().arrays
    assert key64("a") not in state["user"]
    assert not np.isin(state["items"], [key64(n) for n in range(12)]).any()
    assert set((memory.sample(20).items_RL - 1).flatten().tolist()) <= {30, 31, -1}
    memory.rehearsal.forget(key64("nobody"))
    memory.add(of_user("a", 40, 41))
    assert [items[-2:] for items, _ in memory.windows() if items] == [[30, 31], [40, 41]]


def test_repeated_events_are_not_remembered():
    memory = Memory()
    memory.add([event("u", 1, event_id="x"), event("u", 2, event_id="y"), event("u", 1, event_id="x")])
    assert memory.windows() == [([1, 2], 0)]


@pytest.mark.parametrize("other", ["fresh", "used"])
def test_the_state_goes_on_bit_for_bit(other):
    one, two = Memory(capacity=9), Memory(capacity=9)
    if other == "used":
        two.add(random_events(150, seed=5, users=30))
    for seed in range(3):
        events = random_events(7, seed=seed, users=3)
        one.add(events)
    two.rehearsal.load(one.rehearsal.state())
    two.worker = one.worker
    assert same_state(one.rehearsal.state(), two.rehearsal.state())
    for seed in range(3, 12):
        events = random_events(16, seed=seed, users=5)
        contexts = one.worker.histories.stage(events).contexts
        two.rehearsal.add(contexts, np.arange(len(contexts.user_R)))
        one.add(events)
        drawn = [memory.sample(10, seed) for memory in (one, two)]
        assert drawn[0].items_RL.tobytes() == drawn[1].items_RL.tobytes()
    assert same_state(one.rehearsal.state(), two.rehearsal.state())


def test_what_a_reused_window_held_before_is_not_in_the_state():
    memory = Memory(capacity=1)
    memory.add(of_user("a", *range(8)))
    memory.add(of_user("b", 30, 31))
    state = memory.rehearsal.state().arrays
    assert not np.isin(state["items"], [key64(n) for n in range(8)]).any()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("count", [1, 2, 128])
def test_the_stated_share_is_drawn_from_the_latest_windows_however_few_are_drawn(share, count):
    memory, latest, draw = Memory(capacity=100, length=4), 10, np.random.default_rng(0)
    for number in range(100):
        memory.add(of_user(f"u{number}", number, number, number))
    among = Among(0, share, latest)
    drawn = [
        memory.rehearsal.sample(count, draw, memory.items, memory.types, among=among).windows
        for _ in range(1024 // count)
    ]
    recent = np.concatenate([windows.items_RL[:, 0] > 100 - latest for windows in drawn])
    assert recent.mean() == pytest.approx(share + (1 - share) * latest / 100, abs=0.05)
