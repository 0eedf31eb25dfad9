from __future__ import annotations

import os
import signal

import pytest

from consumer.stop_signal import Stopped, StopSignal


def test_the_signal_is_a_flag_once_the_loop_runs_and_ends_the_process_only_when_that_is_not_seen(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignal(1000.0) as stop:
        with pytest.raises(Stopped) as stopped, stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert not stopped.value.whole
        timer = stop._timer
        assert stop.asked
        assert timer.interval == pytest.approx(900.0)
        os.kill(os.getpid(), signal.SIGTERM)  # the second one changes nothing
        assert stop._timer is timer
    timer.join(10.0)
    assert not timer.is_alive()
    assert ended == []
    with StopSignal(1000.0) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(Stopped) as stopped, stop.at_once():  # it was asked for before
            raise AssertionError("this must not be begun")
        assert stopped.value.whole


@pytest.mark.parametrize(("outer", "inner"), [(True, True), (True, False), (False, True)])
def test_memory_is_whole_where_all_that_is_under_way_leaves_it_so(outer, inner):
    stop = StopSignal(1000.0)
    with stop, pytest.raises(Stopped) as stopped, stop.at_once(whole=outer), stop.at_once(whole=inner):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.whole is (outer and inner)


def test_what_runs_at_once_may_be_nested_and_the_loop_goes_on_behind_it():
    with StopSignal(1000.0) as stop:
        with stop.at_once(), stop.at_once():
            pass
        with stop.at_once(), pytest.raises(ValueError, match="inside"), stop.at_once():
            raise ValueError("inside")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked


def test_a_loop_that_does_not_end_is_abandoned_and_that_is_said(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignal(0.01) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop._timer.join(10.0)
        assert ended == [70]
    assert "did not stop within worker.stop_after_s (0.01 s)" in capfd.readouterr().err
