"""The worker as its users run it: a process, a real broker, and whatever people put into their topics."""

from __future__ import annotations

import random
import re
import signal
import time
from hashlib import sha256
from http.client import HTTPConnection

import orjson
import pytest

from consumer.replay import ReplayOptions, replay
from consumer.settings import Settings
from deploy.broker import LocalBroker
from tests.integration.worker_bench import SMALL, Bench, end, until

MAY_DIFFER = {"speed", "peak_rss_bytes", "versions"}


@pytest.fixture
def bench(broker, tmp_path, unique_name):
    return Bench(broker.bootstrap_servers, tmp_path, re.sub(r"[^\w.-]", "-", unique_name("w"))[-100:])


BAD = [
    b"\x00\xff random bytes",
    b"[1, 2]",
    b'{"user_id": 1}',
    b'{"item_id": 2}',
    b'{"user_id": 1.5, "item_id": 2}',
    b"",
]
BAD += [b'{"user_id": true, "item_id": 2}', b'{"user_id": 1, "item_id": 2, "event_time": "yesterday"}']
BAD += [random.Random(seed).randbytes(seed * 7) for seed in range(1, 40)]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_every_record_becomes_one_prediction_or_one_dead_letter(bench, delivery):
    bench.more = {"kafka": {"delivery": delivery}}
    bench.make_topics()
    bench.produce(bench.events(400))
    bench.produce(BAD, headers=[("mine", b"kept")])
    assert bench.run("--until-end") == 0, bench.log
    assert sorted(bench.sources()) == [(0, offset) for offset in range(400)]
    assert bench.committed() == {0: 400 + len(BAD)}
    letters = bench.read(bench.settings().topics.dead_letters)
    assert [letter.value() for letter in letters] == BAD
    assert [letter.key() for letter in letters] == [str(index % 40).encode() for index in range(len(BAD))]
    for index, letter in enumerate(letters):
        headers = dict(letter.headers())
        assert headers["mine"] == b"kept"
        assert headers["__streams.errors.offset"] == str(400 + index).encode()
        assert headers["__streams.errors.partition"] == b"0"
        assert headers["__streams.errors.topic"] == bench.settings().topics.events.encode()
        assert headers["__streams.errors.exception"] == b"consumer.errors.BadEvent"
        assert headers["__streams.errors.message"]
    assert b"invalid" in dict(letters[0].headers())["__streams.errors.message"]
    check_parts(bench, bench.read(bench.settings().topics.predictions)[-1])


