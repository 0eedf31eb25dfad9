import json

import numpy as np
import pytest

from incremental import drift
from incremental.drift import BLOCK_EVENTS, KEPT_BLOCKS, KNOWN_MISSES, LOST_HITS, Detection, DriftMonitor, rise

SIGNALS = ["log_loss", "unknown"]


def feed(monitor, losses, unknown=None, *, start=0):
    found = []
    for first in range(0, len(losses), 256):
        values = {"log_loss": losses[first : first + 256]}
        if unknown is not None:
            values["unknown"] = unknown[first : first + 256]
        found += monitor.update(values, start + first + 256)
    return found


def losses(seed, count, shift=0.0):
    rng = np.random.default_rng(seed)
    values = rng.gamma(4.0, 1.5, count)
    values[count // 2 :] += shift
    return values


def test_a_stationary_stream_gives_no_alarm():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        unknown = (rng.random(100_000) < 0.05).astype(float)
        assert feed(DriftMonitor(SIGNALS), losses(seed, 100_000), unknown) == []


@pytest.mark.parametrize(("shift", "most"), [(0.5, 3000), (1.4, 700), (2.0, 500)])
def test_a_loss_that_rises_is_detected_soon_and_once(shift, most):
    found = feed(DriftMonitor(SIGNALS), losses(1, 40_000, shift))
    assert len({detection.event for detection in found}) == 1
    assert found[0].signal == "log_loss"
    assert found[0].action == "observe"
    assert 20_000 < found[0].event <= 20_000 + most
    assert found[0].after - found[0].before == pytest.approx(shift, abs=0.9)


class Deaf:
    """A detector that hears nothing."""

    drift_detected = False

    def __init__(self, tests):
        del tests

    def update(self, x):
        del x


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley", "kswin"])
def test_each_detector_alone_sees_a_rise(monkeypatch, detector):
    for other in {"adwin", "page_hinkley", "kswin"} - {detector}:
        monkeypatch.setattr(drift, other, Deaf)
    found = feed(DriftMonitor(SIGNALS), losses(2, 40_000, 2.0))
    assert [detection.detector for detection in found] == [detector]
    assert found[0].event <= 23_000


def test_a_loss_that_falls_is_no_alarm():
    assert feed(DriftMonitor(SIGNALS), losses(2, 60_000, -2.0)) == []


def test_a_single_strange_block_is_no_alarm():
    values = losses(7, 20_000)
    values[10_000:10_064] = 500.0
    assert [found for found in feed(DriftMonitor(SIGNALS), values) if found.detector == "page_hinkley"] == []


def test_a_growing_share_of_unknown_items_is_detected():
    rng = np.random.default_rng(3)
    share = np.where(np.arange(60_000) < 30_000, 0.05, 0.15)
    found = feed(DriftMonitor(SIGNALS), losses(3, 60_000), (rng.random(60_000) < share).astype(float))
    assert found
    assert {detection.signal for detection in found} == {"unknown"}
    assert found[0].event < 32_000


def unknown_items(seed, count, *, bursts, spread):
    """Some users bring a dozen unknown items at once; others meet one now and then."""
    rng = np.random.default_rng(seed)
    values = (rng.random(count) < spread).astype(float)
    for start in np.flatnonzero(rng.random(count) < bursts / 12):
        values[start : start + 12] = 1.0
    return values


@pytest.mark.parametrize("seed", range(4))
def test_a_catalogue_that_changes_is_told_from_users_who_bring_many_unknown_items(seed, monkeypatch):
    before = unknown_items(seed, 50_000, bursts=0.012, spread=0.001)
    after = unknown_items(seed + 100, 8_000, bursts=0.012, spread=0.03)
    values = np.concatenate([before, after])
    flat = np.full(len(values), 2.0)
    found = feed(DriftMonitor(SIGNALS), flat, values)
    assert found
    assert 50_000 < found[0].event <= 50_000 + 2_500
    assert found[0].before == pytest.approx(0.014, abs=0.006)  # told as a share
    monkeypatch.setattr(drift, "WATCHES", {})
    late = feed(DriftMonitor(SIGNALS), flat, values)
    assert not late or late[0].event > found[0].event


def test_the_beginning_is_passed_over():
    values = losses(4, 20_000, 3.0)
    assert feed(DriftMonitor(SIGNALS, 10_000), values) == []
    assert feed(DriftMonitor(SIGNALS), values) != []


def test_more_signals_make_each_less_sensitive():
    one, many = (
        feed(DriftMonitor([*SIGNALS, *map(str, range(extra))]), losses(5, 40_000, 0.35)) for extra in (0, 10_000)
    )
    assert one
    assert not many or many[0].event > one[0].event


def test_values_that_are_not_finite_are_passed_over():
    values = losses(4, 4096)
    with_gaps = np.insert(values, np.arange(0, 4096, 7), np.nan)
    plain, gappy = DriftMonitor(SIGNALS), DriftMonitor(SIGNALS)
    feed(plain, values)
    feed(gappy, with_gaps)
    assert plain.state() == gappy.state()


@pytest.mark.parametrize("cut", [100, 20_224, 30_208])
def test_a_restored_monitor_goes_on_as_if_never_stopped(monkeypatch, cut):
    monkeypatch.setattr(drift, "KEPT_BLOCKS", 512)  # rebuilt several times on the way
    values = losses(5, 60_000, 1.0)
    whole, before, after = DriftMonitor(SIGNALS), DriftMonitor(SIGNALS), DriftMonitor(SIGNALS)
    expected = feed(whole, values[:cut]) + feed(whole, values[cut:], start=cut)
    found = feed(before, values[:cut])
    after.load_state(json.loads(json.dumps(before.state())))
    assert found + feed(after, values[cut:], start=cut) == expected
    assert expected
    assert after.state() == whole.state()


def test_what_is_kept_is_bounded():
    monitor = DriftMonitor(SIGNALS)
    monitor.update({"log_loss": losses(6, BLOCK_EVENTS * KEPT_BLOCKS * 2)}, 1)
    kept = monitor.state()["log_loss"]
    assert len(kept["blocks"]) < KEPT_BLOCKS
    assert len(kept["rest"]) < BLOCK_EVENTS


def test_the_level_is_the_mean_of_the_latest_blocks():
    monitor = DriftMonitor(SIGNALS)
    assert monitor.level("log_loss", 2) is None
    monitor.update({"log_loss": np.repeat([9.0, 1.0, 2.0], BLOCK_EVENTS)}, 1)
    assert monitor.level("log_loss", 2) == 1.5


def test_a_rise_is_measured_where_it_stands_out_most():
    assert rise([1.0] * 40 + [3.0] * 5) == (1.0, 3.0)
    assert rise([3.0] * 40 + [1.0] * 20) is None


def test_only_what_a_detector_said_is_an_alarm():
    assert Detection(1, "log_loss", "kswin", 1.0, 2.0).is_alarm
    assert not Detection(1, "recovered", "log_loss", 2.0, 1.0).is_alarm


@pytest.mark.parametrize("after", range(1, 7))
def test_what_was_lost_is_known_also_where_the_misses_have_gone_off_by_themselves(after):
    """The alarm on the misses begins them anew: what they were before it, and the blocks since, are still told."""
    monitor, restored = (DriftMonitor([KNOWN_MISSES, LOST_HITS]) for _ in range(2))
    usual = (np.arange(BLOCK_EVENTS * 100) % 2).astype(float)
    monitor.update({KNOWN_MISSES: usual}, 0)
    alarms = 0
    while not alarms:
        alarms = len(monitor.update({KNOWN_MISSES: np.ones(BLOCK_EVENTS)}, 1))
    for _ in range(after):
        monitor.update({KNOWN_MISSES: np.ones(BLOCK_EVENTS)}, 2)
    restored.load_state(monitor.state())
    for one in (monitor, restored):
        assert one._lost_hits() == (pytest.approx(0.5), pytest.approx(1.0))
    for _ in range(7):
        monitor.update({KNOWN_MISSES: np.ones(BLOCK_EVENTS)}, 3)
    assert monitor._lost_hits() is None


@pytest.mark.parametrize(("affected", "share"), [(1.0, 1.0), (0.5, 0.5)])
def test_a_sudden_change_is_told_by_the_hits_that_are_lost(affected, share):
    draw = np.random.default_rng(2)
    usual, worse = draw.gamma(6.0, 1.0, 20_000), draw.normal(8.5, 0.8, 20_000)
    changed = (np.arange(20_000) >= 10_000) & (draw.random(20_000) < affected)
    losses_, misses = np.where(changed, worse, usual), np.where(changed, 1.0, draw.random(20_000) > 0.15)
    monitor = DriftMonitor([KNOWN_MISSES, LOST_HITS])
    found = []
    for at in range(0, 20_000, 256):
        values = {KNOWN_MISSES: misses[at : at + 256], LOST_HITS: losses_[at : at + 256]}
        found += monitor.update(values, at)  # either may be the first
    assert 0 < found[0].event + 256 - 10_000 <= 600
    assert (found[0].after - found[0].before) / (1.0 - found[0].before) == pytest.approx(share, abs=0.2)
