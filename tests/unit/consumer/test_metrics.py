from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.clock import ManualClock
from consumer.metrics import COUNTERS, GAUGES, HISTOGRAMS, MAX_LABELS, Metrics
from consumer.ports import TopicPartition

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    return Metrics(clock)


def series(metrics: Metrics) -> Series:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return series(metrics).get((f"tidemill_{name}", frozenset(labels.items())))


def test_two_workers_share_nothing(clock: ManualClock) -> None:
    one, other = Metrics(clock), Metrics(clock)
    one.committed(5)
    assert value(one, "predictions_total") == 5
    assert value(other, "predictions_total") == 0


def test_outcomes_are_counted_and_there_from_the_start(metrics: Metrics) -> None:
    for outcome in ("accepted", "late", "repeated", "rejected"):
        assert value(metrics, "events_total", outcome=outcome) == 0
    metrics.events("accepted", 3)
    metrics.events("late", 0)
    assert value(metrics, "events_total", outcome="accepted") == 3
    assert value(metrics, "events_total", outcome="late") == 0


def test_transactions_and_predictions(metrics: Metrics) -> None:
    metrics.committed(256)
    metrics.not_committed("aborted")
    metrics.not_committed("unknown")
    assert value(metrics, "predictions_total") == 256
    assert [value(metrics, "transactions_total", result=r) for r in ("committed", "aborted", "unknown")] == [1, 1, 1]


def test_dead_letters_by_reason(metrics: Metrics) -> None:
    metrics.dead_letter("not_json")
    metrics.dead_letter("not_json", 2)
    assert value(metrics, "dead_letters_total", reason="not_json") == 3


def test_labels_that_come_from_outside_are_bounded(metrics: Metrics) -> None:
    for n in range(MAX_LABELS + 10):
        metrics.dead_letter(f"reason {n}")
    assert value(metrics, "dead_letters_total", reason="other") == 10
    assert value(metrics, "dead_letters_total", reason="reason 0") == 1
    metrics.dead_letter("reason 0")
    assert value(metrics, "dead_letters_total", reason="reason 0") == 2


def test_lag_lives_as_long_as_the_assignment(metrics: Metrics) -> None:
    kept, revoked, foreign = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("t", 2)
    metrics.assigned({kept, revoked})
    metrics.lag({kept: 5, revoked: 6, foreign: 7}, {kept: 1.5})
    assert value(metrics, "consumer_lag_records", topic="t", partition="1") == 6
    assert value(metrics, "consumer_lag_records", topic="t", partition="2") is None
    assert value(metrics, "consumer_lag_seconds", topic="t", partition="0") == 1.5
    metrics.assigned({kept})
    assert value(metrics, "consumer_lag_records", topic="t", partition="0") == 5
    assert value(metrics, "consumer_lag_records", topic="t", partition="1") is None
    assert value(metrics, "assigned_partitions") == 1


def test_only_a_change_is_a_rebalance(metrics: Metrics) -> None:
    partition = TopicPartition("t", 0)
    for assignment in ({partition}, {partition}, set(), set()):
        metrics.assigned(assignment)
    assert value(metrics, "rebalances_total") == 2


def test_latencies_are_counted_by_the_array(metrics: Metrics) -> None:
    metrics.latency(np.array([0.004, 0.005, 0.0051, np.nan, np.inf, -3.0, 1e6]), np.array([2.0]))
    bucket = "event_to_prediction_seconds_bucket"
    assert value(metrics, bucket, le="0.005") == 3
    assert value(metrics, bucket, le="0.01") == 4
    assert value(metrics, bucket, le="86400.0") == 4
    assert value(metrics, bucket, le="+Inf") == 5
    assert value(metrics, "event_to_prediction_seconds_count") == 5
    assert value(metrics, "event_to_prediction_seconds_sum") == pytest.approx(1e6 + 0.0141)
    assert value(metrics, "record_to_prediction_seconds_sum") == 2.0


def test_an_empty_micro_batch_counts_nothing(metrics: Metrics) -> None:
    metrics.latency(np.empty(0), np.empty(0))
    assert value(metrics, "event_to_prediction_seconds_count") == 0


def test_stages(metrics: Metrics) -> None:
    metrics.observe_step("poll", 0.002)
    metrics.observe_step("poll", 99.0)
    metrics.observe_step("learn", 0.1)
    assert value(metrics, "step_duration_seconds_bucket", stage="poll", le="0.0025") == 1
    assert value(metrics, "step_duration_seconds_count", stage="poll") == 2
    assert value(metrics, "step_duration_seconds_sum", stage="learn") == 0.1


def test_learning(metrics: Metrics) -> None:
    metrics.learned("learned", 4e-3)
    metrics.learned("nonfinite")
    assert value(metrics, "learn_steps_total", result="learned") == 1
    assert value(metrics, "learn_steps_total", result="nonfinite") == 1
    assert value(metrics, "learning_rate") == 4e-3


