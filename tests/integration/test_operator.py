"""What an operator does, on a real broker: look, compare, correct, send back."""

from __future__ import annotations

import re
import signal

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumer import cli
from consumer.journal import decode
from consumer.kafka_io import create_topics, topic_info
from consumer.load_settings import show
from tests.integration.worker_bench import Bench, end, until

EVENTS = 1500
SAME = "the same, to the byte: "

pytestmark = pytest.mark.timeout(400)  # several workers one after the other, each of which loads torch anew


@pytest.fixture
def bench(broker, tmp_path, unique_name):
    name = re.sub(r"[^\w.-]", "-", unique_name("o"))[-100:]
    return Bench(broker.bootstrap_servers, tmp_path, name, partitions=2)


@pytest.fixture
def tidemill(bench, capsys):
    """Runs the command with the settings of the bench; returns its exit code and what it printed."""

    def run(*argv, **sections):
        config = bench.folder / "operator.toml"
        config.write_text(show(bench.settings(**sections)))
        capsys.readouterr()
        code = cli.main([*argv, "-c", str(config)])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def kill_after(bench, events):
    """Start a worker, and kill -9 it once so many events were committed."""
    process = bench.start("--until-end")
    try:
        until(lambda: sum(max(offset, 0) for offset in bench.committed().values()) >= events, 240, "progress")
        assert process.poll() is None, bench.log
        process.send_signal(signal.SIGKILL)
    finally:
        end(process)


def snapshots(tidemill):
    """Names and micro-batches of what `ls` lists, all of it whole."""
    code, out = tidemill("snapshot", "ls")
    assert code == 0, out
    return [(line.split()[0], re.search(r"micro-batch (\d+)", line)[1]) for line in out.splitlines()]


def check_as_run(bench, tidemill, name, *options):
    """The journal, redone, comes to the bytes of a live snapshot."""
    saved = bench.folder / f"as-run-{name.rpartition('/')[2]}"
    topic = f"topic:{bench.settings().topics.events}"
    code, out = tidemill("replay", topic, "--as-run", "--save", str(saved), "--json", "-", *options)
    assert code == 0, out
    (redone,) = (saved / bench.name).iterdir()
    code, out = tidemill("snapshot", "diff", name, str(redone))
    assert code == 0, out
    assert out.startswith(SAME)


def test_a_worker_that_was_killed_has_the_bytes_of_its_journal(bench, tidemill):
    bench.more = {
        "recovery": {"journal_keep": "all"},
        "snapshot": {"dir": str(bench.folder / "state"), "every_s": 0.3, "keep": 9},
        "worker": {"batch_events": 32},
    }
    bench.make_topics()
    bench.produce(bench.events(EVENTS))
    kill_after(bench, 300)
    assert bench.run("--until-end", seconds=240) == 0, bench.log
    sources = bench.sources()
    assert len(sources) == len(set(sources)) == EVENTS

    (first, batch), *_, (last, end_batch) = snapshots(tidemill)
    assert batch != end_batch
    assert tidemill("snapshot", "verify")[0] == 0
    check_as_run(bench, tidemill, last)
    check_as_run(bench, tidemill, first, "--to-batch", batch)
    assert tidemill("snapshot", "diff", first, last)[0] == 1


def test_a_micro_batch_can_be_left_out_by_hand(bench, tidemill):
    bench.more = {
        "recovery": {"journal_keep": "all"},
        "snapshot": {"dir": str(bench.folder / "state"), "every_s": 1000.0},
    }
    bench.make_topics()
    bench.produce(bench.events(EVENTS))
    kill_after(bench, 300)
    code, out = tidemill("snapshot", "skip", "2")
    assert (code, out) == (
        0,
        f"micro-batch 2 of {bench.name} will be skipped at the next start, if the journal goes that far\n",
    )
    bench.produce(bench.events(500, start=EVENTS))
    assert bench.run("--until-end", seconds=240) == 0, bench.log
    assert bench.log.count("a micro-batch is skipped") == 1
    entries = [decode(message.value()) for message in bench.read(bench.settings().topics.journal)]
    assert [entry.skipped for entry in entries if entry.skipped] == [(2,)]
    assert len(set(bench.sources())) == len(bench.sources()) == EVENTS + 500
    check_as_run(bench, tidemill, snapshots(tidemill)[-1][0])
    code, out = tidemill("snapshot", "skip", "2")
    assert code == 64, out


def test_input_that_is_gone_stops_the_worker_or_begins_a_new_lineage(bench, tidemill):
    bench.more = {"snapshot": {"dir": str(bench.folder / "state"), "every_s": 1000.0}}
    bench.make_topics()
    bench.produce(bench.events(EVENTS))
    kill_after(bench, 300)
    admin = AdminClient({"bootstrap.servers": bench.address})
    for partition, committed in bench.committed().items():
        at = TopicPartition(bench.settings().topics.events, partition, max(committed - 20, 0))
        for future in admin.delete_records([at]).values():
            future.result(30)
    assert bench.run("--until-end", seconds=240) == 65, bench.log
    assert 'set recovery.on_truncation to "earliest", or to "fresh"' in bench.log
    assert bench.run("--until-end", seconds=240, recovery={"on_truncation": "fresh"}) == 0, bench.log
    assert bench.log.count("a new lineage begins") == 1
    sources = bench.sources()
    assert len(sources) == len(set(sources)) == EVENTS
    check_as_run(bench, tidemill, snapshots(tidemill)[-1][0])


