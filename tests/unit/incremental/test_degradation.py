import numpy as np

from incremental.degradation import NOT_RECOVERED, RECOVERED, Degradation
from incremental.drift import Detection, DriftMonitor
from incremental.settings import DriftSettings

SETTINGS = DriftSettings(recovery_window_events=64, recovery_slack=0.1, new_normal_after_events=1000)
ALARM = Detection(100, "log_loss", "adwin", 6.0, 8.0)


def monitor(*levels):
    made = DriftMonitor(["log_loss"])
    made.update({"log_loss": np.repeat([float(level) for level in levels], 32)}, 1)
    return made


def test_it_lasts_until_the_level_is_nearly_back():
    degradation = Degradation(SETTINGS)
    assert degradation.update(monitor(6), [], 50) == []
    assert degradation.since is None
    assert degradation.update(monitor(8, 8), [ALARM], 100) == []
    assert degradation.since == 100
    assert degradation.update(monitor(6.5, 6.3), [], 300) == []
    (end,) = degradation.update(monitor(6.2, 6.1), [], 400)
    assert (end.signal, end.event, degradation.lasted, degradation.since) == (RECOVERED, 400, 300, None)
    assert not end.is_alarm


def test_what_does_not_recover_becomes_usual():
    degradation = Degradation(SETTINGS)
    degradation.update(monitor(8, 8), [ALARM], 100)
    (end,) = degradation.update(monitor(8, 8), [], 1100)
    assert (end.signal, degradation.since) == (NOT_RECOVERED, None)


def test_other_signals_begin_nothing_and_more_alarms_keep_the_first_level():
    degradation = Degradation(SETTINGS)
    degradation.update(monitor(6), [Detection(90, "unknown", "adwin", 0.0, 0.5)], 90)
    assert degradation.since is None
    degradation.update(monitor(8, 8), [ALARM, Detection(100, "log_loss", "kswin", 7.5, 9.0)], 100)
    assert degradation.since == 100
    assert degradation.update(monitor(6.5, 6.5), [], 200) == []


def test_it_goes_through_a_snapshot():
    one, other = Degradation(SETTINGS), Degradation(SETTINGS)
    one.update(monitor(8, 8), [ALARM], 100)
    other.load(one.state())
    assert other.since == 100
    assert one.update(monitor(6, 6), [], 300) == other.update(monitor(6, 6), [], 300)