def test_prequential(metrics: Metrics) -> None:
    metrics.prequential("markov", {10: 0.25, 20: 0.5}, {10: 0.125}, 7.5)
    metrics.prequential_head("event_type", "mode", 0.7)
    assert value(metrics, "prequential_hit_rate", k="20", method="markov") == 0.5
    assert value(metrics, "prequential_ndcg", k="10", method="markov") == 0.125
    assert value(metrics, "prequential_log_loss", head="item", method="markov") == 7.5
    assert value(metrics, "prequential_log_loss", head="event_type", method="mode") == 0.7


def test_a_counter_may_begin_at_zero(metrics: Metrics) -> None:
    metrics.begin_at_zero("drift_detected", ["log_loss", "unknown"])
    metrics.drift("log_loss")
    metrics.begin_at_zero("drift_detected", ["log_loss"])
    assert value(metrics, "drift_detected_total", signal="unknown") == 0
    assert value(metrics, "drift_detected_total", signal="log_loss") == 1


def test_mixture_drift_users_and_vocabulary(metrics: Metrics) -> None:
    metrics.mixture({"transformer": 0.75, "popularity": 0.25})
    metrics.drift("log_loss")
    metrics.drift("segment/log_loss", "at")
    metrics.histories(9)
    metrics.vocabulary(items=7, admitted=8, evicted=1)
    metrics.vocabulary(items=8, admitted=1, evicted=0)
    assert value(metrics, "mixture_weight", component="transformer") == 0.75
    assert value(metrics, "drift_detected_total", signal="log_loss") == 1
    assert value(metrics, "drift_detected_total", signal="segment/log_loss") == 1
    assert value(metrics, "drift_detected_in_segment_total", segment="at") == 1
    assert value(metrics, "users") == 9
    assert value(metrics, "items") == 8
    assert value(metrics, "items_admitted_total") == 9
    assert value(metrics, "items_evicted_total") == 1


def test_what_the_policy_does_and_how_long_the_recovery_takes(metrics: Metrics, clock: ManualClock) -> None:
    metrics.adapted(("short_half_lives", "keep_champion"), {"short_half_lives": True}, quarantined=3)
    metrics.adapted((), {"short_half_lives": False}, quarantined=4)
    assert value(metrics, "adaptations_total", action="keep_champion") == 1
    assert value(metrics, "adaptation_active", action="short_half_lives") == 0
    assert value(metrics, "quarantined_events_total") == 7
    metrics.worse_since(100)
    clock.advance(20)
    metrics.recovered_from_drift(100, 6000)
    assert value(metrics, "drift_recovery_seconds_sum") == 20
    assert value(metrics, "drift_recovery_events_bucket", le="10000.0") == 1


def test_a_recovery_from_an_alarm_that_was_not_seen_has_no_seconds(metrics: Metrics) -> None:
    metrics.recovered_from_drift(100, 6000)
    metrics.worse_since(9000)
    metrics.recovered_from_drift(9500, 1000)  # its alarm came in a redo
    assert value(metrics, "drift_recovery_events_count") == 2
    assert value(metrics, "drift_recovery_seconds_count") == 0


def test_whether_it_is_degraded_is_asked_at_every_scrape(metrics: Metrics) -> None:
    assert value(metrics, "degraded") == 0
    since: list[int] = []
    metrics.watch_degraded(lambda: bool(since))
    assert value(metrics, "degraded") == 0
    since.append(5)
    assert value(metrics, "degraded") == 1


def test_the_age_of_the_snapshot_grows_until_one_is_saved(metrics: Metrics, clock: ManualClock) -> None:
    clock.advance(30)
    assert value(metrics, "snapshot_age_seconds") == 30
    metrics.snapshot_failed()
    metrics.snapshot(seconds=0.2, size_bytes=1000)
    assert value(metrics, "snapshot_age_seconds") == 0
    clock.advance(5)
    assert value(metrics, "snapshot_age_seconds") == 5
    assert value(metrics, "snapshot_size_bytes") == 1000
    assert value(metrics, "snapshot_duration_seconds_count") == 1
    assert value(metrics, "snapshots_total", result="saved") == 1
    assert value(metrics, "snapshots_total", result="failed") == 1


def test_build_info(metrics: Metrics) -> None:
    metrics.build_info({"tidemill": "1.2.3", "kafka-python": "3.0.12"})
    (labels,) = [dict(labels) for name, labels in series(metrics) if name == "tidemill_build_info"]
    assert labels["tidemill"] == "1.2.3"
    assert labels["kafka_python"] == "3.0.12"
    assert labels["python"].startswith("3.")


def test_every_declared_metric_is_fed_by_a_method_and_shown(metrics: Metrics) -> None:
    source = inspect.getsource(Metrics)
    page = metrics.render().decode()
    for name in (*COUNTERS, *GAUGES, *HISTOGRAMS):
        assert f'"{name}"' in source
        assert f"# HELP tidemill_{name}" in page
    assert "_created" not in page


def test_names_follow_the_conventions() -> None:
    for name, (text, _) in {**COUNTERS, **GAUGES}.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_minutes"))
        assert text.endswith(".")
    assert all(name.endswith(("_seconds", "_events")) for name in HISTOGRAMS)
    assert all(list(bounds) == sorted(set(bounds)) for _, _, bounds in HISTOGRAMS.values())
