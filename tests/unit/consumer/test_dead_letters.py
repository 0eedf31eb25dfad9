from __future__ import annotations

from hashlib import sha256

import pytest

from consumer.dead_letters import DeadLetterLimit, accepted_flags, dead_letter, emptied
from consumer.decode import Decoder, Rejected
from consumer.errors import BadEvent, TooManyBadEvents
from consumer.ports import Output, Record
from consumer.settings import InputSettings


def rejected(**changes: object) -> Rejected:
    record = Record("events", 3, 42, 1000, b"key", b"\xffraw", (("traceparent", b"00-1"), ("gone", None)))
    return Rejected(record._replace(**changes), BadEvent("invalid_utf8", "not text"))


def test_a_dead_letter_is_the_record_and_where_it_was() -> None:
    letter = dead_letter(rejected(), "dead")
    assert (letter.topic, letter.key, letter.value, letter.partition) == ("dead", b"key", b"\xffraw", None)
    assert letter.headers == (
        ("traceparent", b"00-1"),
        ("__streams.errors.topic", b"events"),
        ("__streams.errors.partition", b"3"),
        ("__streams.errors.offset", b"42"),
        ("__streams.errors.exception", b"consumer.errors.BadEvent"),
        ("__streams.errors.message", b"invalid_utf8: not text"),
    )


def test_a_tombstone_stays_one() -> None:
    assert dead_letter(rejected(value=None, key=None), "dead")[1:3] == (None, None)


def test_an_oversized_record_comes_empty_with_size_and_hash() -> None:
    value = b"x" * 500
    _, bad = Decoder(InputSettings(max_record_bytes=400)).decode_all([rejected(value=value).record])
    letter = dead_letter(bad[0], "dead")
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (b"key", b"")
    assert headers["tidemill-size"] == b"500"
    assert headers["tidemill-sha256"] == sha256(value).hexdigest().encode()
    assert headers["traceparent"] == b"00-1"
    assert headers["__streams.errors.offset"] == b"42"


@pytest.mark.parametrize("large", [{"key": b"k" * 70_000}, {"headers": (("h", b"v" * 70_000),)}])
def test_emptied_lets_go_of_a_large_key_or_header(large: dict[str, object]) -> None:
    letter = emptied(dead_letter(rejected(**large), "dead"))
    assert letter.key is None
    assert [name.rsplit(".", 1)[-1] for name, _ in letter.headers] == [
        "topic",
        "partition",
        "offset",
        "exception",
        "message",
        "tidemill-size",
        "tidemill-sha256",
    ]


def test_emptied_takes_any_output() -> None:
    output = emptied(Output("predictions", b"k", b"v" * 9, (("tidemill-flags", b"late"),), partition=2))
    assert (output.topic, output.key, output.value, output.partition) == ("predictions", b"k", b"", 2)
    assert dict(output.headers)["tidemill-size"] == b"9"
    assert dict(output.headers)["tidemill-flags"] == b"late"


def test_accepted_flags_follow_the_records() -> None:
    records = [
        Record("events", 0, n, -1, None, b"x" if n in {1, 2, 5} else b'{"user_id":1,"item_id":1}') for n in range(7)
    ]
    _, bad = Decoder(InputSettings()).decode_all(records)
    assert accepted_flags(records, bad) == [True, False, False, True, True, False, True]
    assert accepted_flags(records, []) == [True] * 7


def limit(**changes: object) -> DeadLetterLimit:
    return DeadLetterLimit(InputSettings(**{"bad_window": 10, "max_bad_share": 0.3, "max_bad_run": 6} | changes))


def test_a_bad_start_stops_nothing_before_the_window_is_full() -> None:
    watch = limit()
    watch.observe([False] * 5 + [True] * 4)
    with pytest.raises(TooManyBadEvents, match="5 of the latest 10 records were rejected"):
        watch.observe([True])


def test_the_share_is_that_of_the_latest_records() -> None:
    watch = limit()
    for _ in range(20):
        watch.observe([False, True, True, True, False, True, True, True, False, True])
        watch.observe([True] * 10)
    watch.observe([False] * 3 + [True] * 7)
    with pytest.raises(TooManyBadEvents):
        watch.observe([False, False, True, True, True, True, False, False, False, False])


def test_exactly_the_share_is_allowed() -> None:
    watch = limit()
    for _ in range(50):
        watch.observe([False, False, False, True, True, True, True, True, True, True])


def test_a_run_over_two_batches_stops() -> None:
    watch = limit(bad_window=1000)
    watch.observe([True, False, False, False])
    watch.observe([False, False])
    with pytest.raises(TooManyBadEvents, match="6 records in a row"):
        watch.observe([False])


def test_a_good_record_ends_the_run() -> None:
    watch = limit(bad_window=1000)
    for _ in range(100):
        watch.observe([False] * 5 + [True])


def test_the_message_says_why_and_what_to_do() -> None:
    watch = limit(bad_window=1000)
    reasons = ["user_id_missing", "invalid_json", "user_id_missing", "user_id_missing", "tombstone", "invalid_json"]
    with pytest.raises(TooManyBadEvents) as caught:
        watch.observe([False] * 6, reasons)
    message = str(caught.value)
    assert "mostly user_id_missing (3), invalid_json (2), tombstone (1)" in message
    assert "input.max_bad_run = 6" in message
    assert "input.map" in message
    assert caught.value.exit_code == 65
