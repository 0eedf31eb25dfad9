from __future__ import annotations

from collections import defaultdict

import pytest
from support import small_settings

from consumer.dead_letter_replay import NOT_OURS, REPLAYED_FROM, Tally, Wanted, check_reason, letter_of, send_back
from consumer.dead_letters import dead_letter
from consumer.decode import Decoder
from consumer.errors import TransientError, UsageError
from consumer.memory_io import MemoryLog, MemorySource
from consumer.ports import Record
from consumer.settings import InputSettings

SETTINGS = small_settings()
GOOD = b'{"user_id": 1, "item_id": 2}'


class Shelf:
    """A topic of dead letters, and writers that remember."""

    def __init__(self, partitions=1):
        self.log = MemoryLog({"dead-letters": partitions})
        self.written = defaultdict(list)
        self.acknowledged = defaultdict(int)
        self.closed = []
        self.partitions = 4
        self.fail_flush = False

    def reject(self, value, *, topic="events", partition=0, offset=0, key=b"k", headers=(), max_bytes=1000, stamp=77):
        """Let the decoder reject a record, and append its dead letter."""
        record = Record(topic, partition, offset, 1, key, value, headers)
        _, (bad,) = Decoder(InputSettings(max_record_bytes=max_bytes)).decode_all([record])
        letter = dead_letter(bad, "dead-letters")
        self.log.append(letter.topic, letter.key, letter.value, headers=letter.headers, timestamp_ms=stamp)

    def open_writer(self, topic):
        shelf = self

        class Writer:
            partitions = shelf.partitions

            def write(self, *record):
                shelf.written[topic].append(record)

            def flush(self):
                if shelf.fail_flush:
                    raise TransientError("the broker is away")
                shelf.acknowledged[topic] = len(shelf.written[topic])

            def close(self):
                shelf.closed.append(topic)

        return Writer()

    def send(self, **wanted):
        source = MemorySource(self.log, "dead-letters", "reader", until_end=True)
        tally = Tally()
        try:
            send_back(source, self.open_writer, SETTINGS, Wanted(**wanted), tally)
        finally:
            self.tally = tally
            source.close()
        return tally


@pytest.fixture
def shelf():
    return Shelf()


def test_a_record_goes_back_as_it_was_to_where_it_was(shelf):
    shelf.reject(b"\xff", partition=3, offset=42, headers=(("traceparent", b"00-1"), ("empty", b"")))
    assert shelf.send().sent == {"invalid_utf8": 1}
    headers = (("traceparent", b"00-1"), ("empty", b""), (REPLAYED_FROM, b"dead-letters-0-0"))
    assert shelf.written["events"] == [(b"k", b"\xff", 77, 3, headers)]
    assert shelf.acknowledged["events"] == 1
    assert shelf.closed == ["events"]


def test_the_order_is_kept_and_reasons_are_counted(shelf):
    for number in range(5):
        shelf.reject(b"no json %d" % number if number % 2 else b"[]", offset=number)
    tally = shelf.send()
    assert [value for _, value, *_ in shelf.written["events"]] == [b"[]", b"no json 1", b"[]", b"no json 3", b"[]"]
    assert tally.sent == {"not_an_object": 3, "invalid_json": 2}
    assert tally.render().splitlines() == [
        "sent: 5",
        "  not_an_object: 3",
        "  invalid_json: 2",
        "what comes later: --from-offset 0:5",
    ]


@pytest.mark.parametrize(("value", "key"), [(None, b"k"), (b"", b"k"), (None, None)])
def test_a_tombstone_and_an_empty_value_are_records_too(shelf, value, key):
    shelf.reject(value, key=key)
    assert shelf.send().sent.total() == 1
    ((sent_key, sent, *_),) = shelf.written["events"]
    assert (sent_key, sent or b"") == (key, value or b"")


def test_one_that_was_emptied_cannot_go_back(shelf):
    shelf.reject(b"x" * 500, max_bytes=400)
    shelf.reject(b"[]")
    tally = shelf.send()
    assert tally.sent == {"not_an_object": 1}
    assert "left there: 1, emptied because of their size" in tally.render()


