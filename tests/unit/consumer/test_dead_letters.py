from __future__ import annotations

from hashlib import sha256

import pytest

from consumer.dead_letters import DeadLetterLimit, dead_letter, emptied, reasons_of
from consumer.decode import Decoder, Rejected
from consumer.errors import BadEvent, TooManyBadEvents
from consumer.ports import Output, Record
from consumer.settings import InputSettings
from tests.support import same_state


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


def test_reasons_follow_the_records() -> None:
    records = [
        Record("events", 0, n, -1, None, b"x" if n in {1, 2, 5} else b'{"user_id":1,"item_id":1}') for n in range(7)
    ]
    _, bad = Decoder(InputSettings()).decode_all(records)
    why = "invalid_json"
    assert reasons_of(records, bad) == [None, why, why, None, None, why, None]
    assert reasons_of(records, []) == [None] * 7


GOOD = [None]
BAD = ["invalid_json"]


def limit(**changes: object) -> DeadLetterLimit:
    return DeadLetterLimit(InputSettings(**{"bad_window": 10, "max_bad_share": 0.3, "max_bad_run": 6} | changes))


def pass_by(watch: DeadLetterLimit, reasons: list[str | None]) -> None:
    """What a micro-batch does: ask first, take in once it is committed."""
    watch.check(reasons)
    watch.observe(reasons)


def test_a_bad_start_stops_nothing_before_the_window_is_full() -> None:
    watch = limit()
    pass_by(watch, BAD * 5 + GOOD * 4)
    with pytest.raises(TooManyBadEvents, match="5 of the latest 10 records were rejected"):
        watch.check(GOOD)


def test_the_share_is_that_of_the_latest_records() -> None:
    watch = limit()
    for _ in range(20):
        pass_by(watch, BAD + GOOD * 3 + BAD + GOOD * 3 + BAD + GOOD)
        pass_by(watch, GOOD * 10)
    pass_by(watch, BAD * 3 + GOOD * 7)
    with pytest.raises(TooManyBadEvents):
        watch.check(BAD * 2 + GOOD * 2 + BAD * 2 + GOOD * 4)


def test_exactly_the_share_is_allowed() -> None:
    watch = limit()
    for _ in range(50):
        pass_by(watch, BAD * 3 + GOOD * 7)
    with pytest.raises(TooManyBadEvents):
        watch.check(BAD * 4)


def test_a_run_over_two_batches_stops() -> None:
    watch = limit(bad_window=1000)
    pass_by(watch, GOOD + BAD * 3)
    pass_by(watch, BAD * 2)
    with pytest.raises(TooManyBadEvents, match="6 records in a row"):
        watch.check(BAD)


def test_a_good_record_ends_the_run() -> None:
    watch = limit(bad_window=1000)
    for _ in range(100):
        pass_by(watch, BAD * 5 + GOOD)
    assert watch.state().values["run"] == 0


def test_asking_changes_nothing() -> None:
    watch = limit()
    watch.observe(BAD * 2 + GOOD * 3)
    before = watch.state()
    watch.check(BAD * 3)
    with pytest.raises(TooManyBadEvents):
        watch.check(BAD * 6)
    assert same_state(watch.state(), before)


@pytest.mark.parametrize("seen", [0, 3, 10, 27])
def test_what_was_seen_comes_back(seen: int) -> None:
    mixed = [None, "invalid_json", "tombstone", None, "invalid_json"] * 6
    watch, again = limit(max_bad_share=1.0), limit(max_bad_share=1.0)
    watch.observe(mixed[:seen])
    again.observe(BAD * 9)
    again.load(watch.state())
    assert same_state(watch.state(), again.state())
    for one in (watch, again):
        one.observe(mixed[seen:])
    assert same_state(watch.state(), again.state())
    assert (again._bad, again._run) == (watch._bad, watch._run)


def test_a_shorter_window_keeps_the_latest() -> None:
    watch, shorter = limit(), limit(bad_window=4)
    watch.observe(BAD * 6 + GOOD * 3)
    shorter.load(watch.state())
    pass_by(shorter, GOOD)
    with pytest.raises(TooManyBadEvents, match="2 of the latest 4"):
        shorter.check(BAD * 2)


def test_the_message_says_why_and_what_to_do() -> None:
    watch = limit(bad_window=1000)
    reasons = ["user_id_missing", "invalid_json", "user_id_missing", "user_id_missing", "tombstone", "invalid_json"]
    with pytest.raises(TooManyBadEvents) as caught:
        watch.check(reasons)
    message = str(caught.value)
    assert "mostly user_id_missing (3), invalid_json (2), tombstone (1)" in message
    assert "input.max_bad_run = 6" in message
    assert "input.map" in message
    assert caught.value.exit_code == 65