def check_parts(bench, message):
    """The prediction for the last of 400 events has all its parts."""
    last = orjson.loads(message.value())
    assert last["user_id"] == 39
    assert last["source"] == {"topic": bench.settings().topics.events, "partition": 0, "offset": 399}
    assert last["event_time"] == 1_700_000_399
    assert len(last["items"]) == 10
    scores = [item["score"] for item in last["items"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1
    assert set(last["event_type"]) == {"view", "buy"}
    assert last["next_event_s"]["p10"] <= last["next_event_s"]["p50"] <= last["next_event_s"]["p90"]
    assert re.fullmatch(rf"{re.escape(bench.name)}@\d+", last["model_version"])
    assert message.key() == b"39"
    assert dict(message.headers())["tidemill-model-version"].decode() == last["model_version"]


def test_sigterm_ends_well_and_the_next_start_goes_on(bench):
    bench.partitions = 2
    bench.make_topics()
    bench.produce(bench.events(6000))
    process = bench.start(worker={"batch_events": 16})  # small, so that the signal comes long before the end
    try:
        until(lambda: any(offset > 0 for offset in bench.committed().values()), 60, "the first commit")
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert process.wait(15) == 0, bench.log
        assert time.monotonic() - begin < 10
    finally:
        end(process)
    before = bench.sources()
    assert 0 < len(before) < 6000
    assert len(before) == sum(max(offset, 0) for offset in bench.committed().values())
    assert bench.run("--until-end") == 0, bench.log
    sources = bench.sources()
    assert len(sources) == len(set(sources)) == 6000
    assert sources[: len(before)] == before
    assert bench.log.count('"message": "snapshot loaded"') == 1
    check_order(bench)


def check_order(bench):
    """The predictions of each user come in the order of the user's events."""
    last: dict[int, int] = {}
    for body in bench.predictions():
        assert body["source"]["offset"] > last.get(body["user_id"], -1)
        last[body["user_id"]] = body["source"]["offset"]


def test_sigterm_while_it_waits_for_a_broker_ends_well(bench):
    process = bench.start(kafka={"bootstrap_servers": "127.0.0.1:1"})
    try:
        until(lambda: "waiting for a broker" in bench.log, 60, "the wait for a broker")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, bench.log
    finally:
        end(process)


@pytest.mark.parametrize("every_s", [3600.0, 3.0])
def test_sigterm_while_its_broker_is_away_ends_well_and_saves(tmp_path, every_s):
    with LocalBroker() as broker:
        bench = Bench(broker.bootstrap_servers, tmp_path, "left-alone")
        bench.make_topics()
        bench.produce(bench.events(400))
        process = bench.start(snapshot={"every_s": every_s, "redo_s": 3600.0})
        try:
            until(lambda: bench.committed() == {0: 400}, 60, "the last commit")
            broker.kill()
            until(lambda: "socket disconnected" in bench.log, 60, "the end of the connection")
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0, bench.log
        finally:
            end(process)
        assert "snapshot saved" in bench.log
        broker.restart()
        assert bench.run("--until-end") == 0, bench.log
        assert '"batches": 0' in bench.log.rpartition("journal redone")[0].rpartition("\n")[2]
        assert len(bench.sources()) == 400


def test_records_that_are_too_large_become_empty_dead_letters(bench):
    bench.make_topics({"max.message.bytes": "4000000"})
    huge = orjson.dumps({"user_id": 1, "item_id": "x" * 2_000_000})
    wide = random.Random(0).randbytes(
        1_048_300
    )  # under the limit of a record, but with its headers over that of the dead-letter topic
    bench.produce([huge, *bench.events(20), wide])
    assert bench.run("--until-end", input={"max_record_bytes": 1_048_500}) == 0, bench.log
    assert len(bench.sources()) == 20
    letters = bench.read(bench.settings().topics.dead_letters)
    assert [letter.value() or b"" for letter in letters] == [b"", b""]
    for letter, value in zip(letters, (huge, wide), strict=True):
        headers = dict(letter.headers())
        assert headers["tidemill-size"] == str(len(value)).encode()
        assert headers["tidemill-sha256"] == sha256(value).hexdigest().encode()


@pytest.mark.parametrize(
    ("bad_of_three", "limits", "told", "most_letters"),
    [(3, {"max_bad_run": 200}, "in a row were rejected", 199), (2, {"bad_window": 300}, "of the latest 300", 150)],
)
def test_too_many_bad_records_stop_the_worker_before_their_micro_batch(bench, bad_of_three, limits, told, most_letters):
    bench.make_topics()
    good = bench.events(600)
    bench.produce(good[:200] + [b"not an event" if n % 3 < bad_of_three else row for n, row in enumerate(good)])
    assert bench.run("--until-end", input=limits) == 65, bench.log
    assert told in bench.log
    letters = bench.read(bench.settings().topics.dead_letters)
    assert len(letters) <= most_letters
    assert bench.committed()[0] == len(bench.sources()) + len(letters)


@pytest.mark.parametrize(
    ("options", "sections", "code", "told"),
    [
        ((), {"topics": {"predictions": "nowhere"}}, 78, "no such topic: 'nowhere'"),
        ((), {"kafka": {"bootstrap_servers": "127.0.0.1:1", "broker_wait_s": 1.0}}, 75, "no broker at 127.0.0.1:1"),
        ((), {"snapshot": {"dir": "/dev/null/state"}}, 78, "snapshot.dir"),
        (("--set", "kafka.gruop=x"), {}, 78, "kafka.group"),
    ],
)
def test_what_cannot_work_ends_with_its_code_and_a_clear_line(bench, options, sections, code, told):
    bench.make_topics()
    assert bench.run("--until-end", *options, **sections) == code, bench.log
    assert told in bench.log
    assert "Traceback" not in bench.log


def test_metrics_and_health_are_served_while_it_runs(bench):
    bench.make_topics()
    bench.produce(bench.events(1000))
    process = bench.start(metrics={"enabled": True, "port": 0})
    try:
        port = int(until(lambda: re.search(r'"port": (\d+)', bench.log), 60, "the port").group(1))

        def ask(path):
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        until(lambda: ask("/readyz")[0] == 200, 60, "readiness")
        until(lambda: "tidemill_predictions_total 1000.0" in ask("/metrics")[1], 60, "all predictions")
        assert ask("/livez")[0] == 200
        assert "consumer_lag_records" in ask("/metrics")[1]
    finally:
        process.terminate()
        process.wait(15)


def test_the_replay_of_a_topic_equals_the_replay_of_the_file_behind_it(bench, tmp_path):
    rows = bench.events(1200)
    file = tmp_path / f"{bench.settings().topics.events}.jsonl"
    file.write_bytes(b"\n".join(rows) + b"\n")
    bench.make_topics({"retention.ms": "-1"})
    produce_with_times(bench, rows)
    settings = bench.settings(evaluation={"baselines": True})
    of_file = replay(settings, ReplayOptions(str(file)))
    again = replay(settings, ReplayOptions(str(file)))
    of_topic = replay(settings, ReplayOptions(f"topic:{settings.topics.events}"))
    assert of_file["metrics"]["tidemill"]["hr@10"] > 0
    for name in of_file.keys() - MAY_DIFFER:
        assert of_file[name] == again[name], name
        assert of_file[name] == of_topic[name], name
    assert of_file.keys() == of_topic.keys()
    other = replay(
        Settings.model_validate({**SMALL, "worker": {"batch_events": 128, "seed": 2}}), ReplayOptions(str(file))
    )
    assert other["metrics"]["transformer"] != of_file["metrics"]["transformer"]


def produce_with_times(bench, rows):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bench.address})
    for row in rows:
        body = orjson.loads(row)
        key, stamp = str(body["user_id"]).encode(), body["event_time"] * 1000
        producer.produce(bench.settings().topics.events, value=row, key=key, timestamp=stamp)
    assert producer.flush(60) == 0
