"""The source against a client that does what the real one was seen to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from consumer.clock import ManualClock
from consumer.errors import Fenced, InputTruncated, StateError
from consumer.kafka_io import source as module
from consumer.kafka_io.client import KafkaPartition
from consumer.kafka_io.client import errors as k
from consumer.ports import OffsetRange, PollLimits, TopicPartition
from consumer.settings import Settings

TP = TopicPartition("events", 0)
LIMITS = PollLimits(10, 0.1)


class Client:
    """One partition. `highwater` is what the last fetch said, which may be older than the records handed out."""

    def __init__(self):
        self.first, self.end, self.at, self.known = 0, 0, 0, 0
        self.markers = frozenset()
        self._coordinator = SimpleNamespace(
            rejoining=False, stable=lambda: True, _heartbeat_enabled=True, _join_task=None
        )

    def subscribe(self, _topics, listener):
        self.listener = listener
        self.listener.on_partitions_assigned([KafkaPartition(*TP)])

    def partitions_for_topic(self, _topic):
        return {0}

    def committed(self, *_args, **_named):
        return None

    def beginning_offsets(self, partitions):
        return dict.fromkeys(partitions, self.first)

    def end_offsets(self, partitions):
        return dict.fromkeys(partitions, self.end)

    def group_metadata(self):
        return SimpleNamespace(generation_id=1, member_id="me")

    def seek(self, _partition, offset):
        self.at = offset

    def highwater(self, _partition):
        return self.known

    def position(self, _partition, **_named):
        return self.at

    def poll(self, max_records, **_named):
        if not self.first <= self.at <= self.end:
            raise k.OffsetOutOfRangeError({KafkaPartition(*TP): self.at})
        stop = min(self.end, self.at + max_records)
        offsets = [offset for offset in range(self.at, stop) if offset not in self.markers]
        self.at = stop
        return {KafkaPartition(*TP): [self._record(offset) for offset in offsets]} if offsets else {}

    def _record(self, offset):
        return SimpleNamespace(
            topic="events", partition=0, offset=offset, timestamp=0, key=b"k", value=b"v", headers=()
        )

    def close(self, **_named):
        return


@pytest.fixture
def client(monkeypatch):
    made = Client()
    monkeypatch.setattr(module, "require_topics", lambda *_: None)
    monkeypatch.setattr(module, "connect", lambda *_: made)
    return made


def opened(**recovery):
    source = module.KafkaSource(Settings.model_validate({"recovery": recovery}), ManualClock())
    assert source.poll(LIMITS).assignment == {TP}
    return source


def test_ranges_follow_what_was_fetched_and_not_the_highwater(client):
    source = opened()
    client.end, client.known = 5, 0
    batch = source.poll(LIMITS)
    assert [record.offset for record in batch.records] == [0, 1, 2, 3, 4]
    assert batch.ranges == (OffsetRange(TP, 0, 5),)
    client.end, client.known = 8, 3
    assert source.poll(LIMITS).ranges == (OffsetRange(TP, 5, 8),)
    assert source.positions() == {TP: 8}


def test_markers_that_were_passed_over_are_a_range_without_records(client):
    source = opened()
    client.end = client.known = 3
    client.markers = frozenset({2})
    assert source.poll(PollLimits(2, 0.1)).ranges == (OffsetRange(TP, 0, 2),)
    batch = source.poll(LIMITS)
    assert (batch.records, batch.ranges) == ((), (OffsetRange(TP, 2, 3),))


def test_nothing_is_a_range_where_nothing_came(client):
    source = opened()
    client.known = 9  # of records that are not committed yet
    assert source.poll(LIMITS).ranges == ()


def test_retention_that_passes_by_stops_the_source(client):
    source = opened()
    client.first, client.end = 6, 9
    for _ in range(2):
        with pytest.raises(InputTruncated, match="partition 0 at 0, begins at 6 now"):
            source.poll(LIMITS)


@pytest.mark.parametrize("on_truncation", ["earliest", "fresh"])
def test_retention_that_passes_by_is_let_go_of_where_the_settings_say_so(client, on_truncation):
    source = opened(on_truncation=on_truncation)
    client.first, client.end = 6, 9
    assert source.poll(LIMITS).ranges == ()
    assert source.poll(LIMITS).ranges == (OffsetRange(TP, 6, 9),)


@pytest.mark.usefixtures("client")
def test_a_position_beyond_the_end_is_an_error_whatever_the_settings_say():
    source = opened(on_truncation="earliest")
    source.seek_back(SimpleNamespace(ranges=(OffsetRange(TP, 20, 21),)))
    with pytest.raises(StateError) as caught:
        source.poll(LIMITS)
    assert not isinstance(caught.value, InputTruncated)


def test_a_member_whose_heartbeats_were_stopped_for_good_is_fenced(client):
    source = opened()
    for _ in range(3):  # as at the end of a join
        client._coordinator._heartbeat_enabled = False
        source.poll(LIMITS)
        client._coordinator._heartbeat_enabled = True
        source.poll(LIMITS)
    client._coordinator._heartbeat_enabled = False
    source.poll(LIMITS)
    for _ in range(2):
        with pytest.raises(Fenced, match="another worker has joined group tidemill as tidemill-0"):
            source.poll(LIMITS)


@pytest.mark.parametrize("change", [{"rejoining": True}, {"stable": lambda: False}])
def test_a_member_that_joins_sends_no_heartbeats_and_is_not_fenced(client, change):
    source = opened()
    vars(client._coordinator).update(_heartbeat_enabled=False, request_rejoin=lambda: None, **change)
    for _ in range(5):
        assert source.poll(LIMITS).assignment == {TP}


def test_a_join_that_has_ended_between_two_polls_is_still_to_be_asked_for_its_outcome(client):
    ended = SimpleNamespace(is_done=True, value="assignment")
    client._coordinator._join_task = ended
    source = opened()
    for _ in range(2):  # it is wrapped once
        source.poll(LIMITS)
        kept = client._coordinator._join_task
        assert (kept.is_done, kept.value) == (False, "assignment")
    assert kept._task is ended
