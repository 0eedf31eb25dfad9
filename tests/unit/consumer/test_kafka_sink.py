"""The commit protocol against a producer that can fail at every step."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from consumer.clock import ManualClock
from consumer.errors import Aborted, AccessError, Fenced, LostPartitions, UnknownOutcome
from consumer.kafka_io import sink as module
from consumer.kafka_io.client import errors as k
from consumer.ports import Batch, OffsetRange, Output, TopicInfo, TopicPartition
from consumer.settings import Settings
from consumer.sink_rules import OutputTooLarge

TP = TopicPartition("events", 0)
BATCH = Batch((), (OffsetRange(TP, 0, 3),), frozenset({TP}), owner="proof")
OUTPUTS = [Output("predictions", b"a", b"1"), Output("predictions", b"b", b"22")]
PROTOCOL = ["begin_transaction", "send", "send", "flush", "send_offsets_to_transaction", "commit_transaction"]


class Future:
    def __init__(self, error=None):
        self.exception = error

    def succeeded(self):
        return self.exception is None

    def failed(self):
        return self.exception is not None

    def get(self, timeout):
        assert timeout > 0
        raise self.exception


ALL_OUTPUTS = {"predictions", "dead-letters", "drift", "journal"}


class Producer:
    """Notes its calls; `errors` are raised by the call of that name, `failed` are the errors of records by number."""

    def __init__(self):
        self.calls, self.errors, self.failed = [], {}, {}
        self.sent, self.rights = 0, {}

    def require_topics(self, _kafka, names, _clock, rights):
        self.rights = rights
        return {name: TopicInfo(name, 1) for name in names}

    def partitions_for(self, _topic):
        return {0, 1}

    def send(self, *_args, **_options):
        self._called("send")
        self.sent += 1
        return Future(self.failed.get(self.sent - 1))

    def __getattr__(self, name):
        return lambda *_args, **_options: self._called(name)

    def _called(self, name):
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]


@pytest.fixture
def producer(monkeypatch):
    producer = Producer()
    monkeypatch.setattr(module, "connect", lambda *_args: producer)
    monkeypatch.setattr(module, "admin_client", lambda *_args: nullcontext(producer))
    monkeypatch.setattr(module, "find_hanging", lambda *_args: producer._called("find_hanging"))
    monkeypatch.setattr(module, "end_hanging", lambda *_args: producer._called("end_hanging"))
    monkeypatch.setattr(module, "require_topics", producer.require_topics)
    return producer


@pytest.mark.parametrize(("enabled", "written"), [(True, ALL_OUTPUTS), (False, ALL_OUTPUTS - {"drift"})])
def test_only_what_is_written_needs_the_right_to_write(producer, enabled, written):
    module.KafkaSink(Settings.model_validate({"drift": {"enabled": enabled}}), ManualClock())
    assert {right: set(topics) for right, topics in producer.rights.items()} == {"WRITE": written}


@pytest.fixture
def sink(producer):
    sink = module.KafkaSink(Settings(), ManualClock())
    assert producer.calls == ["find_hanging", "init_transactions", "end_hanging"]
    producer.calls.clear()
    return sink


def test_the_steps_come_in_the_order_of_the_protocol(sink, producer):
    sink.commit(OUTPUTS, BATCH)
    assert producer.calls == PROTOCOL


def test_a_record_that_failed_keeps_the_transaction_from_being_committed_though_no_call_raised(sink, producer):
    producer.failed = {1: k.KafkaTimeoutError()}
    with pytest.raises(UnknownOutcome):
        sink.commit(OUTPUTS, BATCH)
    assert producer.calls == PROTOCOL[:4]


@pytest.mark.parametrize(
    ("step", "error", "raised", "aborts"),
    [
        ("send", k.KafkaTimeoutError(), UnknownOutcome, False),
        ("flush", k.KafkaTimeoutError(), UnknownOutcome, False),
        ("send_offsets_to_transaction", k.CommitFailedError(), LostPartitions, True),
        ("send_offsets_to_transaction", k.FencedInstanceIdError(), Fenced, True),
        ("send_offsets_to_transaction", k.ProducerFencedError(), Fenced, False),
        ("send_offsets_to_transaction", k.GroupAuthorizationFailedError(), AccessError, True),
        ("commit_transaction", k.ProducerFencedError(), Fenced, False),
        ("commit_transaction", k.KafkaError("no answer"), UnknownOutcome, False),
    ],
)
def test_an_error_of_a_step_is_final_for_this_sink(sink, producer, step, error, raised, aborts):
    producer.errors = {step: error}
    with pytest.raises(raised):
        sink.commit(OUTPUTS, BATCH)
    assert ("abort_transaction" in producer.calls) == aborts
    producer.errors, calls = {}, len(producer.calls)
    with pytest.raises((Fenced, LostPartitions, UnknownOutcome)):
        sink.commit(OUTPUTS, BATCH)
    assert len(producer.calls) == calls


@pytest.mark.parametrize("error", [k.MessageSizeTooLargeError(), k.RecordListTooLargeError()])
def test_the_first_output_that_is_too_large_is_named_among_those_that_failed_with_it(sink, producer, error):
    producer.failed = {0: k.TransactionAbortedError(), 1: error}
    with pytest.raises(OutputTooLarge) as caught:
        sink.commit(OUTPUTS, BATCH)
    assert (caught.value.index, caught.value.size) == (1, 2)
    assert producer.calls[-1] == "abort_transaction"
    producer.failed = {}
    sink.commit(OUTPUTS, BATCH)
    assert producer.calls[-1] == "commit_transaction"


def test_an_output_that_the_client_refuses_is_the_one_being_sent(sink, producer):
    producer.errors = {"send": k.MessageSizeTooLargeError()}
    with pytest.raises(OutputTooLarge) as caught:
        sink.commit(OUTPUTS, BATCH)
    assert caught.value.index == 0


def test_a_reason_of_its_own_counts_more_than_having_been_aborted_with_others(sink, producer):
    producer.failed = {0: k.TransactionAbortedError(), 1: k.InvalidTopicError()}
    with pytest.raises(Aborted, match="InvalidTopic"):
        sink.commit(OUTPUTS, BATCH)


def test_an_abort_that_fails_leaves_the_outcome_unknown(sink, producer):
    producer.failed = {0: k.MessageSizeTooLargeError()}
    producer.errors = {"abort_transaction": k.KafkaError("no answer")}
    with pytest.raises(UnknownOutcome, match="aborting after MessageSizeTooLargeError"):
        sink.commit(OUTPUTS, BATCH)


def test_a_batch_that_was_split_is_decided_by_its_records(sink, producer):
    producer.errors = {"flush": k.UnknownError("Future not done")}
    sink.commit(OUTPUTS, BATCH)
    assert producer.calls == PROTOCOL


def test_nothing_to_write_and_no_position_is_no_transaction(sink, producer):
    sink.commit([], Batch((), (), frozenset({TP})))
    assert producer.calls == []


def test_at_least_once_needs_the_source():
    kafka = Settings().kafka.model_copy(update={"delivery": "at_least_once"})
    with pytest.raises(ValueError, match="pass it"):
        module.KafkaSink(Settings(kafka=kafka), ManualClock())
