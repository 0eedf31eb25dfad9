from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import TOPIC, MemoryStore, Worker, event, random_events, same_state, small_settings

from consumer.events import key64
from consumer.ports import TopicPartition
from consumer.snapshots import Image, Snapshots
from incremental.learner import CONTEXT_ITEMS
from model.item_table import ItemTable
from model.transformer import Transformer

PARTITION = TopicPartition(TOPIC, 0)


def test_a_plan_that_does_not_learn_changes_nothing_but_the_number_of_the_batch():
    worker = Worker()
    worker.run(random_events(48))
    before = worker.learner.state()
    step = worker.step(random_events(16, seed=1, items=60), learn=False)
    after = worker.learner.state()
    assert (step.learned.events, step.learned.loss) == (0, None)
    assert after.values.pop("batch") == before.values.pop("batch") + 1
    assert same_state(before, after)


def test_a_batch_without_events_to_learn_changes_nothing_but_the_number():
    worker = Worker(small_settings(input={"on_late": "skip"}))
    worker.run(random_events(48))
    before = worker.learner.state()
    worker.step([event("u1", 5, 1.0, late=True)])
    after = worker.learner.state()
    assert after.values.pop("batch") == before.values.pop("batch") + 1
    assert same_state(before, after)


def test_what_was_done_is_reported():
    worker = Worker()
    first = worker.step([event("u", n % 5, 10.0 * n) for n in range(16)]).learned
    assert (first.events, first.admitted, first.evicted, first.rehearsed) == (16, 5, 0, 0)
    second = worker.step([event("u", n, 1000.0 + n) for n in range(8)]).learned
    assert (second.events, second.admitted, second.rehearsed) == (8, 3, 3)  # windows that hold 16 targets
    assert second.loss.applied is True
    assert (worker.learner.batch, worker.learner.events) == (2, 24)


def test_dropout_follows_what_is_rehearsed(monkeypatch):
    steps = []
    learn = Transformer.learn
    monkeypatch.setattr(
        Transformer, "learn", lambda self, batches, step: steps.append(step) or learn(self, batches, step)
    )
    worker = Worker(small_settings(model={"dropout": 0.4}, learning={"rehearsal_windows": 128, "rehearsal_targets": 8}))
    worker.step([event("u", n % 5, 10.0 * n) for n in range(16)])
    worker.step([event("u", n % 5, 1000.0 + n) for n in range(256)])
    assert steps[0].dropout == 0.0  # nothing to rehearse yet
    assert 0.0 < steps[1].dropout < 0.05  # about a window beside 256 new events


def test_the_same_stream_gives_the_same_bytes():
    one, other = Worker(), Worker()
    for worker in (one, other):
        worker.run(random_events(200, items=60))
    assert same_state(one.learner.state(), other.learner.state())


def test_the_seed_decides():
    other = Worker(small_settings(worker={"seed": 2}))
    one = Worker()
    for worker in (one, other):
        worker.run(random_events(48))
    assert not same_state(one.learner.state(), other.learner.state())


@pytest.mark.parametrize("max_items", [1000, 20])
def test_a_learner_that_went_through_a_snapshot_goes_on_byte_for_byte(max_items):
    settings = small_settings(model={"max_items": max_items}, history={"length": 8, "max_users": 6})
    events = random_events(320, items=50, users=12)
    straight, broken = Worker(settings), Worker(settings)
    straight.run(events[:160])
    broken.run(events[:160])
    snapshots = Snapshots(MemoryStore(), "me", {}, 3)
    histories = {PARTITION: (broken.histories.partitions[PARTITION].state(), 160)}
    snapshots.save(Image(broken.learner.batch, 0, broken.learner.state(), histories))

    snapshot = snapshots.newest()
    restored = Worker(settings)
    restored.run(random_events(32, seed=9))  # whatever it was before
    restored.learner.load(snapshot.worker())
    restored.histories.partitions[PARTITION].load(snapshot.histories(PARTITION))
    assert same_state(straight.learner.state(), restored.learner.state())

    for a, b in zip(straight.run(events[160:]), restored.run(events[160:]), strict=True):
        assert a.plan == b.plan
        assert a.predictions.keys_BK.tobytes() == b.predictions.keys_BK.tobytes()
        assert a.predictions.p_BK.tobytes() == b.predictions.p_BK.tobytes()
        assert a.scores.emitted_rank_B.tolist() == b.scores.emitted_rank_B.tolist()
    assert same_state(straight.learner.state(), restored.learner.state())
    ours, theirs = (w.histories.partitions[PARTITION].state() for w in (straight, restored))
    assert same_state(ours, theirs)


