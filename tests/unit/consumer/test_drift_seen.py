"""What people see of drift: metrics, drift records and the report's marks, of a stream that goes through all of it.

Users go through six items each, then for a while act on items nobody has seen, then go back.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from support import Stream, event, record_value, small_settings

from consumer import parts as parts_module
from consumer.account import Account
from consumer.decode import REASONS
from consumer.report_words import mark_of
from incremental.adaptation import Adaptation
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


def test_the_policy_is_told_of_how_many_users_an_alarm_is(monkeypatch):
    told = []
    monkeypatch.setattr(Adaptation, "react", lambda _self, found, users: told.append(users("misses")) or found)
    stream = Stream(small_settings(drift={"warm_up_events": 0}))
    for number in range(64):
        stream.put(record_value(user_id=f"u{number % 4}", item_id=number % 9))
    stream.drain()
    assert told[-1] == pytest.approx(4.0)


@pytest.mark.parametrize(("asked", "seen", "told"), [("contry", 0, 1), ("contry", 7, 0), ("country", 0, 0)])
def test_a_feature_for_segments_that_no_event_has_is_told_once(monkeypatch, asked, seen, told):
    monkeypatch.setattr(parts_module, "UNSEEN_EVENTS", 32)
    stream = Stream(small_settings(drift={"segment": asked}))
    for number in range(96):
        features = {"country": "at"} | ({"contry": "at"} if number < seen else {})
        stream.put(record_value(user_id=f"u{number % 5}", item_id=number % 9, features=features))
    with capture_logs() as lines:
        stream.drain()
    said = [line for line in lines if "drift.segment" in line["event"]]
    assert [line["hint"] for line in said] == ["did you mean country?"] * told


def test_segments_are_told_apart_by_a_mapped_feature():
    settings = small_settings(drift={"warm_up_events": 0, "segment": "country", "segment_events": 8})
    stream = Stream(settings)
    for number in range(48):
        country = ("at", "de", 7, None)[number % 4]
        stream.put(record_value(user_id=f"u{number % 5}", item_id=number % 9, features={"country": country}))
    stream.drain()
    assert stream.parts.state().take("evaluation").values["segments"]["names"] == ["other", "de", "7", "at"]
    for name in ("other", "de", "7", "at"):  # before the first detection in them
        assert value(stream, "drift_detected_in_segment_total", segment=name) == 0.0
