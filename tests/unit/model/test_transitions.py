from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from support import Worker, event, same_state, small_settings

from consumer.events import key64
from model.smoothing import Smoothing
from model.transitions import ACROSS, BACKWARD, BLOCK, CONTEXT, CONTEXT_DECAY, LAGS, MAX_BLOCKS, Transitions
from model.vocabulary import Vocabulary

NO_SMOOTHING = Smoothing(1e-9, 40, 0.0)
HALF_LIFE = 50.0


def vocabulary(size=40):
    items = Vocabulary(10_000)
    items.observe(np.array([key64(n) for n in range(1, size + 1)]), list(range(1, size + 1)), 0)
    return items


def contexts_of(worker, events):
    return worker.histories.stage(events).contexts


def learned(transitions, sessions, users=("u",)):
    """Learn whole sessions, one after another, each of its own user, session borders where a tuple starts anew."""
    worker = Worker(small_settings(history={"length": 64}))
    for number, session in enumerate(sessions):
        events = [event(f"{users[0]}{number}", item, 1.0, session=str(part)) for part, item in session]
        contexts = contexts_of(worker, events)
        transitions.learn(contexts, np.arange(len(events)))
    return worker


def weights_of(transitions, items):
    """The three components' weights of items 1..40 after a history of `items` in one session."""
    contexts = contexts_of(Worker(small_settings(history={"length": 64})), [event("q", item) for item in items])
    last = np.array([contexts.after_B[-1]], np.int64)
    asked = np.arange(1, 41, dtype=np.int32)[None]
    return [view.score(last, asked)[0] for view in transitions.views(contexts, NO_SMOOTHING)]


def naive(sessions, context):
    """The definition, with dictionaries; no bounds."""
    count, growth, clock = defaultdict(float), 2.0 ** (1.0 / HALF_LIFE), 1.0
    for session in sessions:
        for place, (_, item) in enumerate(session):
            weight = clock
            for lag in range(1, min(LAGS, place) + 1):
                if session[place - lag + 1][0] != session[place - lag][0]:
                    weight *= ACROSS
                earlier = session[place - lag][1]
                count[earlier, item, "right" if lag == 1 else "later"] += weight / lag**0.5
                if earlier != item:
                    count[item, earlier, "before"] += weight / lag**0.5
            clock *= growth
    first, forward, around = np.zeros(41), np.zeros(41), np.zeros(41)
    for lag, item in enumerate(reversed(context[-CONTEXT:])):
        after = {b: sum(count[item, b, kind] for kind in ("right", "later")) for b in range(1, 41)}
        share = CONTEXT_DECAY**lag / (sum(after.values()) / clock + 1.0) ** 0.5
        for other in range(1, 41):
            first[other] += count[item, other, "right"] if lag == 0 else 0.0
            forward[other] += share * after[other]
            around[other] += share * (after[other] + BACKWARD * count[item, other, "before"])
    return [q[1:] / max(q.sum(), 1e-30) for q in (first, forward, around)]


def random_sessions(seed, count=30, items=40):
    draw = np.random.default_rng(seed)
    return [
        [(int(place > 4), int(draw.integers(1, items + 1))) for place in range(draw.integers(1, 12))]
        for _ in range(count)
    ]


def test_a_long_micro_batch_at_a_short_half_life_does_not_overflow():
    sessions = random_sessions(4, count=400)
    whole, cut = (Transitions(vocabulary(), 1000.0, 100_000) for _ in range(2))
    worker = Worker(small_settings(history={"length": 64}))
    events = [event(f"u{n}", item, 1.0) for n, session in enumerate(sessions) for _, item in session]
    contexts = contexts_of(worker, events)
    whole.learn(contexts, np.arange(len(events)), 5.0)
    for part in np.array_split(np.arange(len(events)), 40):
        cut.learn(contexts, part, 5.0)
    assert len(events) > 128 * 5.0 * 3  # in one go: 2 ** 384 and more, where float32 ends at 2 ** 128
    for one, other in zip(weights_of(whole, [3, 7]), weights_of(cut, [3, 7]), strict=True):
        assert np.isfinite(one).all()
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_are_those_of_the_definition(seed):
    sessions, transitions = random_sessions(seed), Transitions(vocabulary(), HALF_LIFE, 100_000)
    learned(transitions, sessions)
    for context in ([3], [1, 2, 3], [5, 5, 6], list(range(1, 12))):
        for ours, expected in zip(weights_of(transitions, context), naive(sessions, context), strict=True):
            if expected.sum() > 0.0:
                assert ours == pytest.approx(expected, abs=1e-5)


