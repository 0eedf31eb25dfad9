import pytest

from incremental.policy import GUARDED, NEW_WORLD, RETURNS, TABLE, allowed, respond, size, surely_lost
from incremental.settings import PolicySettings

ALL = PolicySettings(**{name: True for name, field in PolicySettings.model_fields.items() if field.annotation is bool})


def test_a_large_rise_calls_for_more_than_a_small_one():
    assert respond("misses", 0.9, ALL) == respond("lost_hits", 0.8, ALL) == NEW_WORLD
    assert respond("misses", 0.3, ALL) == ()
    assert respond("log_loss", 1.5, ALL) == ()
    assert respond("log_loss/transformer", 9.0, ALL) == ()


@pytest.mark.parametrize(
    ("rise", "users", "acts"),
    [
        (0.97, 2.1, True),
        (0.87, 6.0, False),
        (0.87, 400.0, True),
        (0.92, 12.0, True),
        (1.0, 1.9, False),
        (0.6, 1e9, False),
    ],
)
@pytest.mark.parametrize("signal", ["misses", "lost_hits"])
def test_what_few_users_lost_must_be_nearly_everything(signal, rise, users, acts):
    assert respond(signal, rise, ALL, users) == (NEW_WORLD if acts else ())


def test_how_many_users_there_are_matters_to_hits_alone():
    assert surely_lost(0.9, 9.0) == pytest.approx(0.6)
    assert respond("event_type/log_loss", 0.5, ALL, 1.0) == ("restart_type_head",)


def test_of_misses_the_share_of_lost_hits_counts():
    assert size("misses", 0.8, 0.98) == pytest.approx(0.9)
    assert size("log_loss", 6.0, 7.5) == 1.5


def test_where_hits_are_rare_their_loss_calls_for_nothing():
    assert size("lost_hits", 0.96, 1.0) == 0.0
    assert size("lost_hits", 0.94, 1.0) == pytest.approx(1.0)


def test_a_copy_may_be_dismissed_whatever_is_switched_off():
    off = PolicySettings(enabled=False, roll_back=False)
    assert allowed("dismiss_champion", off)
    assert not any(allowed(action, off) for action in (*RETURNS.values(), *NEW_WORLD, "keep_champion"))


@pytest.mark.parametrize("rule", TABLE)
def test_every_action_has_a_switch(rule):
    for action in rule.actions:
        name = {"restart_type_head": "restart_heads", "restart_time_head": "restart_heads"}.get(action, action)
        off = ALL.model_copy(update={name: False})
        assert action in respond(rule.signal, rule.least, ALL)
        assert action not in respond(rule.signal, rule.least, off)
    assert respond(rule.signal, rule.least, ALL.model_copy(update={"enabled": False})) == ()


def test_no_signal_calls_for_what_follows_from_a_comparison():
    unasked = {"keep_champion", "dismiss_champion", *RETURNS.values()}
    assert not unasked.intersection(action for rule in TABLE for action in rule.actions)
    assert not unasked & GUARDED
