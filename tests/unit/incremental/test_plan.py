import pytest
from support import Worker, random_events, same_state

from incremental.plan import dropout, learning_rate, rehearsal_targets, rehearsal_windows, seed_for, step_of
from incremental.settings import LearningSettings

SETTINGS = LearningSettings(
    learning_rate=0.01, learning_rate_decay_events=25_600.0, learning_rate_floor=0.25, rehearsal_windows=64
)


@pytest.mark.parametrize(
    ("learned", "events", "expected"),
    [
        (0, 256, 0.01),
        (76_800, 256, 0.005),
        (384_000, 256, 0.0025),
        (10**12, 256, 0.0025),
        (0, 64, 0.005),
        (0, 10_000, 0.01),
        (76_800, 64, 0.0025),
        (0, 0, 0.0),
    ],
)
def test_the_learning_rate_falls_to_a_floor_and_is_less_for_a_small_micro_batch(learned, events, expected):
    assert learning_rate(SETTINGS, learned, events) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("events", "windows", "targets"), [(256, 64, 512.0), (64, 16, 128.0), (1, 1, 2.0), (0, 0, 0.0), (512, 128, 1024.0)]
)
def test_rehearsal_is_in_proportion_to_the_new_events(events, windows, targets):
    assert rehearsal_windows(SETTINGS, events) == windows
    assert rehearsal_targets(SETTINGS, events) == targets


def test_nothing_is_rehearsed_where_nothing_should_be():
    assert rehearsal_windows(LearningSettings(rehearsal_windows=0), 256) == 0
    assert rehearsal_windows(LearningSettings(rehearsal_windows=0), 1) == 0


@pytest.mark.parametrize(
    ("new", "rehearsed", "expected"), [(256, 512, 0.2), (256, 128, 0.05), (256, 0, 0.0), (10, 512, 0.2), (0, 512, 0.2)]
)
def test_less_is_dropped_where_less_is_learned_again(new, rehearsed, expected):
    assert dropout(0.2, new, rehearsed) == pytest.approx(expected)


def test_every_draw_has_a_seed_of_its_own():
    seeds = {seed_for(s, b, p) for s in (1, 2) for b in range(50) for p in ("learn", "admit", "rehearse")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, 2, "learn") == seed_for(1, 2, "learn")
    assert seed_for(1, 12, "x") != seed_for(11, 2, "x")


def test_a_plan_is_a_pure_decision():
    worker = Worker()
    worker.run(random_events(64))
    contexts = worker.histories.stage(random_events(16, seed=1)).contexts
    before = worker.learner.state()
    plans = [worker.learner.plan(contexts) for _ in range(2)]
    assert plans[0] == plans[1]
    assert same_state(before, worker.learner.state())
    assert plans[0].batch == worker.learner.batch + 1
    assert plans[0].learn is True
    assert worker.learner.plan(contexts, learn=False).learn is False


def test_nothing_is_learned_from_nothing():
    worker = Worker()
    assert worker.learner.plan(worker.histories.stage([]).contexts).learn is False


def test_the_networks_part_of_a_plan():
    worker = Worker()
    plan = worker.learner.plan(worker.histories.stage(random_events(16)).contexts)
    step = step_of(plan, SETTINGS, 0.1)
    assert (step.learning_rate, step.dropout, step.seed) == (plan.learning_rate, 0.1, plan.seed)
    assert (step.weight_decay, step.gradient_clip, step.negatives) == (0.0, 1.0, 2048)