def test_how_the_stream_is_cut_changes_nothing():
    """The same events in micro-batches of one or of many leave the same memory."""
    events = [event(f"u{n % 3}", 1 + n % 7, float(n)) for n in range(60)]
    states = []
    for size in (1, 7, 60):
        worker, transitions = Worker(small_settings(history={"length": 64})), Transitions(vocabulary(), HALF_LIFE, 1000)
        for start in range(0, 60, size):
            staged = worker.histories.stage(events[start : start + size])
            transitions.learn(staged.contexts, np.arange(len(events[start : start + size])))
            worker.histories.apply(staged, np.zeros((staged.contexts.events, 20), np.int64))
        states.append(transitions.state())
    assert states[0].arrays["total"] == pytest.approx(states[1].arrays["total"])
    assert same_state(states[1], states[2]) or states[1].arrays["counts"] == pytest.approx(states[2].arrays["counts"])


def test_without_neighbours_a_state_is_uniform():
    for q in weights_of(Transitions(vocabulary(), HALF_LIFE, 1000), [1, 2]):
        assert q == pytest.approx(np.full(40, 1 / 40), abs=1e-6)


def test_an_item_keeps_a_bounded_number_of_neighbours_the_strongest():
    size = MAX_BLOCKS * BLOCK + 50
    items = vocabulary(size + 1)
    transitions = Transitions(items, 1e9, 1_000_000)
    strong = [[(0, 1), (0, 2)]] * 5
    learned(transitions, strong + [[(0, 1), (0, 3 + n)] for n in range(size - 2)])
    blocks = transitions._blocks
    kept = blocks.neighbour[blocks.owner == 1]
    assert (kept > 0).sum() == MAX_BLOCKS * BLOCK
    assert 2 in kept
    assert size in kept


def test_when_the_memory_is_full_the_oldest_block_goes():
    capacity = 4 * BLOCK
    transitions = Transitions(vocabulary(), HALF_LIFE, capacity)
    learned(transitions, [[(0, 2 * n + 1), (0, 2 * n + 2)] for n in range(10)])
    blocks = transitions._blocks
    assert len(blocks.owner) <= 5
    assert sorted(blocks.owner[1:].tolist()) == [17, 18, 19, 20]
    assert not blocks.first[1:17].any()
    assert blocks.total[1:17] == pytest.approx(np.zeros(16), abs=1e-6)
    assert weights_of(transitions, [19])[0].argmax() == 19  # item 20
    assert weights_of(transitions, [1])[0] == pytest.approx(np.full(40, 1 / 40), abs=1e-6)


def test_an_evicted_item_is_gone_on_both_sides():
    transitions = Transitions(vocabulary(), HALF_LIFE, 1000)
    learned(transitions, [[(0, 1), (0, 2), (0, 3)], [(0, 2), (0, 1)]])
    transitions.evict([2])
    blocks = transitions._blocks
    assert not (blocks.neighbour == 2).any()
    assert not (blocks.owner == 2).any()
    assert blocks.first[2] == 0
    q = weights_of(transitions, [1])
    assert q[1].argmax() == 2  # item 3
    assert q[1][1] == pytest.approx(0.0, abs=1e-6)
    forward = [blocks.counts[blocks.owner == owner][..., :2].sum() for owner in (1, 2, 3)]
    assert blocks.total[[1, 2, 3]] == pytest.approx(forward, abs=1e-5)
    learned(transitions, [[(0, 2), (0, 5)]])
    assert weights_of(transitions, [2])[0][4] == pytest.approx(1.0)


def test_a_long_stream_does_not_overflow():
    transitions = Transitions(vocabulary(), 1.0, 1000)
    learned(transitions, [[(0, 1), (0, 2)]] * 60)
    assert np.isfinite(transitions.state().arrays["counts"]).all()
    assert weights_of(transitions, [1])[0][1] == pytest.approx(1.0)


def test_predicting_changes_nothing_and_the_state_goes_on():
    transitions = Transitions(vocabulary(), HALF_LIFE, 4 * BLOCK)
    learned(transitions, random_sessions(3))
    before = transitions.state()
    weights_of(transitions, [1, 2, 3])
    assert same_state(before, transitions.state())
    other = Transitions(transitions.items, HALF_LIFE, 4 * BLOCK)
    other.load(before)
    for one in (transitions, other):
        learned(one, random_sessions(4))
    assert same_state(transitions.state(), other.state())


def test_unknown_items_are_no_neighbours():
    transitions = Transitions(vocabulary(), HALF_LIFE, 1000)
    learned(transitions, [[(0, 1), (0, 999), (0, 2)]])
    q = weights_of(transitions, [1])
    assert q[0] == pytest.approx(np.full(40, 1 / 40), abs=1e-6)
    assert q[1][1] == pytest.approx(1.0)


def test_a_micro_batch_of_nothing():
    transitions = Transitions(vocabulary(), HALF_LIFE, 1000)
    contexts = contexts_of(Worker(), [])
    transitions.learn(contexts, np.zeros(0, np.int64))
    assert transitions.views(replace(contexts), NO_SMOOTHING)[0].propose(5)[0].shape == (0, 5)
