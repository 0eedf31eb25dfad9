from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from support import TOPIC, Stream, random_events, same_state, small_settings

import consumer.run
from consumer import cli
from consumer.describe_settings import identity
from consumer.errors import ConfigError, Fenced, LostPartitions, StateError, TransientError, UnknownOutcome, UsageError
from consumer.journal import decode
from consumer.memory_io import Fault, MemoryPast, MemorySink, MemorySource
from consumer.parts import Parts
from consumer.recovery import Recovery
from consumer.run import RunOptions, run_worker
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore, open_store
from consumer.worker import Worker

TO_THE_END = RunOptions(until_end=True)
AMID = "stopped amid a recovery or a take-over: the next start goes through the journal again"


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A worker whose broker is a log in memory; `opened` tells what was opened and closed, in order."""
    quick = {"attempts": 2}
    stream = Stream(small_settings(snapshot={"dir": tmp_path / "state"}, recovery=quick))
    stream.worker.close()
    opened: list[str] = []
    told = SimpleNamespace(on_poll=lambda: None)

    class Source(MemorySource):
        def __init__(self, _settings, _clock, *, until_end):
            opened.append("source")
            super().__init__(stream.log, TOPIC, "tidemill", until_end=until_end)

        def poll(self, limits):
            told.on_poll()
            return super().poll(limits)

        def close(self):
            opened.append("source closed")
            super().close()

    class Sink(MemorySink):
        def __init__(self, *_):
            opened.append("sink")
            super().__init__(stream.log, "tidemill")

        def close(self):
            opened.append("sink closed")
            super().close()

    monkeypatch.setattr(consumer.run, "KafkaSource", Source)
    monkeypatch.setattr(consumer.run, "KafkaSink", Sink)
    monkeypatch.setattr(consumer.run, "KafkaPast", lambda *_: MemoryPast(stream.log))
    return SimpleNamespace(
        stream=stream, log=stream.log, settings=stream.settings, opened=opened, path=tmp_path, told=told
    )


def snapshots_of(world):
    return Snapshots(FolderStore(world.settings.snapshot.dir), "tidemill-0", identity(world.settings), 3)


def test_it_runs_to_the_present_end_saves_and_closes(world):
    world.stream.put_events(random_events(40))
    summary = run_worker(world.settings, TO_THE_END)
    assert summary["events"] == 40
    assert len(world.log.records("predictions")) == 40
    assert snapshots_of(world).newest().batch == 3
    assert world.opened == ["source", "sink", "sink closed", "source closed"]


@pytest.mark.parametrize("most", [1, 16, 20])
def test_it_stops_after_so_many_records_exactly(world, most):
    world.stream.put_events(random_events(40))
    assert run_worker(world.settings, RunOptions(max_events=most))["events"] == most
    assert len(world.log.records("predictions")) == most


def test_it_goes_on_where_it_was(world):
    events = random_events(80)
    straight = Stream(world.settings)
    straight.put_events(events)
    straight.drain()
    world.stream.put_events(events)
    for _ in range(5):
        run_worker(world.settings, RunOptions(max_events=16))
    learner = snapshots_of(world).newest().worker().take("learner")
    assert same_state(learner, straight.parts.learner.state())
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(80))


def test_a_stop_signal_ends_the_loop_after_the_micro_batch_in_hand(world):
    world.stream.put_events(random_events(80))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    polls = iter(range(100))

    def stop_in_the_second_step():
        if next(polls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    world.told.on_poll = stop_in_the_second_step
    assert run_worker(world.settings)["events"] == 32
    assert len(world.log.records("predictions")) == 32
    assert snapshots_of(world).newest().batch == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert world.opened[-2:] == ["sink closed", "source closed"]


def test_a_stop_while_starting_ends_before_the_first_record(world, monkeypatch):
    world.stream.put_events(random_events(16))

    def sink(*_):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal has come too late")

    monkeypatch.setattr(consumer.run, "KafkaSink", sink)
    assert run_worker(world.settings) is None
    assert world.log.records("predictions") == []


def test_a_passing_error_is_recovered_from_in_the_process(world):
    world.stream.put_events(random_events(48))
    world.log.inject(Fault.POLL_ERROR, after=1)
    world.log.inject(Fault.UNKNOWN_COMMITTED, after=1)
    assert run_worker(world.settings, TO_THE_END)["events"] <= 48
    sources = [body["source"]["offset"] for body in world.stream.bodies()]
    assert sources == list(range(48))
    assert world.opened.count("source") == 3


@pytest.mark.parametrize("error", [LostPartitions("a poll came too late"), TransientError("away"), UnknownOutcome("?")])
def test_what_goes_wrong_during_a_recovery_is_recovered_from_too(world, monkeypatch, error):
    """And while it connects again the worker waits for its broker: it is alive, and not ready."""
    world.stream.put_events(random_events(48))
    world.log.inject(Fault.POLL_ERROR, after=1)
    redo, left, verdicts = Recovery.redo, [error], []

    def fails_once(self, *args):
        if self._parts.batch and left:
            verdicts.append(self._parts.health.ready())
            raise left.pop()
        return redo(self, *args)

    monkeypatch.setattr(Recovery, "redo", fails_once)
    assert run_worker(world.settings, TO_THE_END)["events"] <= 48
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(48))
    assert [verdict.checks["broker"] for verdict in verdicts] == [False]
    assert [verdict.checks["loop"] for verdict in verdicts] == [True]


def too_late(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal has come too late")


def one_source(source):
    left = [source]

    def opened(*args, **options):
        return (left.pop() if left else too_late)(*args, **options)

    return opened


@pytest.mark.parametrize("step", ["redo", "open"])
def test_a_stop_amid_a_recovery_does_not_wait_for_it_and_the_next_start_goes_on(world, monkeypatch, step):
    world.stream.put_events(random_events(64))
    world.log.inject(Fault.POLL_ERROR, after=1)
    redo = Recovery.redo
    with monkeypatch.context() as patched:
        if step == "redo":
            patched.setattr(Recovery, "redo", lambda self, *a: (too_late if self._parts.batch else redo)(self, *a))
        else:  # it waits for its broker, and memory is whole
            patched.setattr(consumer.run, "KafkaSource", one_source(consumer.run.KafkaSource))
        with structlog.testing.capture_logs() as logs:
            summary = run_worker(world.settings)
    assert summary["events"] == 16
    assert (AMID in [line["event"] for line in logs]) is (step == "redo")
    assert bool(snapshots_of(world).names()) is (step == "open")
    assert world.opened.count("source") == world.opened.count("source closed")
    run_worker(world.settings, TO_THE_END)
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(64))


def test_a_stop_amid_a_take_over_does_not_wait_for_it_and_the_next_start_goes_on(world, monkeypatch):
    world.stream.put_events(random_events(64))
    run_worker(world.settings, RunOptions(max_events=32))
    heir = small_settings(snapshot={"dir": world.path / "heir"}, kafka={"instance": "heir"})
    journal = world.log.partitions("journal")[0]
    world.log.trim(journal, world.log.end(journal))
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "fold", too_late)
        assert run_worker(heir)["events"] == 0
    assert len(world.log.records("predictions")) == 32
    run_worker(heir, TO_THE_END)
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(64))
    gain = decode(world.log.records("journal")[0].value).gains[0]
    assert (gain.start, gain.stop) == (0, 32)


def test_the_last_snapshot_asks_the_broker_for_nothing_and_the_next_start_goes_on_from_it(world, monkeypatch):
    world.stream.put_events(random_events(64))
    stop_at_poll(world, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "save_last", lambda self: (gone(patched), save_last(self)))
        assert run_worker(world.settings)["events"] == 48
    assert snapshots_of(world).newest().batch == 3
    world.told.on_poll = lambda: None
    with structlog.testing.capture_logs() as logs:
        run_worker(world.settings, TO_THE_END)
    (redone,) = [line["batches"] for line in logs if line["event"] == "journal redone"]
    assert redone == 0
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(64))


save_last = Worker.save_last


def stop_at_poll(world, number):
    """Send the signal in the poll of this number, counted from 1."""
    left = [number]

    def count():
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)

    world.told.on_poll = count


@pytest.mark.parametrize("stopped", [True, False])
def test_however_short_the_runs_are_the_journal_is_trimmed_and_not_read_again_and_again(world, stopped):
    journal, ends = world.log.partitions("journal")[0], []
    for number in range(6):
        world.stream.put_events(random_events(16, seed=number))
        ends.append(world.log.end(journal))
        if stopped:
            stop_at_poll(world, 2)
        run_worker(world.settings, RunOptions(max_events=None if stopped else 16))
    assert snapshots_of(world).newest().journal_offset >= ends[-1] - 1  # behind the entry is the end of its transaction
    if not stopped:  # a stop leaves no time for it
        assert world.log.start(journal) > 0


def test_a_stop_before_a_take_over_has_begun_saves_what_was_redone(world):
    world.stream.put_events(random_events(64))
    world.stream.start()
    world.stream.pipeline.step()
    world.stream.pipeline.step()
    world.stream.worker.close()  # without a snapshot: both are redone
    stop_at_poll(world, 1)
    run_worker(world.settings)
    assert snapshots_of(world).newest().batch == 2


@pytest.mark.parametrize("wait", ["bounds", "trim"])
def test_a_stop_while_the_broker_is_asked_between_micro_batches_saves_and_ends(world, monkeypatch, wait):
    world.stream.put_events(random_events(64))
    settings = world.settings.model_copy(
        update={"snapshot": world.settings.snapshot.model_copy(update={"redo_s": 1e-9, "keep": 1})}
    )
    real = getattr(MemoryPast, wait)

    def hangs(self, *args):
        return (too_late if len(world.log.records("predictions")) >= 32 else real)(self, *args)

    monkeypatch.setattr(MemoryPast, wait, hangs)
    with structlog.testing.capture_logs() as logs:
        summary = run_worker(settings)
    assert summary["events"] == 16 * snapshots_of(world).newest().batch
    assert AMID not in [line["event"] for line in logs]


def gone(patched):
    """From now on the broker answers nothing."""

    def away(*_):
        raise TransientError("away")

    patched.setattr(MemoryPast, "bounds", away)
    patched.setattr(MemoryPast, "trim", away)


def test_another_instance_that_takes_over_during_a_recovery_ends_the_process(world, monkeypatch):
    world.stream.put_events(random_events(48))
    world.log.inject(Fault.POLL_ERROR, after=1)
    redo = Recovery.redo

    def fenced(self, *args):
        if self._parts.batch:
            raise Fenced("by another instance")
        return redo(self, *args)

    monkeypatch.setattr(Recovery, "redo", fenced)
    with pytest.raises(Fenced):
        run_worker(world.settings, TO_THE_END)


def test_an_error_that_stays_ends_the_run_with_everything_closed(world):
    world.stream.put_events(random_events(16))
    for _ in range(9):
        world.log.inject(Fault.POLL_ERROR)
    with pytest.raises(TransientError):
        run_worker(world.settings, TO_THE_END)
    assert world.opened.count("source") == world.opened.count("source closed")
    assert world.opened.count("sink") == world.opened.count("sink closed")


def test_a_damaged_snapshot_is_passed_over_with_a_word_and_what_it_held_is_redone(world):
    world.stream.put_events(random_events(48))
    run_worker(world.settings, RunOptions(max_events=16))
    run_worker(world.settings, RunOptions(max_events=16))
    folder = Path(world.settings.snapshot.dir) / snapshots_of(world).newest().name
    (folder / "worker.json").write_bytes(b"{}")
    with structlog.testing.capture_logs() as logs:
        run_worker(world.settings, TO_THE_END)
    said = {line["event"]: line for line in logs}
    assert "worker.json" in said["a snapshot was passed over"]["reason"]
    assert said["snapshot loaded"]["batch"] == 1
    assert said["journal redone"]["batches"] == 1
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(48))


def test_state_in_a_store_behind_a_url_is_recovered_from_compared_and_begun_from(world, capsys):
    place = f"memory://{world.path.name}/state"
    settings = small_settings(snapshot={"dir": place})
    world.stream.put_events(random_events(48))
    run_worker(settings, RunOptions(max_events=16))
    first = run_worker(settings, RunOptions(max_events=16))
    assert first["events"] == 16
    store = open_store(place)
    names = Snapshots(store, "tidemill-0", identity(settings), 3).names()
    assert [name.rpartition("-")[2] for name in names] == ["000000000001", "000000000002"]
    assert not (world.path / "state").exists()
    heir = small_settings(snapshot={"dir": place}, kafka={"instance": "heir"}, topics={"journal_partition": 0})
    world.log.trim(world.log.partitions("journal")[0], world.log.end(world.log.partitions("journal")[0]))
    run_worker(heir, RunOptions(init=place, until_end=True))
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(48))
    entry = decode(world.log.records("journal")[0].value)
    assert entry.gains[0].snapshot == names[1]
    capsys.readouterr()
    assert cli.main(["snapshot", "ls", "--dir", place]) == 0
    assert capsys.readouterr().out.count("  whole  ") == len(Snapshots(store, "", {}, 3).names(everyone=True))
    assert cli.main(["snapshot", "diff", f"{place}/{names[0]}", names[1], "--set", f"snapshot.dir={place}"]) == 1
    assert cli.main(["snapshot", "skip", "9", "--dir", place]) == 0
    assert "tidemill-0/redo.json" in store.names()


def test_other_identity_settings_stop_it_before_anything_is_read(world):
    world.stream.put_events(random_events(32))
    run_worker(world.settings, RunOptions(max_events=16))
    changed = small_settings(model={"dim": 16}, snapshot={"dir": world.settings.snapshot.dir})
    with pytest.raises(StateError, match=r"model\.dim"):
        run_worker(changed, TO_THE_END)
    assert len(world.log.records("predictions")) == 16


def test_a_state_folder_that_cannot_be_written_stops_it_before_the_broker(world):
    (world.path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        run_worker(small_settings(snapshot={"dir": world.path / "file" / "below"}))
    assert world.opened == []


def test_a_given_state_is_the_start_of_a_new_lineage_only(world):
    given = Stream(world.settings)
    given.put_events(random_events(48, seed=5))
    given.drain()
    folder = FolderStore(world.path / "given")
    Snapshots(folder, "other", identity(world.settings), 3).save(given.parts.image(0))
    world.stream.put_events(random_events(16))
    options = RunOptions(init=world.path / "given", until_end=True)
    run_worker(world.settings, options)
    learner = snapshots_of(world).newest().worker().values["learner"]
    assert (learner["batch"], learner["events"]) == (1, 64)
    world.stream.put_events(random_events(16))
    with structlog.testing.capture_logs() as logs:
        run_worker(world.settings, options)
    learner = snapshots_of(world).newest().worker().values["learner"]
    assert (learner["batch"], learner["events"]) == (2, 80)
    assert "snapshot loaded" in [line["event"] for line in logs]


def test_a_given_state_must_be_there(world):
    with pytest.raises(UsageError):
        run_worker(world.settings, RunOptions(init=world.path / "gone"))


def test_health_and_metrics_are_served_while_it_runs_and_not_after(world):
    from urllib.error import URLError
    from urllib.request import urlopen

    settings = small_settings(snapshot={"dir": world.path / "state"}, metrics={"enabled": True, "port": 0})
    world.stream.put_events(random_events(32))
    seen = {}

    def look():
        port = next((line["port"] for line in logs if line["event"] == "serving metrics and health"), None)
        seen["port"] = port
        for page in ("livez", "metrics"):
            with urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as answer:
                seen[page] = answer.read()

    world.told.on_poll = look
    with structlog.testing.capture_logs() as logs:
        run_worker(settings, TO_THE_END)
    assert b"tidemill_predictions_total 16.0" in seen["metrics"]
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{seen['port']}/livez", timeout=10)
