import numpy as np
import pytest
import torch
from support import Worker, event, random_events, same_state, small_settings

from consumer.events import key64
from model.candidates import LIKE
from model.components import COMPONENTS
from model.likeness import LIKENESSES
from model.model import Model


def components_at(worker, events):
    """Every component's probability of all admitted items and unknown, for all states of a micro-batch."""
    contexts = worker.histories.stage(events).contexts
    rows = np.append(np.int32(0), worker.model.items.admitted_rows())
    asked = np.tile(rows, (contexts.states, 1))
    return [view.score(np.arange(contexts.states), asked) for view in worker.model.views(contexts).all]


@pytest.mark.parametrize("learned", [0, 16, 200])
@pytest.mark.parametrize("max_items", [16, 1000])
def test_every_component_is_a_distribution_over_admitted_items_and_unknown(learned, max_items):
    worker = Worker(small_settings(model={"max_items": max_items}))
    worker.run(random_events(learned))
    for p in components_at(worker, random_events(20, seed=1)):
        assert (p > 0.0).all()
        assert p.sum(axis=1) == pytest.approx(np.ones(len(p)), abs=1e-4)


def test_with_an_empty_vocabulary_no_component_has_an_advantage():
    first = random_events(8)
    for p in components_at(Worker(), first):
        assert p == pytest.approx(np.ones_like(p), abs=1e-6)
    worker = Worker()
    worker.step(first)
    assert worker.model.mixture.weights(np.array([0]))[0] == pytest.approx([1 / len(COMPONENTS)] * len(COMPONENTS))


def test_an_evicted_row_is_clean_in_every_component():
    """What is learned about a row's new owner is what would be learned if nobody had been there before."""
    worker = Worker(small_settings(model={"max_items": 16}))
    worker.run(random_events(160, items=16))
    model = worker.model
    row = int(model.items.lookup(np.array([key64(3)]))[0])
    model.evict([row])
    table, counts = model.transformer.table.state(model.items.rows).arrays, model.popularity.state().arrays["count"]
    assert not table["weight"][row].any()
    assert not table["square"][row].any()
    assert table["touched"][row] == 0
    assert table["bias"][row] == -np.inf
    assert counts[row] == 0.0


def test_every_memory_that_keeps_items_lets_an_evicted_one_go():
    worker = Worker(small_settings(model={"max_items": 16}))
    worker.run(random_events(320, items=16))
    evicted = {}
    for memory in worker.model.memories:
        original = memory.evict
        memory.evict = lambda rows, name=memory.name, call=original: (evicted.setdefault(name, list(rows)), call(rows))
    row = int(worker.model.items.lookup(np.array([key64(3)]))[0])
    before = {memory.name: memory.state() for memory in worker.model.memories}
    worker.model.evict([row])
    assert evicted == {memory.name: [row] for memory in worker.model.memories}
    item_memories = {"recency_popularity", "popularity_now", "transitions", "transitions_now", "similar_sessions"}
    item_memories |= {"latest_items", "item_statistics", "transformer"}
    for memory in worker.model.memories:
        if memory.name in item_memories:
            assert not same_state(before[memory.name], memory.state()), memory.name


def test_every_memory_learns_in_a_step():
    worker = Worker()
    worker.run([event(f"u{n % 5}", f"u{n % 7}", 10.0 * n) for n in range(70)])  # users answer each other
    parts = [*worker.model.memories, worker.model.mixture, worker.model.ranker, worker.model.calibrator]
    before = [part.state() for part in parts]
    worker.step([event(f"u{n % 5}", f"u{n % 6}", 1000.0 + n) for n in range(30)])
    for part, earlier in zip(parts, before, strict=True):
        assert not same_state(earlier, part.state()), type(part).__name__


def test_evicted_items_are_unknown_to_every_component():
    worker = Worker(small_settings(model={"max_items": 16}))
    worker.run([event("u", f"old{n}", 10.0 * n) for n in range(16)])
    worker.run([event("v", f"new{n}", 1000.0 + n) for n in range(16)])
    _, scores, predictions = worker.look([event("u", "old3", 2000.0), event("u", "new3", 2001.0)])
    assert scores.target_B[0] == 0
    assert scores.target_B[1] > 0
    names = {worker.model.items.names[row] for row in predictions.rows_BK[predictions.rows_BK > 0]}
    assert names == {f"new{n}" for n in range(16)}
    assert scores.p_BM[0] == pytest.approx([scores.p_BM[0, 0]] * len(COMPONENTS))  # all charge the same for unknown


def test_one_core_is_used():
    Model(small_settings().model, 1)
    assert torch.get_num_threads() == 1


def test_the_state_goes_on_bit_for_bit():
    settings = small_settings(model={"max_items": 20})
    one, other = Model(settings.model, 1), Model(settings.model, 2)
    worker = Worker(settings)
    worker.run(random_events(100))
    other.load(worker.model.state())
    assert same_state(worker.model.state(), other.state())
    assert not same_state(one.state(), other.state())
    contexts = worker.histories.stage(random_events(5, seed=3)).contexts
    for mine, theirs in zip(worker.model.views(contexts).all, other.views(contexts).all, strict=True):
        assert mine.propose(20)[0].tobytes() == theirs.propose(20)[0].tobytes()


def test_forgetting_a_user_changes_nothing_that_is_counted_by_item():
    worker = Worker()
    worker.run(random_events(40))
    before = worker.model.state()
    worker.model.forget(key64("u1"))
    after = worker.model.state()
    assert not same_state(before.take("similar_sessions"), after.take("similar_sessions"))
    for name in ("transformer", "recency_popularity", "transitions", "mixture", "ranker"):
        assert same_state(before.take(name), after.take(name))


def test_a_component_can_be_left_out():
    worker = Worker(small_settings(model={"leave_out": "transitions,own_counts"}))
    worker.run(random_events(64))
    assert worker.model.mixture.names == [name for name in COMPONENTS if name not in {"transitions", "own_counts"}]
    _, scores, _ = worker.look(random_events(10, seed=2))
    assert scores.p_BM.shape == (10, len(COMPONENTS) - 2)


def test_without_the_transformer_the_ranker_is_told_nothing_of_its_embeddings():
    told = []
    for left_out in ("", "transformer"):
        worker = Worker(small_settings(model={"leave_out": left_out}))
        worker.run(random_events(160))
        _, scores, _ = worker.look(random_events(10, seed=2))
        alike = len(worker.model.mixture.names) + 1 + LIKE
        told.append(bool(scores.candidates.features_QCF[:, :, alike : alike + LIKENESSES].any()))
    assert told == [True, False]
