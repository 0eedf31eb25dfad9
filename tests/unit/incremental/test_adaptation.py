"""What the policy orders is in the plan, is done by it, and is the same through a snapshot and a redo."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from support import Worker, event, random_events, same_state, small_settings

from consumer.events import key64
from incremental.adaptation import Adaptation
from incremental.champion import Champion, Verdict, verdicts_told
from incremental.drift import Detection
from incremental.interventions import intervene
from incremental.plan import LearnPlan, Measures, active
from incremental.policy import NEW_WORLD, OBSERVE
from incremental.settings import PolicySettings
from model.components import COMPONENTS

SETTINGS = PolicySettings(
    short_half_lives=True,
    rehearse_recent=True,
    cool_down_events=1000,
    half_life_events=50.0,
    half_life_for_events=100,
    rehearse_recent_for_events=200,
    learning_rate_factor=3.0,
    learning_rate_half_life_events=100,
    boost_learning_rate=True,
    restart_mixture=True,
    restart_heads=True,
    champion_share=1.0,
    champion_events=64,
    pause_quarantine_for_events=300,
)
WORSE = Detection(500, "misses", "adwin", 0.8, 1.0)


def plan_of(measures):
    return LearnPlan(1, True, 0.1, 8, 16, 0.0, 1, 1, False, **asdict(measures))


def go_on(adaptation, events, windows=7):
    adaptation.carried_out(plan_of(adaptation.measures(windows)), events)


def test_what_few_users_lost_is_no_reason_to_act():
    few = Detection(500, "misses", "adwin", 0.8, 0.97)
    assert Adaptation(SETTINGS).react([few], lambda _signal: 6.0) == [few]
    assert Adaptation(SETTINGS).react([few], lambda _signal: 200.0)[0].action != OBSERVE


def test_without_an_alarm_nothing_is_done():
    adaptation = Adaptation(SETTINGS)
    adaptation.react([Detection(5, "log_loss", "adwin", 6.0, 6.1)])
    measures = adaptation.measures(7)
    assert measures.actions == ()
    assert not any(active(plan_of(measures)).values())


def test_an_alarm_begins_actions_that_last_and_fade():
    adaptation = Adaptation(SETTINGS)
    (told,) = adaptation.react([WORSE])
    assert told.action == "pause_quarantine+short_half_lives+rehearse_recent+boost_learning_rate+restart_mixture"
    begin = adaptation.measures(7)
    assert begin.actions == ("keep_champion", *told.action.split("+"))
    assert (begin.learning_rate_factor, begin.half_life_events, begin.rehearse_since) == (3.0, 50.0, 7)
    go_on(adaptation, 100)
    later = adaptation.measures(9)
    assert (later.actions, later.half_life_events, later.rehearse_since) == ((), 0.0, 7)
    assert later.learning_rate_factor == pytest.approx(2.0)
    go_on(adaptation, 1000)
    assert not any(active(plan_of(adaptation.measures(9))).values())


def test_the_record_of_a_recovery_is_told_as_it_is():
    back = Detection(900, "recovered", "log_loss", 8.0, 6.0, "after 400 events")
    assert Adaptation(SETTINGS).react([back]) == [back]


def test_after_a_change_of_everything_everyone_is_learned_from_for_a_while():
    settings = SETTINGS.model_copy(update={"pause_quarantine_for_events": 100})
    adaptation = Adaptation(settings)
    assert adaptation.measures(0).quarantine_above == settings.quarantine_above
    adaptation.react([WORSE])
    for _ in range(2):
        assert adaptation.measures(0).quarantine_above == 0.0
        go_on(adaptation, 50)
    assert adaptation.measures(0).quarantine_above == settings.quarantine_above


def test_an_action_is_not_begun_again_before_it_has_rested():
    adaptation = Adaptation(SETTINGS)
    assert adaptation.react([WORSE, WORSE])[1].action == OBSERVE
    go_on(adaptation, 999)
    assert adaptation.react([WORSE])[0].action == OBSERVE
    go_on(adaptation, 1)
    assert adaptation.react([WORSE])[0].action != OBSERVE


def test_a_plan_from_elsewhere_is_what_counts():
    """A redo has the plan of then, whatever the settings say now."""
    then, now = Adaptation(SETTINGS), Adaptation(SETTINGS.model_copy(update={"enabled": False}))
    then.react([WORSE])
    now.react([WORSE])
    plan = plan_of(then.measures(7))
    then.carried_out(plan, 16)
    now.carried_out(plan, 16)
    assert then.state() == now.state()


def test_it_goes_through_a_snapshot():
    one, other = Adaptation(SETTINGS), Adaptation(SETTINGS)
    one.react([WORSE])
    go_on(one, 16)
    one.react([Detection(600, "next_event_s/pinball", "adwin", 0.0, 2.0)])
    other.load(one.state())
    assert one.measures(9) == other.measures(9)
    assert one.measures(9).score_champion


def settings_with(**changed):
    return SETTINGS.model_copy(update=changed)


def lossy(part, champion, challenger, error=0.01):
    return Verdict(part, champion, challenger, error, 100)


def test_the_copy_is_scored_on_its_share_of_the_events_whatever_the_micro_batches_hold():
    for size in (8, 256, 2048):
        adaptation = Adaptation(settings_with(champion_share=0.25, champion_events=8000))
        adaptation.order("keep_champion")
        scored = 0
        go_on(adaptation, size)
        while not adaptation.is_time_to_judge:
            scored += adaptation.measures(7).score_champion * size
            go_on(adaptation, size)
        assert 0.2 * 8000 <= scored <= 0.25 * 8000 + size


def test_what_was_not_compared_is_not_judged():
    adaptation = Adaptation(SETTINGS)
    adaptation.order("keep_champion")
    go_on(adaptation, 10)
    adaptation.carried_out(plan_of(Measures()), 10_000)
    assert not adaptation.is_time_to_judge


@pytest.mark.parametrize("policy", [{"enabled": False}, {"roll_back": False}])
def test_a_switch_that_is_turned_off_ends_what_is_due_and_the_comparison(policy):
    one, other = Adaptation(SETTINGS), Adaptation(settings_with(**policy))
    one.react([WORSE])
    go_on(one, 16)
    one.react([Detection(600, "next_event_s/pinball", "adwin", 0.0, 2.0)])
    one.judge([lossy("network", 1.0, 2.0)])
    other.load(one.state())
    measures = other.measures(7)
    allowed = () if "enabled" in policy else ("restart_time_head",)
    assert measures.actions == (*allowed, "dismiss_champion")
    assert not measures.score_champion
    assert not other.is_time_to_judge
    go_on(other, 16)
    assert not other.guarded
    assert other.measures(7).actions == ()


def test_a_copy_that_may_not_be_kept_any_more_is_dismissed():
    one, other = Adaptation(SETTINGS), Adaptation(settings_with(roll_back=False))
    one.react([WORSE])
    go_on(one, 1000)
    other.load(one.state())
    assert one.is_time_to_judge is False  # nothing has been compared
    assert other.measures(7).actions == ("dismiss_champion",)


def test_an_action_ordered_beside_a_return_has_a_copy_of_its_own_and_lasts():
    adaptation = Adaptation(settings_with(cool_down_events=1))
    adaptation.react([WORSE])
    go_on(adaptation, 16)
    adaptation.judge([lossy("network", 1.0, 2.0)])
    adaptation.react([WORSE])
    plan = plan_of(adaptation.measures(9))
    assert plan.actions[:3] == ("roll_back_network", "dismiss_champion", "keep_champion")
    assert "boost_learning_rate" in plan.actions[3:]
    assert (plan.learning_rate_factor, plan.rehearse_since, plan.quarantine_paused) == (3.0, 9, True)
    adaptation.carried_out(plan, 16)
    later = adaptation.measures(11)
    assert (later.rehearse_since, later.quarantine_above) == (9, 0.0)
    assert later.learning_rate_factor > 2.5
    assert adaptation.guarded


def test_a_return_ends_what_was_under_way():
    adaptation = Adaptation(SETTINGS)
    adaptation.react([WORSE])
    go_on(adaptation, 16)
    adaptation.judge([lossy("network", 1.0, 2.0)])
    for _ in range(2):  # with the return and after it
        assert not any(active(plan_of(adaptation.measures(7))).values())
        go_on(adaptation, 16)


def test_a_later_action_gives_the_copy_as_much_time_again():
    adaptation = Adaptation(SETTINGS)
    adaptation.order("keep_champion")
    go_on(adaptation, 60)
    adaptation.order("boost_learning_rate")
    go_on(adaptation, 10)
    go_on(adaptation, 50)
    assert not adaptation.is_time_to_judge
    go_on(adaptation, 10)
    assert adaptation.is_time_to_judge


@pytest.mark.parametrize(("error", "undone"), [(0.0, True), (0.04, True), (0.06, False)])
def test_a_copy_must_be_better_by_more_than_chance(error, undone):
    assert lossy("network", 1.0, 1.1, error).undone is undone


def test_what_a_comparison_came_to_is_told():
    told = verdicts_told([lossy("network", 1.0, 2.0), lossy("ranker", 2.0, 1.0), Verdict("type_head", 0, 0, 0, 0)], 77)
    assert [(one.event, one.signal, one.action) for one in told] == [
        (77, "champion/network", "roll_back_network"),
        (77, "champion/ranker", "keep"),
    ]


# --- carried out by the learner


def worker_with(**policy):
    every = dict.fromkeys((*NEW_WORLD, "restart_heads", "roll_back"), True)
    return Worker(small_settings(policy=every | {"champion_share": 1.0, "champion_events": 64} | policy))


def test_each_action_changes_what_it_is_about():
    before = worker_with()
    before.run(random_events(160, items=40))
    for action, part in {
        "restart_mixture": "mixture.share",
        "restart_ranker": "ranker.network.hidden.weight",
        "restart_items": "transformer.table.weight",
        "restart_type_head": "transformer.network.type_head.weight",
        "restart_time_head": "transformer.network.time_head.weight",
    }.items():
        one, other = worker_with(), worker_with()
        for worker in (one, other):
            worker.run(random_events(160, items=40))
        one.learner.adaptation.order(action)
        for worker in (one, other):
            worker.step(random_events(16, seed=3, items=40))
        left, right = (worker.model.state().arrays[part] for worker in (one, other))
        assert not np.array_equal(left, right), action


def test_short_half_lives_make_new_counts_weigh_more():
    one, other = worker_with(half_life_events=1.0), worker_with()
    for worker in (one, other):
        worker.run(random_events(320, items=10))
    one.learner.adaptation.order("short_half_lives")
    for worker in (one, other):
        worker.step([event("new", 3, 1e9 + n) for n in range(16)])
    shares = []
    for worker in (one, other):
        views = worker.model.views(worker.histories.stage([event("x", 3)]).contexts)
        rows = worker.model.items.lookup(worker.histories.stage([event("x", 3)]).contexts.event_item_B)[:, None]
        quick = views.all[COMPONENTS.index("popularity_now")]
        shares.append(float(quick.score(np.zeros(1, np.int64), rows)[0, 0]))
    assert shares[0] > shares[1] + 0.3


def test_the_longer_half_lives_keep_what_they_have():
    """So that a world which comes back is known again."""
    one, other = worker_with(half_life_events=1.0), worker_with()
    for worker in (one, other):
        worker.run(random_events(320, items=10))
    one.learner.adaptation.order("short_half_lives")
    for worker in (one, other):
        worker.step(random_events(16, seed=3, items=10))
    left, right = (worker.model.state() for worker in (one, other))
    for name in ("recency_popularity", "transitions", "similar_sessions"):
        assert same_state(left.take(name), right.take(name)), name
    for name in ("popularity_now", "transitions_now"):
        assert not same_state(left.take(name), right.take(name)), name


def test_recent_rehearsal_leaves_older_windows_alone():
    worker = worker_with()
    worker.run(random_events(320, items=10))
    worker.learner.adaptation.order("rehearse_recent")
    begun = worker.learner.rehearsal.made
    step = worker.step(random_events(16, seed=5, items=10))
    assert step.plan.rehearse_since == begun > 0
    assert step.learned.rehearsed == 0  # no window has begun since
    assert worker.step(random_events(16, seed=6, items=10)).plan.rehearse_since == step.plan.rehearse_since


def spoiled(worker):
    """A worker whose network an action has spoiled; returns the copy that was kept, and the steps up to the verdict."""
    worker.run(random_events(640, items=10))
    usual = worker.learner.settings
    worker.learner.settings = usual.model_copy(update={"learning_rate": 10.0})
    for action in ("keep_champion", "boost_learning_rate"):
        worker.learner.adaptation.order(action)
    worker.step(random_events(16, seed=5, items=10))
    kept, steps = worker.learner.champion, []
    while not steps or not steps[-1].learned.verdicts:
        steps.append(worker.step(random_events(16, seed=6 + len(steps), items=10)))
    worker.learner.settings = usual.model_copy(update={"learning_rate": 1e-12})
    return kept, steps


def test_weights_that_an_action_has_spoiled_are_rolled_back():
    worker = worker_with(learning_rate_factor=10.0)
    kept, steps = spoiled(worker)
    verdicts = {v.part: v for v in steps[-1].learned.verdicts}
    assert verdicts["network"].undone
    assert all(type(number) is float for v in verdicts.values() for number in (v.champion, v.challenger, v.error))
    weight = worker.model.transformer.network.blocks[0].feed_up.weight
    earlier = kept._network.network.blocks[0].feed_up.weight
    assert not torch.allclose(weight, earlier, atol=1e-3)
    step = worker.step(random_events(16, seed=77, items=10))
    assert step.plan.actions[0] == "roll_back_network"
    assert step.plan.actions[-1] == "dismiss_champion"
    assert step.plan.learning_rate_factor == 1.0
    assert torch.allclose(weight, earlier, atol=1e-6)
    assert worker.learner.champion is None


def test_a_head_that_was_better_before_returns_and_the_rest_stays():
    worker = worker_with(restart_heads=True)
    worker.run(random_events(320, items=10))
    model = worker.model
    champion = Champion(model)
    heads = {"type_head": model.transformer.network.type_head, "time_head": model.transformer.network.time_head}
    with torch.no_grad():
        for layer in heads.values():
            layer.weight += 3.0 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
    body = model.transformer.network.blocks[0].out.weight.detach().clone()
    worker.learner.champion = champion
    for seed in range(5):
        events = random_events(32, seed=50 + seed, items=10)
        staged, scores, _ = worker.look(events)
        champion.score(staged.contexts, scores)
    verdicts = {v.part: v for v in champion.verdicts()}
    assert verdicts["type_head"].undone
    assert verdicts["time_head"].undone
    assert not verdicts["network"].undone
    intervene(model, champion, plan_of(Measures(actions=("roll_back_type_head", "roll_back_time_head"))), 1)
    for name, layer in heads.items():
        assert torch.equal(layer.weight, getattr(champion._network.network, name).weight)
    assert torch.equal(model.transformer.network.blocks[0].out.weight, body)


def test_the_error_of_a_comparison_is_that_of_the_paired_difference():
    champion = Champion(worker_with().model)
    draw = np.random.default_rng(1)
    earlier, present = draw.random(50), draw.random(50)
    champion._add("ranker", earlier[:20], present[:20])
    champion._add("ranker", earlier[20:], present[20:])
    (verdict,) = (v for v in champion.verdicts() if v.part == "ranker")
    difference = np.log(earlier) - np.log(present)
    assert verdict.challenger - verdict.champion == pytest.approx(difference.mean())
    assert verdict.error == pytest.approx(difference.std(ddof=1) / 50**0.5)
    assert verdict.scored == 50


def test_a_return_restores_the_weights_and_leaves_newer_items_theirs():
    worker = worker_with()
    worker.run(random_events(160, items=20))
    model, champion = worker.model, Champion(worker.model)
    earlier = model.transformer.state()
    worker.run([event("u", 500 + n, 1e9 + n) for n in range(32)])
    newer = model.items.lookup(np.array([key64(510)]))[0]
    late = model.transformer.table.weight[int(newer)].clone()
    plan = plan_of(Measures(actions=("roll_back_network", "roll_back_ranker")))
    assert intervene(model, champion, plan, 1) is champion
    now = model.transformer.state()
    for name, array in earlier.arrays.items():
        restored = now.arrays[name][: len(array)] if array.ndim else now.arrays[name]  # newer items stand behind
        assert np.array_equal(restored, array), name
    assert torch.equal(model.transformer.table.weight[int(newer)], late)


def test_items_that_came_after_the_copy_may_go_again():
    worker = Worker(small_settings(model={"max_items": 20}, policy={"champion_share": 1.0, "champion_events": 9999}))
    worker.run(random_events(160, items=20))
    worker.learner.adaptation.order("keep_champion")
    steps = worker.run(random_events(320, seed=2, items=300))
    assert sum(step.learned.evicted for step in steps) > 20
    assert worker.learner.champion is not None


def test_a_learner_under_guard_goes_through_a_snapshot_byte_for_byte():
    straight, broken, restored = worker_with(), worker_with(), worker_with()
    for worker in (straight, broken):
        worker.run(random_events(160, items=40))
        for action in ("keep_champion", *NEW_WORLD):
            worker.learner.adaptation.order(action)
        worker.run(random_events(32, seed=4, items=60))
    restored.learner.load(broken.learner.state())
    part = next(iter(broken.histories.partitions))
    restored.histories.partitions[part].load(broken.histories.partitions[part].state())
    assert broken.learner.champion is not None
    for worker in (straight, restored):
        worker.run(random_events(160, seed=5, items=80))
    assert same_state(straight.learner.state(), restored.learner.state())


def test_users_in_quarantine_are_predicted_for_but_not_learned():
    worker = worker_with(quarantine_above=0.5)
    usual = [event(f"u{n % 60}", n % 4, float(n)) for n in range(1200)]
    draw = np.random.default_rng(1)
    robot = [event("robot", int(draw.integers(100, 400)), 2000.0 + n) for n in range(200)]
    mixed = [one for pair in zip(usual[600:800], robot, strict=True) for one in pair]
    worker.run(usual[:600])
    steps = worker.run(mixed)
    late = steps[-3:]
    assert sum(step.learned.quarantined for step in late) == 24
    assert sum(step.learned.events for step in late) == 24
    assert steps[0].learned.quarantined == 0
    assert all(len(step.predictions.rows_BK) == 16 for step in late)