def test_a_tiny_vocabulary_turns_over_and_stays_whole():
    worker = Worker(small_settings(model={"max_items": 16}))
    evicted = 0
    for start in range(0, 400, 16):
        step = worker.step([event(f"u{n % 5}", n // 3, 10.0 * n) for n in range(start, start + 16)])
        evicted += step.learned.evicted
        assert step.learned.loss.applied is True
        assert worker.model.items.size <= 16
        listed = step.predictions.rows_BK[step.predictions.rows_BK > 0]
        assert listed.max(initial=0) <= 16 + 16  # guests stand behind the others
        assert worker.model.items.height <= 16 + 1
    assert evicted > 80
    bias = worker.model.transformer.table.bias[: worker.model.items.rows].numpy()
    assert set(np.flatnonzero(np.isfinite(bias)).tolist()) == set(worker.model.items.admitted_rows().tolist())


def test_who_takes_over_a_row_takes_over_nothing_else():
    worker = Worker(small_settings(model={"max_items": 16}, learning={"rehearsal_windows": 0}))
    worker.run([event("u", n % 16, 10.0 * n) for n in range(160)])
    worker.model.transformer.table._square[1:17] = 1e6
    assert worker.step([event("v", 100 + n, 5000.0 + n) for n in range(16)]).learned.evicted == 16
    table = worker.model.transformer.table.state(17).arrays
    assert table["square"][1:].max() < 1.0
    counts = worker.model.popularity.state().arrays["count"][1:]
    assert counts.max() / counts.min() < 1.01


def test_with_a_minimum_count_the_first_events_teach_nothing_and_break_nothing():
    """No item is admitted, there is one type and there are no times: no head has a target."""
    worker = Worker(small_settings(model={"min_count": 2}))
    step = worker.step([event(f"u{n}", n) for n in range(16)])
    assert step.learned.loss is None
    assert worker.step([event(f"u{n}", n) for n in range(16)]).learned.admitted == 16


def test_an_item_starts_from_what_its_user_had_just_before(monkeypatch):
    started = []
    original = ItemTable.start

    def start(table, rows, context, generator):
        started.extend(zip(rows.tolist(), context.tolist(), strict=True))
        original(table, rows, context, generator)

    monkeypatch.setattr(ItemTable, "start", start)
    worker = Worker()
    worker.step([event("a", "i1", 1.0), event("b", "i2", 2.0), event("a", "i3", 3.0), event("a", "i2", 4.0)])
    assert started == [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 0, 1])]
    worker.step([event("a", "i4", 5.0), event("a", "i5", 6.0)])
    assert CONTEXT_ITEMS == 3
    assert started[3:] == [(4, [1, 3, 2]), (5, [3, 2, 4])]


def test_new_items_of_a_history_kept_while_not_learning_may_come_in_any_order():
    """Items that are known to the histories alone: a row that a later event of the batch begins is no context yet."""
    worker = Worker(small_settings(model={"max_items": 5000}))
    worker.step([event("a", f"i{n}", 1.0 * n) for n in range(12)], learn=False)
    worker.step([event(f"x{n}", n, 100.0) for n in range(1022)])
    step = worker.step([event("a", "new", 200.0), event("b", "i11", 201.0), event("b", "i10", 202.0)])
    assert step.learned.admitted == 3
    assert np.isfinite(worker.model.transformer.table.weight.numpy()).all()


def test_of_a_forgotten_user_no_key_is_left():
    """Neither in what is kept by user nor as an actor whom others answer; counts and weights only fade."""
    worker = Worker()
    worker.run([*random_events(160), *[event("gone", n % 7, 5000.0 + n) for n in range(40)]])
    key = key64("gone")
    held = [name for name, array in worker.learner.state().arrays.items() if (array == key).any()]
    assert any(name.startswith("rehearsal") for name in held)
    assert any(name.startswith("quarantine") for name in held)
    worker.learner.forget(key)
    assert [name for name, array in worker.learner.state().arrays.items() if (array == key).any()] == []


def test_only_scored_events_count_for_repeats_and_first_ones_do_not():
    worker = Worker()
    worker.step([event("a", 1, 1.0), event("b", 1, 2.0), event("a", 1, 3.0), event("a", 2, 4.0)])
    assert worker.learner.repeats.state().values == {"scored": 2, "repeated": 1, "exclude": False}
    worker.step([event("a", 1, 5.0), event("b", 2, 6.0)])
    assert worker.learner.repeats.state().values == {"scored": 4, "repeated": 2, "exclude": False}


def test_repeated_events_are_not_learned():
    one, other = Worker(), Worker()
    events = [event("a", 1, 1.0, event_id="x"), event("a", 2, 2.0, event_id="y")]
    one.step(events)
    other.step([*events, event("a", 1, 3.0, event_id="x")])
    assert same_state(one.learner.state(), other.learner.state())


def test_learning_uses_what_was_scored_before_not_after():
    """The mixture learns from the probabilities of before the step."""
    worker = Worker()
    worker.run(random_events(64))
    events = random_events(16, seed=5)
    staged, scores, _ = worker.look(events)
    plan = worker.learner.plan(staged.contexts)
    before = worker.model.mixture.state()
    worker.learner.learn(staged.contexts, scores, plan, worker.learner.left_out(plan))
    again = type(worker.model.mixture)(worker.model.mixture.names)
    again.load(before)
    again.learn(scores.p_BM, scores.bucket_B)
    assert same_state(again.state(), worker.model.mixture.state())


def test_a_step_that_is_not_finite_is_told_and_leaves_the_network(monkeypatch):
    worker = Worker()
    worker.run(random_events(64))
    transformer = worker.model.transformer
    staged, scores, _ = worker.look(random_events(16, seed=5))
    plan = worker.learner.plan(staged.contexts)
    before = transformer.state()
    monkeypatch.setattr("model.transformer.TYPE_LOSS", float("inf"))
    learned = worker.learner.learn(staged.contexts, scores, plan, worker.learner.left_out(plan))
    assert learned.loss.applied is False
    rows = len(before.arrays["table.weight"])
    for name, array in transformer.state().arrays.items():
        mine = array[:rows] if name.startswith("table.") else array
        assert mine.tobytes() == before.arrays[name].tobytes(), name


def test_the_plan_holds_every_number_that_learning_follows():
    """Two learners with unlike rates and one plan learn the same."""
    one = Worker()
    other = Worker(small_settings(learning={"learning_rate": 0.5, "rehearsal_windows": 3}))
    for worker in (one, other):
        worker.step(random_events(16, seed=1), learn=False)
    events = random_events(16, seed=2)
    plan = one.learner.plan(one.look(events)[0].contexts)
    assert plan != other.learner.plan(other.look(events)[0].contexts)
    for worker in (one, other):
        staged, scores, _ = worker.look(events)
        worker.learner.learn(staged.contexts, scores, plan, worker.learner.left_out(plan))
    assert same_state(one.learner.state(), other.learner.state())


def test_types_beyond_the_limit_share_a_row():
    worker = Worker(small_settings(model={"max_types": 2}))
    worker.run([event("u", n % 4, 10.0 * n, kind=f"t{n % 5}") for n in range(48)])
    assert worker.model.types.names == [None, "t0", "t1"]
    _, scores, predictions = worker.look([event("u", 1, 1e6, kind="t4"), event("u", 1, 1e6, kind="t1")])
    assert scores.type_B.tolist() == [0, 2]
    assert predictions.type_p_BY.shape == (2, 3)


def test_times_are_known_once_one_gap_was_seen():
    worker = Worker()
    worker.step([event("u", 1), event("u", 2, 5.0)])
    assert worker.model.has_times is False
    worker.step([event("u", 1, 9.0)])
    assert worker.model.has_times is True


def test_the_user_key_is_not_what_is_learned():
    """Two users with the same past have the same future, once somebody else has had the same items since."""
    worker = Worker()
    worker.run([event(user, n % 7, 10.0 * n) for n in range(40) for user in ("a", "b")])
    worker.run([event("c", n, 500.0 + n) for n in range(7)])
    _, _, predictions = worker.look([event("a", 3, 1e4), event("b", 3, 1e4)])
    assert key64("a") != key64("b")
    assert predictions.p_BK[0] == pytest.approx(predictions.p_BK[1], abs=1e-4)


def shown(worker, events, **plan):
    contexts = worker.histories.stage(events).contexts
    return worker.learner.show(contexts, replace(worker.learner.plan(contexts), **plan)).shown_B.tolist()


def test_states_are_shown_what_will_be_learned_and_nothing_else():
    worker = Worker(small_settings(input={"on_late": "skip"}))
    events = [event("u", 1), event("v", 2, late=True), event("bot", 3)]
    assert shown(worker, events) == [True, False, True]
    assert shown(worker, events, learn=False) == [False] * 3
    contexts = worker.histories.stage(events).contexts
    assert not contexts.shown_B.any()
    assert not worker.learner.show(contexts, worker.learner.plan_nothing()).shown_B.any()


def test_states_are_not_shown_what_users_in_quarantine_do():
    worker = Worker()
    users = [f"u{n % 25}" for n in range(250)] + ["bot"] * 60
    loss = np.array([2.0] * 250 + [9.0] * 60)
    worker.learner.quarantine.learn(np.array([key64(user) for user in users]), loss)
    events = [event("u1", 1), event("bot", 2), event("u2", 3)]
    assert shown(worker, events, quarantine_above=3.0) == [True, False, True]
    assert shown(worker, events, quarantine_above=0.0) == [True] * 3
