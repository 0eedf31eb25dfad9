"""What people see of drift: metrics, drift records and the report's marks, of a stream that goes through all of it.

Users go through six items each, then for a while act on items nobody has seen, then go back.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import Stream, event, small_settings

from consumer.account import Account
from consumer.decode import REASONS
from consumer.report_words import mark_of
from incremental.policy import ACTIONS

CHANGE, BACK, END = 2560, 2944, 3584
BATCH, STEP_S = 64, 5.0
ALARM, RECOVERY = 2944, 3072
"""The micro-batches in which the log-loss goes off, and is back."""
T = 1_700_000_000.0


def settings(**drift):
    return small_settings(
        worker={"batch_events": BATCH},
        evaluation={"baselines": False},
        drift={"warm_up_events": 0, "recovery_window_events": 128} | drift,
    )


def value(stream, name, **labels):
    families = text_string_to_metric_families(stream.metrics.render().decode())
    samples = (sample for family in families for sample in family.samples)
    return next(s.value for s in samples if (s.name, s.labels) == (f"tidemill_{name}", labels))


def steps(stream, until):
    """Step until so many events were accepted; returns the reports."""
    reports = []
    while stream.parts.events < until:
        reports.append(stream.pipeline.step())
        stream.clock.advance(STEP_S)
    return reports


@pytest.fixture(scope="module")
def kept():
    """A stream that was saved just before the change."""
    stream = Stream(settings())
    stream.put_events(
        event(f"u{n % 8}", 1000 + n if CHANGE <= n < BACK else n // 8 % 6, T + 10.0 * n) for n in range(END)
    )
    steps(stream, CHANGE)
    stream.worker.save()
    stream.worker.close()
    return stream


@pytest.fixture
def stream(kept):
    return again(kept)


def again(stream, changed=None):
    """A copy of the stream, whose worker is begun anew: it finds what is saved, and redoes what is not."""
    other = copy.copy(stream)
    other.log, other.store, other.clock = copy.deepcopy((stream.log, stream.store, stream.clock))
    other.settings = changed or stream.settings
    other.start()
    return other


def test_alarm_action_and_recovery_are_told(stream):
    degraded = []
    while stream.parts.events < END:
        found = stream.pipeline.step().detections
        stream.clock.advance(STEP_S)
        degraded.append(value(stream, "degraded"))
        if any("rehearse_recent" in one.action for one in found):
            assert value(stream, "adaptation_active", action="rehearse_recent") == 0  # it begins with the next
    assert degraded == [float(ALARM <= at < RECOVERY) for at in range(CHANGE, END, BATCH)]
    told = stream.bodies("drift")
    alarms = [one for one in told if one["detector"] in {"adwin", "page_hinkley", "kswin"}]
    for signal in ("log_loss", "misses", "unknown"):
        assert value(stream, "drift_detected_total", signal=signal) == [a["signal"] for a in alarms].count(signal)
    (answered,) = (one["action"].split("+") for one in alarms if one["action"] != "observe")
    assert "rehearse_recent" in answered
    for action in (*answered, "keep_champion"):
        assert value(stream, "adaptations_total", action=action) == 1
    for action in ("rehearse_recent", "keep_champion"):
        assert value(stream, "adaptation_active", action=action) == 1
    assert [one["event"] for one in told if one["signal"] == "recovered"] == [RECOVERY]
    assert value(stream, "drift_recovery_events_sum") == RECOVERY - ALARM
    assert value(stream, "drift_recovery_seconds_sum") == (RECOVERY - ALARM) / BATCH * STEP_S
    assert value(stream, "drift_recovery_seconds_count") == 1


def test_what_may_happen_has_a_series_before_it_does(stream):
    assert stream.parts.evaluation.watched
    for signal in stream.parts.evaluation.watched:
        assert value(stream, "drift_detected_total", signal=signal) == 0
    for action in ACTIONS:
        assert value(stream, "adaptations_total", action=action) == 0
    for reason in REASONS:
        assert value(stream, "dead_letters_total", reason=reason) == 0


def test_what_is_under_way_is_so_also_while_nothing_is_learned(stream):
    steps(stream, END)
    assert value(stream, "adaptation_active", action="rehearse_recent") == 1
    stream.put(b"no event")
    assert stream.pipeline.step().records == 1
    assert value(stream, "adaptation_active", action="rehearse_recent") == 1


@pytest.mark.parametrize("saved", [True, False])
def test_a_restart_while_degraded_says_so_at_once_and_times_no_recovery(stream, saved):
    steps(stream, ALARM + BATCH)
    if saved:
        stream.worker.save()
    heir = again(stream)
    assert heir.parts.batch == stream.parts.batch
    assert value(heir, "degraded") == 1
    steps(heir, END)
    assert value(heir, "degraded") == 0
    assert value(heir, "drift_recovery_events_sum") == RECOVERY - ALARM
    assert value(heir, "drift_recovery_seconds_count") == 0


def test_who_does_not_watch_is_not_degraded_for_ever(stream):
    steps(stream, ALARM + BATCH)
    stream.worker.save()
    blind = again(stream, settings(enabled=False))
    assert value(blind, "degraded") == 0
    steps(blind, ALARM + 2 * BATCH)
    blind.worker.save()
    assert blind.snapshots.newest().worker().take("evaluation").take("degradation").values["since"] is None
    assert value(again(blind, settings()), "degraded") == 0


def test_the_report_counts_the_events_of_its_process(stream):
    account = Account(stream.clock)
    for report in steps(stream, END):
        account.note(stream.pipeline, report)
    summary = account.summary(stream.settings, stream.pipeline)
    assert summary["events"] == END - CHANGE
    marks = {mark_of(one["signal"], one["action"]): one["event"] for one in summary["drift"]}
    assert marks["recovered"] == RECOVERY - CHANGE
    told = stream.bodies("drift")
    assert [one["event"] for one in summary["drift"]] == [one["event"] - CHANGE for one in told]
    assert max(one["event"] for one in summary["drift"]) < summary["events"]


def test_detectors_do_not_see_users_in_quarantine():
    stream = Stream(small_settings(worker={"batch_events": 32}, drift={"warm_up_events": 0}))
    usual = [event(f"u{n % 60}", n % 4, T + n) for n in range(1200)]
    items = np.random.default_rng(1).integers(4, size=300)
    robot = [event("robot", int(item), T + 900.5 + n) for n, item in enumerate(items)]
    stream.put_events(usual[:900] + [one for pair in zip(usual[900:], robot, strict=True) for one in pair])
    found = [one for report in stream.drain() for one in report.detections]
    hidden = value(stream, "quarantined_events_total")
    assert found == []  # after an alarm detectors would begin anew, and have seen less
    seen = stream.parts.evaluation.drift.state()["unknown"]
    assert 32 * len(seen["blocks"]) + len(seen["rest"]) == 1500 - hidden
    assert 200 < hidden < 300
