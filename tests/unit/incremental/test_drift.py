import json

import numpy as np
import pytest

from incremental import drift
from incremental.drift import BLOCK_EVENTS, KEPT_BLOCKS, DriftMonitor, signals
from incremental.outcomes import FIRST, IGNORED, SCORED, ItemOutcomes, Observed, Outcomes


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
        assert feed(DriftMonitor(), losses(seed, 100_000), unknown) == []


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_loss_that_rises_is_detected_soon_by_both_detectors(shift):
    found = feed(DriftMonitor(), losses(1, 60_000, shift))
    assert {detection.detector for detection in found} == {"adwin", "page_hinkley"}
    for detection in found:
        assert detection.signal == "log_loss"
        assert detection.action == "observe"
        assert 30_000 < detection.event <= 36_000
        assert detection.after - detection.before > 0.3 * shift


def test_a_loss_that_falls_is_no_alarm():
    assert feed(DriftMonitor(), losses(2, 60_000, -2.0)) == []


def test_a_growing_share_of_unknown_items_is_detected():
    rng = np.random.default_rng(3)
    share = np.where(np.arange(60_000) < 30_000, 0.05, 0.15)
    found = feed(DriftMonitor(), losses(3, 60_000), (rng.random(60_000) < share).astype(float))
    assert found
    assert {detection.signal for detection in found} == {"unknown"}
    assert found[0].event < 36_000


def test_values_that_are_not_finite_are_passed_over():
    values = losses(4, 4096)
    with_gaps = np.insert(values, np.arange(0, 4096, 7), np.nan)
    plain, gappy = DriftMonitor(), DriftMonitor()
    feed(plain, values)
    feed(gappy, with_gaps)
    assert plain.state() == gappy.state()


@pytest.mark.parametrize("cut", [100, 20_224, 30_208])
def test_a_restored_monitor_goes_on_as_if_never_stopped(monkeypatch, cut):
    monkeypatch.setattr(drift, "KEPT_BLOCKS", 512)  # rebuilt several times on the way
    values = losses(5, 60_000, 1.0)
    whole, before, after = DriftMonitor(), DriftMonitor(), DriftMonitor()
    expected = feed(whole, values[:cut]) + feed(whole, values[cut:], start=cut)
    found = feed(before, values[:cut])
    after.load_state(json.loads(json.dumps(before.state())))
    assert found + feed(after, values[cut:], start=cut) == expected
    assert expected
    assert after.state() == whole.state()


def test_what_is_kept_is_bounded():
    monitor = DriftMonitor()
    monitor.update({"log_loss": losses(6, BLOCK_EVENTS * KEPT_BLOCKS * 2)}, 1)
    kept = monitor.state()["log_loss"]
    assert len(kept["blocks"]) < KEPT_BLOCKS
    assert len(kept["rest"]) < BLOCK_EVENTS


def test_signals_are_the_loss_of_scored_events_and_the_unknown_items_of_all():
    kinds = np.array([SCORED, FIRST, IGNORED, SCORED], dtype=np.uint8)
    keys = np.arange(4)
    observed = Observed(
        kinds, keys, keys, keys, np.ones(4), np.array([True, False, False, True]), 10, exclude_seen=False
    )
    tidemill = ItemOutcomes(np.zeros(4, dtype=np.int32), np.array([-1.0, -2.0, np.nan, -4.0]))
    values = signals(observed, Outcomes(kinds, {"tidemill": tidemill}, None, {}, {}))
    assert values["log_loss"].tolist() == [1.0, 4.0]
    assert values["unknown"].tolist() == [0.0, 1.0, 0.0]
