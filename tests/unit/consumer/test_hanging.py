"""Transactions that hang: found beside those that go on, and ended as they were decided."""

from __future__ import annotations

from types import SimpleNamespace as Row

import pytest
import structlog

from consumer.clock import ManualClock
from consumer.errors import BrokerUnavailable
from consumer.kafka_io.client import TransactionState
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.hanging import OFFSETS_TOPIC, end_hanging, find_hanging, partition_of_group
from consumer.ports import TopicInfo
from consumer.settings import KafkaSettings

KAFKA = KafkaSettings(group="group")
OUTPUTS = [TopicInfo("predictions", 2), TopicInfo("journal", 1)]
OFFSETS = (OFFSETS_TOPIC, partition_of_group(KAFKA.group, 50))


class Admin:
    """A broker whose coordinator says `state` of producer 7; `open_in` are the partitions in which who has begun what."""

    def __init__(self, state, open_in=()):
        self.states = [state] if isinstance(state, TransactionState) else list(state)
        self.open_in = dict(open_in)
        self.errors, self.written = {}, []

    def describe_transactions(self, names):
        self._fail("describe_transactions")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {name: Row(state=state, producer_id=7, producer_epoch=3) for name in names}

    def describe_topics(self, names):
        return [{"name": name, "partitions": [None] * 50} for name in names]

    def describe_producers(self, partitions):
        self._fail("describe_producers")
        rows = {tuple(tp): [self._row(7, -1), self._row(8, 4)] for tp in partitions}
        for partition, producer in self.open_in.items():
            rows[partition].append(self._row(producer, 11))
        return {tp: Row(active_producers=rows[tuple(tp)]) for tp in partitions}

    def write_marker(self, hanging):
        self.written.append((tuple(hanging.partition), hanging.producer_id, hanging.producer_epoch, hanging.commits))
        self._fail("write_marker")

    def _row(self, producer, start):
        epochs = {"producer_epoch": 3, "coordinator_epoch": 5}
        return Row(producer_id=producer, current_transaction_start_offset=start, **epochs)

    def _fail(self, call):
        for error in self.errors.get(call, [])[:1]:
            self.errors[call].pop(0)
            raise error


def mend(admin):
    with structlog.testing.capture_logs() as logs:
        clock = ManualClock()
        end_hanging(admin, KAFKA, find_hanging(admin, KAFKA, OUTPUTS, clock), clock)
    return logs


@pytest.mark.parametrize(
    ("state", "commits"), [(TransactionState.COMPLETE_COMMIT, True), (TransactionState.COMPLETE_ABORT, False)]
)
def test_what_hangs_is_ended_as_its_coordinator_had_decided(state, commits):
    hanging = {("predictions", 1): 7, ("journal", 0): 7, OFFSETS: 7, ("predictions", 0): 9}
    admin = Admin(state, hanging)
    logs = mend(admin)
    assert sorted(admin.written) == sorted((place, 7, 3, commits) for place, who in hanging.items() if who == 7)
    assert [entry["log_level"] for entry in logs] == ["warning"] * 3


def test_nothing_is_written_where_all_is_closed():
    admin = Admin(TransactionState.COMPLETE_COMMIT)
    assert (mend(admin), admin.written) == ([], [])


def test_a_transaction_that_goes_on_is_left_to_the_coordinator():
    admin = Admin(TransactionState.ONGOING, {("journal", 0): 7})
    assert (mend(admin), admin.written) == ([], [])


def test_one_that_is_about_to_end_is_waited_for():
    admin = Admin([TransactionState.PREPARE_COMMIT] * 3 + [TransactionState.COMPLETE_COMMIT], {("journal", 0): 7})
    mend(admin)
    assert admin.written == [(("journal", 0), 7, 3, True)]
    with pytest.raises(BrokerUnavailable, match="about to end"):
        mend(Admin(TransactionState.PREPARE_ABORT))


def test_an_id_that_was_never_used_has_left_nothing():
    admin = Admin(TransactionState.EMPTY)
    admin.errors = {"describe_transactions": [k.TransactionalIdNotFoundError()]}
    assert (mend(admin), admin.written) == ([], [])


def test_an_outcome_that_is_forgotten_is_left_to_people():
    admin = Admin(TransactionState.EMPTY, {("journal", 0): 7})
    (entry,) = mend(admin)
    assert admin.written == []
    assert entry["log_level"] == "error"
    assert "kafka-transactions.sh" in entry["what_to_do"]


@pytest.mark.parametrize("call", ["describe_transactions", "describe_producers"])
def test_who_may_not_look_goes_on(call):
    admin = Admin(TransactionState.COMPLETE_COMMIT, {("journal", 0): 7})
    admin.errors = {call: [k.TopicAuthorizationFailedError()]}
    (entry,) = mend(admin)
    assert (admin.written, entry["log_level"]) == ([], "info")


def test_who_may_not_write_markers_is_told_what_to_do():
    admin = Admin(TransactionState.COMPLETE_COMMIT, {("journal", 0): 7})
    admin.errors = {"write_marker": [k.ClusterAuthorizationFailedError()]}
    (entry,) = mend(admin)
    assert entry["log_level"] == "error"
    assert "kafka-transactions.sh" in entry["what_to_do"]


def test_a_partition_without_a_leader_is_waited_for_and_one_that_has_seen_a_newer_epoch_is_left():
    admin = Admin(TransactionState.COMPLETE_COMMIT, {("journal", 0): 7, ("predictions", 0): 7})
    admin.errors = {
        "describe_producers": [k.NotLeaderForPartitionError()],
        "write_marker": [k.InvalidProducerEpochError(), k.NotLeaderForPartitionError()],
    }
    mend(admin)
    assert [place for place, *_ in admin.written] == [("journal", 0), ("predictions", 0), ("predictions", 0)]


def test_the_groups_partition_is_that_of_javas_hash():
    assert partition_of_group("", 50) == 0
    assert partition_of_group("abc", 50) == 96354 % 50
    assert partition_of_group("polygenelubricants", 50) == 0  # the hash is -2**31
    assert partition_of_group("tidemill", 1) == 0
