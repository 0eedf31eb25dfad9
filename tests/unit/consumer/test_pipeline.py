from __future__ import annotations

import orjson
import pytest
from support import TOPIC, Stream, event, random_events, record_value, same_state, small_settings

from consumer.errors import Fenced, LostPartitions, TooManyBadEvents, TransientError, UnknownOutcome
from consumer.memory_io import Fault, MemoryLog, MemorySource
from consumer.ports import TopicPartition
from incremental.drift import Detection
from incremental.evaluation import Evaluation

BAD = (b"not json", b"", None, b"[1]", b'{"user_id": 1.5, "item_id": 1}', b'{"user_id": "u"}', b"\xff\xfe")
TOPICS = {"predictions": 1, "dead-letters": 1, "drift": 1, "journal": 1}
T = 1_700_000_000.0


def mixed(n: int) -> list[bytes | None]:
    """Every third record is bad in one way or another."""
    good = [record_value(user_id=f"u{i % 5}", item_id=i % 9, event_time=T + i) for i in range(n)]
    return [BAD[i // 3 % len(BAD)] if i % 3 == 2 else value for i, value in enumerate(good)]


def metric(stream: Stream, name: str) -> float:
    lines = [line for line in stream.metrics.render().decode().splitlines() if line.startswith(f"tidemill_{name} ")]
    assert len(lines) == 1, name
    return float(lines[0].rpartition(" ")[2])


# --- what is told


def lag_seconds(stream: Stream) -> float:
    name = f'tidemill_consumer_lag_seconds{{partition="0",topic="{TOPIC}"}} '
    (line,) = [line for line in stream.metrics.render().decode().splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


def test_the_age_of_the_last_record_read_is_told_while_others_wait():
    stream = Stream()
    now_ms = round(stream.clock.now() * 1000)
    for n, value in enumerate(mixed(24)):
        stream.put(value, time_ms=now_ms - 100_000 + n * 1000)
    stream.pipeline.step()
    assert lag_seconds(stream) == pytest.approx(85.0)
    stream.pipeline.step()
    assert lag_seconds(stream) == 0.0
    stream.clock.advance(50.0)
    stream.pipeline.step()
    assert lag_seconds(stream) == 0.0


def test_users_and_quality_are_told_after_the_first_step():
    stream = Stream()
    stream.put_events(random_events(16, users=5))
    stream.pipeline.step()
    assert metric(stream, "users") == stream.parts.histories.users > 0


# --- exactly one answer


@pytest.mark.parametrize("partitions", [1, 2])
def test_every_record_gives_one_prediction_or_one_dead_letter(partitions):
    stream = Stream(partitions=partitions)
    for partition in range(partitions):
        stream.put(*mixed(100), partition=partition)
    reports = stream.drain()
    assert stream.sources() == [(p, offset) for p in range(partitions) for offset in range(100)]
    assert len(stream.bodies()) == partitions * 67
    assert sum(report.records for report in reports) == stream.pipeline.records == partitions * 100
    assert sum(report.events for report in reports) == stream.pipeline.events == partitions * 67
    assert sum(stream.parts.rejected.values()) == partitions * 33
    assert stream.log.committed("tidemill") == {TopicPartition(TOPIC, p): 100 for p in range(partitions)}


def test_predictions_keep_the_order_of_their_events_and_tell_the_batch():
    stream, events = Stream(), random_events(40)
    stream.put_events(events)
    stream.drain()
    bodies = stream.bodies()
    assert [body["source"]["offset"] for body in bodies] == list(range(40))
    assert [body["batch"] for body in bodies] == [1] * 16 + [2] * 16 + [3] * 8
    assert {body["model_version"] for body in bodies[16:32]} == {"tidemill-0@1"}
    assert [item["item_id"] for item in bodies[0]["items"]] == [events[0].item_id]  # all that is known by then
    assert bodies[39]["items"]


def test_dead_letters_are_the_records_as_they_were():
    stream = Stream()
    stream.put(*BAD, key=b"key")
    (report,) = stream.drain()
    assert (report.records, report.events, report.rejected) == (len(BAD), 0, len(BAD))
    assert [record.value for record in stream.log.records("dead-letters")] == [*BAD]
    assert {record.key for record in stream.log.records("dead-letters")} == {b"key"}


def test_a_micro_batch_of_bad_records_alone_changes_nothing_but_its_number():
    stream = Stream()
    stream.put_events(random_events(16))
    stream.pipeline.step()
    before = stream.parts.learner.state()
    stream.put(b"bad")
    assert stream.pipeline.step().committed is True
    after = stream.parts.learner.state()
    assert after.values.pop("batch") == before.values.pop("batch") + 1
    assert same_state(before, after)


def test_late_and_repeated_events_are_predicted_for_and_counted_once():
    stream = Stream(small_settings(input={"map": {"event_id": "id"}}))
    one = record_value(user_id="u", item_id=1, event_time=T, id="x")
    late = record_value(user_id="u", item_id=2, event_time=T - 1e6, id="y")
    stream.put(one, one, late, late)
    stream.pipeline.step()
    assert len(stream.bodies()) == 4
    flags = [dict(record.headers).get("tidemill-flags") for record in stream.log.records("predictions")]
    assert flags == [None, b"repeated", b"late", b"late,repeated"]
    counted = {name: metric(stream, f'events_total{{outcome="{name}"}}') for name in ("accepted", "late", "repeated")}
    assert counted == {"accepted": 1.0, "late": 1.0, "repeated": 2.0}


def test_a_late_repetition_alone_is_no_trouble():
    stream = Stream(small_settings(input={"map": {"event_id": "id"}}))
    value = record_value(user_id="u", item_id=2, event_time=T - 1e6, id="y")
    for _ in range(2):
        stream.put(value)
        assert stream.pipeline.step().committed is True
    assert metric(stream, 'events_total{outcome="accepted"}') == 0.0


def test_an_item_is_published_from_its_own_event_on_and_never_before():
    stream = Stream(small_settings(worker={"batch_events": 4}))
    stream.put_events([event("u", f"i{n}", T + n) for n in range(8)])
    stream.drain()
    listed = [{item["item_id"] for item in body["items"]} for body in stream.bodies()]
    assert listed == [{f"i{m}" for m in range(n + 1)} for n in range(8)]


def test_what_was_learned_is_reported():
    stream = Stream()
    stream.put_events(random_events(20))
    reports = stream.drain()
    assert [report.learned.events for report in reports] == [16, 4]
    assert metric(stream, 'learn_steps_total{result="learned"}') == 2.0
    assert metric(stream, "predictions_total") == 20.0
    assert metric(stream, "items") == stream.parts.model.items.size


# --- aborts


def test_after_an_abort_memory_is_as_it_was_and_the_records_are_read_again():
    stream = Stream(partitions=2)
    for partition in (0, 1):
        stream.put(*mixed(40), partition=partition)
    stream.pipeline.step()
    before, seen = stream.state(), stream.sources()
    stream.log.inject(Fault.ABORT)
    report = stream.pipeline.step()
    assert report.committed is False
    assert same_state(before, stream.state())
    assert stream.sources() == seen
    stream.drain()
    assert stream.sources() == [(p, offset) for p in (0, 1) for offset in range(40)]
    assert stream.log.missed_faults() == []


def test_an_abort_of_the_very_first_batch_takes_back_the_unit_of_times():
    stream = Stream()
    stream.put(record_value(user_id="u", item_id=1, event_time=T * 1000))
    stream.parts.begin(TopicPartition(TOPIC, 0), None)
    stream.parts.next_offsets[TopicPartition(TOPIC, 0)] = 0
    before = stream.state()
    stream.log.inject(Fault.ABORT)
    assert stream.pipeline.step().committed is False
    assert stream.parts.decoder.time_unit is None
    assert same_state(before, stream.state())
    assert stream.pipeline.step().committed is True
    assert stream.parts.decoder.time_unit == "ms"


@pytest.mark.parametrize("batch", range(4))
def test_a_stream_with_an_abort_ends_like_one_without(batch):
    streams = Stream(), Stream()
    for stream, after in zip(streams, (None, batch), strict=True):
        stream.put(*mixed(60))
        if after is not None:
            stream.log.inject(Fault.ABORT, after=after)
        stream.drain()
        assert stream.log.missed_faults() == []
    assert same_state(streams[0].state(), streams[1].state())
    assert streams[0].bodies() == streams[1].bodies()
    assert streams[0].pipeline.records == streams[1].pipeline.records == 60


def test_bad_records_that_are_read_again_are_not_counted_again():
    stream = Stream(small_settings(input={"max_bad_run": 10}))
    stream.put(*[b"bad"] * 6)
    for _ in range(3):
        stream.log.inject(Fault.ABORT)
        assert stream.pipeline.step().committed is False
    assert stream.pipeline.step().committed is True
    stream.put(*[b"bad"] * 4)
    with pytest.raises(TooManyBadEvents):
        stream.pipeline.step()


@pytest.mark.parametrize(
    ("fault", "error", "happened"),
    [
        (Fault.UNKNOWN_COMMITTED, UnknownOutcome, True),
        (Fault.UNKNOWN_OPEN, UnknownOutcome, False),
        (Fault.FENCE, Fenced, False),
        (Fault.LOST_PARTITIONS, LostPartitions, False),
    ],
)
def test_where_nobody_knows_the_worker_stops_before_it_learns(fault, error, happened):
    stream = Stream()
    stream.put_events(random_events(40))
    stream.pipeline.step()
    before = stream.state()
    stream.log.inject(fault)
    with pytest.raises(error):
        stream.pipeline.step()
    assert same_state(before, stream.state())
    told = "unknown" if error is UnknownOutcome else "aborted"
    assert metric(stream, f'transactions_total{{result="{told}"}}') == 1.0
    assert (len(stream.bodies()) == 32) is happened


def test_a_broker_that_asks_to_try_again_is_not_hidden():
    stream = Stream()
    stream.put_events(random_events(4))
    stream.log.inject(Fault.POLL_ERROR)
    with pytest.raises(TransientError):
        stream.pipeline.step()
    assert stream.pipeline.step().events == 4


# --- outputs that are too large, records that are too many


def test_a_dead_letter_that_is_too_large_is_sent_empty_with_its_size():
    stream = Stream(log=MemoryLog({TOPIC: 1} | TOPICS, max_value_bytes=600))
    stream.log.max_value_bytes = 10_000
    stream.put(b"x" * 5000, record_value(user_id="u", item_id=1), b"y" * 7000)
    stream.log.max_value_bytes = 600
    report = stream.pipeline.step()
    assert (report.committed, report.events, report.rejected) == (True, 1, 2)
    letters = stream.log.records("dead-letters")
    assert [letter.value for letter in letters] == [b"", b""]
    assert [dict(letter.headers)["tidemill-size"] for letter in letters] == [b"5000", b"7000"]
    assert stream.sources() == [(0, 0), (0, 1), (0, 2)]


def test_too_many_bad_records_stop_before_anything_is_committed():
    stream = Stream(small_settings(input={"max_bad_run": 20}))
    stream.put(*[b"bad"] * 40)
    stream.pipeline.step()
    before = stream.state()
    with pytest.raises(TooManyBadEvents, match="max_bad_run"):
        stream.pipeline.step()
    assert stream.log.committed("tidemill") == {TopicPartition(TOPIC, 0): 16}
    assert len(stream.log.records("dead-letters")) == 16
    assert same_state(before, stream.state())


# --- drift


def with_drift(stream: Stream, monkeypatch, at: set[int]) -> None:
    """Let the evaluation detect something in these micro-batches."""
    count = iter(range(1, 1000))

    def update(*_args, event, **_kwargs):
        number = next(count)
        return [Detection(event, "log_loss", "adwin", 1.0, 2.0)] if number in at else []

    monkeypatch.setattr(stream.parts.evaluation, "update", update)


def test_drift_is_told_with_the_next_micro_batch(monkeypatch):
    stream = Stream()
    with_drift(stream, monkeypatch, {2})
    stream.put_events(random_events(48))
    reports = [stream.pipeline.step() for _ in range(2)]
    assert [len(report.detections) for report in reports] == [0, 1]
    assert stream.bodies("drift") == []
    stream.pipeline.step()
    (body,) = stream.bodies("drift")
    assert (body["event"], body["signal"], body["model_version"]) == (16, "log_loss", "tidemill-0@2")
    assert metric(stream, 'drift_detected_total{signal="log_loss"}') == 1.0


def test_drift_is_not_lost_in_an_abort_and_not_told_twice(monkeypatch):
    stream = Stream()
    with_drift(stream, monkeypatch, {1, 2})
    stream.put_events(random_events(64))
    stream.pipeline.step()
    stream.log.inject(Fault.ABORT)
    assert stream.pipeline.step().committed is False
    assert stream.bodies("drift") == []
    stream.drain()
    assert [body["event"] for body in stream.bodies("drift")] == [0, 16]


def test_drift_is_not_lost_where_a_poll_moves_on_without_records(monkeypatch):
    """Positions pass over the marker of a transaction: a commit without events, which takes waiting drift along."""
    stream = Stream()
    with_drift(stream, monkeypatch, {1})
    stream.put_events(random_events(4))
    stream.pipeline.step()
    transaction = stream.log.begin("another", stream.log.init_producer("another"))
    stream.log.append(TOPIC, b"u", b"never", partition=0, transaction=transaction)
    stream.log.end_transaction(transaction, "aborted")
    report = stream.pipeline.step()
    assert (report.records, report.committed) == (0, True)
    assert stream.log.committed("tidemill") == {TopicPartition(TOPIC, 0): 6}
    stream.put_events(random_events(4))
    stream.pipeline.step()
    assert len(stream.bodies("drift")) == 1


@pytest.mark.parametrize("ends", ["stopped", "killed", "killed after a snapshot"])
def test_drift_of_the_last_micro_batch_before_an_end_is_told_by_the_next_process(monkeypatch, ends):
    def update(*_args, event, **_kwargs):
        return [Detection(event, "log_loss", "adwin", 1.0, 2.0)] if event == 16 else []

    monkeypatch.setattr(Evaluation, "update", update)
    stream = Stream()
    stream.put_events(random_events(32))
    stream.drain()
    assert [detection.event for detection in stream.parts.unsent] == [16]
    if ends != "killed":
        stream.worker.save()
    if ends == "stopped":
        stream.worker.close()
    for _ in range(2):
        stream.start()
        stream.put_events(random_events(16))
        stream.drain()
    (body,) = stream.bodies("drift")
    assert (body["event"], body["model_version"]) == (16, "tidemill-0@2")


def test_an_empty_poll_does_nothing():
    stream = Stream()
    stream.put_events(random_events(4))
    stream.drain()
    before, seen = stream.state(), len(stream.bodies())
    report = stream.pipeline.step()
    assert (report.records, report.committed, report.learned) == (0, True, None)
    assert same_state(before, stream.state())
    assert len(stream.bodies()) == seen


# --- partitions


def test_revoked_partitions_take_their_histories_along():
    stream = Stream(partitions=2)
    stream.put_events([event("a", 1, T), event("b", 1, T, partition=1)])
    stream.drain()
    assert stream.parts.histories.users == 2
    other = MemorySource(stream.log, TOPIC, "tidemill", instance="tidemill-1")
    stream.pipeline.step()
    assert set(stream.parts.histories.partitions) == {TopicPartition(TOPIC, 0)}
    assert set(stream.parts.next_offsets) == {TopicPartition(TOPIC, 0)}
    assert stream.parts.histories.users == 1
    other.close()
    stream.put_events([event("b", 2, T + 1, partition=1)])
    stream.pipeline.step()
    assert set(stream.parts.histories.partitions) == {TopicPartition(TOPIC, p) for p in (0, 1)}
    assert stream.sources() == [(0, 0), (1, 0), (1, 1)]


def test_a_commit_after_a_rebalance_is_refused_and_nothing_was_learned():
    stream = Stream(partitions=2)
    stream.put_events(random_events(20))
    stream.pipeline.step()
    before = stream.state()
    poll = stream.source.poll

    def poll_then_rebalance(limits):
        batch = poll(limits)
        MemorySource(stream.log, TOPIC, "tidemill", instance="tidemill-1")
        return batch

    stream.source.poll = poll_then_rebalance
    with pytest.raises(LostPartitions):
        stream.pipeline.step()
    assert same_state(before, stream.state())
    assert len(stream.bodies()) == 16


# --- learning on and off


def test_learning_can_be_off():
    stream = Stream(small_settings(learning={"enabled": False}))
    stream.put_events(random_events(20))
    reports = stream.drain()
    assert {report.learned.loss for report in reports} == {None}
    assert stream.parts.model.items.size == 0
    assert stream.parts.histories.users > 0
    assert metric(stream, 'learn_steps_total{result="skipped"}') == 2.0


def test_learning_stops_after_so_many_records():
    stream = Stream()
    stream.parts.freeze_after = 32
    stream.put_events(random_events(80))
    reports = stream.drain()
    assert [report.learned.events for report in reports] == [16, 16, 0, 0, 0]


def test_a_step_can_be_cut_short():
    stream = Stream()
    stream.put_events(random_events(20))
    assert [stream.pipeline.step(limit).records for limit in (5, 100, None)] == [5, 15, 0]


def test_time_is_told_by_stage_and_lag_by_partition():
    stream = Stream()
    stream.put_events(random_events(20))
    stream.pipeline.step()
    assert {"poll", "predict", "encode", "commit", "learn", "snapshot"} <= set(stream.pipeline.stage_s)
    assert metric(stream, 'consumer_lag_records{partition="0",topic="events"}') == 4.0


def test_no_output_holds_a_null():
    stream = Stream()
    stream.put_events(random_events(60, items=200))
    stream.drain()
    for record in stream.log.records("predictions"):
        assert b"null" not in record.value
        assert orjson.loads(record.value)["batch"] > 0