def test_dead_letters_go_back_after_the_mapping_is_corrected(bench, tidemill):
    bench.make_topics()
    topics = bench.settings().topics
    renamed = []
    for row in bench.events(20, start=300):
        body = orjson.loads(row)
        body["product"] = body.pop("item_id")
        renamed.append(orjson.dumps(body))
    bench.produce(bench.events(300))
    bench.produce([*renamed, b"no json"], headers=[("mine", b"kept")])
    assert bench.run("--until-end", seconds=240) == 0, bench.log
    letters = {letter.value(): letter for letter in bench.read(topics.dead_letters)}
    assert letters.keys() == {*renamed, b"no json"}

    code, out = tidemill("dead-letters", "replay", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "would be sent: 21")
    assert "  item_id_missing: 20" in out
    assert len(bench.read(topics.events)) == 321
    code, out = tidemill("dead-letters", "replay", "--reason", "item_id_missing")
    assert (code, out.splitlines()[:2]) == (0, ["sent: 20", "  item_id_missing: 20"])
    assert "left there: 1, of another reason" in out

    create_topics(bench.settings(), {f"{bench.name}-journal-2": 1})
    corrected = {
        "kafka": {"bootstrap_servers": bench.address, "group": bench.name, "instance": f"{bench.name}-2"},
        "topics": {**names(bench), "journal": f"{bench.name}-journal-2"},
        "input": {"map": {"item_id": "product|item_id"}},
    }
    assert bench.run("--until-end", "--init", str(bench.folder / "state"), seconds=240, **corrected) == 0, bench.log
    back = [message for message in bench.read(topics.events) if len(message.headers() or ()) > 1]
    assert sorted(message.value() for message in back) == sorted(renamed)
    for message in back:
        letter = letters[message.value()]
        where = f"{topics.dead_letters}-0-{letter.offset()}".encode()
        assert message.headers() == [("mine", b"kept"), ("tidemill-replayed-from", where)]
        assert message.key() == letter.key()
        assert str(message.partition()).encode() == dict(letter.headers())["__streams.errors.partition"]
    predicted = bench.sources()
    assert {(message.partition(), message.offset()) for message in back} <= set(predicted)
    assert len(predicted) == len(set(predicted)) == 320


def names(bench):
    """The topics as the settings take them."""
    return {name: value for name, value in bench.settings().topics.model_dump().items() if name != "journal_partition"}


def test_check_makes_a_journal_that_keeps_its_records(bench, tidemill):
    code, out = tidemill("check")
    assert code == 78
    assert f"topic '{bench.name}-journal' does not exist" in out
    code, out = tidemill("check", "--create", topics={**names(bench), "journal_partition": 2})
    assert code == 0, out
    assert f"topic '{bench.name}-journal': created" in out
    assert "empty; a worker that has no snapshot begins a new lineage" in out
    topics = bench.settings().topics
    info = topic_info(bench.settings(), [topics.journal, topics.events])
    assert info[topics.journal].partitions == 3
    kept = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    assert {name: info[topics.journal].config[name] for name in kept} == kept

    bench.partitions = info[topics.events].partitions
    bench.produce(bench.events(100))
    assert (
        bench.run("--until-end", seconds=240, snapshot={"dir": str(bench.folder / "state"), "every_s": 1000.0}) == 0
    ), bench.log
    code, out = tidemill("check")
    assert code == 0, out
    journal = f"journal {re.escape(topics.journal)}-0: "
    assert re.search(rf"{journal}(of '{re.escape(bench.name)}', micro-batch \d+ was written \d+ |empty)", out), out
    code, out = tidemill("check", topics={**names(bench), "journal_partition": 3})
    assert code == 78
    assert "--partitions 4" in out


def test_a_journal_of_another_worker_fails_the_check(bench, tidemill):
    bench.make_topics()
    bench.produce(bench.events(300))
    bench.more = {"recovery": {"journal_keep": "all"}}
    assert bench.run("--until-end", seconds=240) == 0, bench.log
    code, out = tidemill("check")
    assert code == 0, out
    assert f"of '{bench.name}', micro-batch " in out
    code, out = tidemill("check", kafka={"bootstrap_servers": bench.address, "instance": "another"})
    assert code == 78
    assert f"holds the journal of '{bench.name}', not of 'another'" in out


@pytest.mark.parametrize(
    ("wrong", "given", "wanted"), [("cleanup.policy", "compact", "delete"), ("retention.ms", "604800000", "-1")]
)
def test_a_journal_that_is_compacted_or_expires_fails_the_check(bench, tidemill, wrong, given, wanted):
    bench.make_topics()
    journal = f"{bench.name}-wrong"
    create_topics(bench.settings(), {journal: 1}, {"cleanup.policy": "delete", "retention.ms": "-1", wrong: given})
    code, out = tidemill("check", topics={**names(bench), "journal": journal})
    assert code == 78
    assert f"--alter --topic {journal} --add-config {wrong}={wanted}" in out