def test_a_record_that_only_looks_emptied_is_none(shelf):
    shelf.reject(b"", headers=(("tidemill-size", b"5"), ("tidemill-sha256", b"ab")))
    assert shelf.send().sent.total() == 1
    assert dict(shelf.written["events"][0][4])["tidemill-size"] == b"5"


def test_another_topic_only_where_it_is_wanted(shelf):
    shelf.reject(b"[]", topic="clicks")
    shelf.reject(b"[]")
    tally = shelf.send()
    assert tally.sent.total() == 1
    assert "clicks" not in shelf.written
    assert "left there: 1, from topic 'clicks', which is not topics.events ('events'): --any-topic" in tally.render()
    assert shelf.send(any_topic=True).sent.total() == 2
    assert len(shelf.written["clicks"]) == 1
    assert sorted(shelf.closed[1:]) == ["clicks", "events"]


def test_only_one_reason_where_it_is_named(shelf):
    shelf.reject(b"[]")
    shelf.reject(b"no json")
    tally = shelf.send(reason="invalid_json")
    assert tally.sent == {"invalid_json": 1}
    assert tally.left == {"of another reason": 1}


def test_the_limit_is_of_those_that_are_sent(shelf):
    for number in range(1200):
        shelf.reject(b"[]" if number % 2 else b"no json", offset=number)
    tally = shelf.send(reason="not_an_object", limit=301)
    assert tally.sent.total() == 301
    assert tally.next_offsets == {0: 602}
    assert len(shelf.written["events"]) == 301


def test_a_dry_run_sends_nothing_and_opens_nothing(shelf):
    shelf.reject(b"[]")
    tally = shelf.send(dry_run=True)
    assert tally.render() == "would be sent: 1\n  not_an_object: 1"
    assert shelf.closed == []


def test_a_partition_that_is_gone_lets_the_key_decide(shelf):
    shelf.reject(b"[]", partition=4)
    shelf.send()
    assert shelf.written["events"][0][3] is None


def test_a_record_without_a_time_takes_that_of_the_broker(shelf):
    shelf.reject(b"[]", stamp=-1)
    shelf.send()
    assert shelf.written["events"][0][2] is None


def test_what_was_sent_back_before_has_one_mark_when_it_goes_again(shelf):
    shelf.reject(b"[]", headers=(("mine", b"1"), (REPLAYED_FROM, b"dead-letters-0-9")))
    shelf.send()
    assert shelf.written["events"][0][4] == (("mine", b"1"), (REPLAYED_FROM, b"dead-letters-0-0"))


def test_headers_of_another_programs_dead_letters_stay_with_the_record(shelf):
    theirs = (("__streams.errors.topic", b"upstream"), ("__streams.errors.stacktrace", b"at x"))
    shelf.reject(b"[]", headers=theirs)
    shelf.send()
    assert shelf.written["events"][0][4][:-1] == theirs


def test_records_that_are_no_dead_letters_are_counted(shelf):
    shelf.log.append("dead-letters", b"k", GOOD)
    shelf.log.append("dead-letters", b"k", GOOD, headers=(("__streams.errors.topic", b"events"),))
    shelf.log.append(
        "dead-letters", b"k", GOOD, headers=(("__streams.errors.topic", b"\xff"), ("__streams.errors.partition", b"x"))
    )
    assert shelf.send().left == {NOT_OURS: 3}


def test_what_was_not_acknowledged_does_not_count_as_sent(shelf):
    shelf.reject(b"[]")
    shelf.fail_flush = True
    with pytest.raises(TransientError):
        shelf.send()
    assert shelf.tally.sent.total() == 0
    assert shelf.tally.next_offsets == {}
    assert shelf.closed == ["events"]


def test_an_empty_topic_is_said(shelf):
    assert shelf.send().render() == "sent: 0\nread: nothing, there are no dead letters there"


def test_a_reason_that_there_is_not_is_told_with_those_that_there_are():
    check_reason(None)
    check_reason("oversize")
    with pytest.raises(UsageError, match=r"there are empty_value, event_id_empty, .*oversize"):
        check_reason("to_big")


def test_a_letter_without_a_message_has_an_unknown_reason():
    headers = (("__streams.errors.topic", b"events"), ("__streams.errors.partition", b"0"))
    assert letter_of(Record("dead-letters", 0, 0, 1, None, b"x", headers)).reason == "unknown"
