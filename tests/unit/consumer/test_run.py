from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import structlog
from support import TOPIC, Stream, random_events, same_state, small_settings

import consumer.run
from consumer.describe_settings import identity
from consumer.errors import ConfigError, StateError, TransientError, UsageError
from consumer.memory_io import Fault, MemorySink, MemorySource
from consumer.run import StoppedWhileStarting, StopSignal, run_worker
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A worker whose broker is a log in memory; `opened` tells what was opened and closed, in order."""
    stream = Stream(small_settings(snapshot={"dir": str(tmp_path / "state")}))
    stream.source.close()
    opened: list[str] = []

    class Source(MemorySource):
        def __init__(self, _settings, _clock, *, until_end):
            opened.append("source")
            super().__init__(stream.log, TOPIC, "tidemill", until_end=until_end)

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
    return SimpleNamespace(stream=stream, log=stream.log, settings=stream.settings, opened=opened, path=tmp_path)


def snapshots_of(world):
    return Snapshots(FolderStore(world.settings.snapshot.dir), "tidemill-0", identity(world.settings), 3)


def test_it_runs_to_the_present_end_saves_and_closes(world):
    world.stream.put_events(random_events(40))
    pipeline = run_worker(world.settings, until_end=True)
    assert (pipeline.records, pipeline.events) == (40, 40)
    assert len(world.log.records("predictions")) == 40
    assert snapshots_of(world).newest().batch == 3
    assert world.opened == ["source", "sink", "sink closed", "source closed"]


@pytest.mark.parametrize("most", [1, 16, 20])
def test_it_stops_after_so_many_records_exactly(world, most):
    world.stream.put_events(random_events(40))
    assert run_worker(world.settings, max_events=most).records == most
    assert len(world.log.records("predictions")) == most


def test_it_goes_on_where_it_was(world):
    events = random_events(80)
    straight = Stream(world.settings)
    straight.put_events(events)
    straight.drain()
    world.stream.put_events(events)
    for _ in range(5):
        pipeline = run_worker(world.settings, max_events=16)
    assert same_state(pipeline.parts.learner.state(), straight.parts.learner.state())
    assert [body["source"]["offset"] for body in world.stream.bodies()] == list(range(80))


def test_a_stop_signal_ends_the_loop_after_the_micro_batch_in_hand(world):
    world.stream.put_events(random_events(80))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop_at_the_second(pipeline):
        if pipeline.records == 32:
            os.kill(os.getpid(), signal.SIGTERM)

    pipeline = run_worker(world.settings, on_step=stop_at_the_second)
    assert pipeline.records == 32
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
    assert world.opened == ["source", "source closed"]


def test_the_signal_is_a_flag_once_the_loop_runs_and_ends_the_process_only_when_that_is_not_seen(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignal(1000.0) as stop:
        with pytest.raises(StoppedWhileStarting):
            os.kill(os.getpid(), signal.SIGTERM)
        timer = stop._timer
        assert stop.asked
        assert timer.interval == pytest.approx(900.0)
        assert timer.args == (70,)
        os.kill(os.getpid(), signal.SIGTERM)  # the second one changes nothing
        assert stop._timer is timer
    timer.join(10.0)
    assert not timer.is_alive()
    assert ended == []
    with StopSignal(1000.0) as stop:
        stop.started = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked


def test_a_loop_that_does_not_end_is_abandoned(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignal(0.01) as stop:
        stop.started = True
        os.kill(os.getpid(), signal.SIGTERM)
        stop._timer.join(10.0)
        assert ended == [70]


def test_an_error_ends_the_run_with_everything_closed(world):
    world.stream.put_events(random_events(16))
    world.log.inject(Fault.POLL_ERROR)
    with pytest.raises(TransientError):
        run_worker(world.settings, until_end=True)
    assert world.opened[-2:] == ["sink closed", "source closed"]


def test_a_damaged_snapshot_is_passed_over_with_a_word(world):
    world.stream.put_events(random_events(48))
    run_worker(world.settings, max_events=16)
    run_worker(world.settings, max_events=16)
    folder = world.settings.snapshot.dir / snapshots_of(world).newest().name
    (folder / "worker.json").write_bytes(b"{}")
    with structlog.testing.capture_logs() as logs:
        run_worker(world.settings, until_end=True)
    said = {line["event"]: line for line in logs}
    assert "worker.json" in said["a snapshot was passed over"]["reason"]
    assert said["restored"]["batch"] == 1


def test_other_identity_settings_stop_it_before_the_broker(world):
    world.stream.put_events(random_events(16))
    run_worker(world.settings, until_end=True)
    world.opened.clear()
    changed = small_settings(model={"dim": 16}, snapshot={"dir": str(world.settings.snapshot.dir)})
    with pytest.raises(StateError, match=r"model\.dim"):
        run_worker(changed, until_end=True)
    assert world.opened == []


def test_a_state_folder_that_cannot_be_written_stops_it_before_the_broker(world):
    (world.path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        run_worker(small_settings(snapshot={"dir": str(world.path / "file" / "below")}))
    assert world.opened == []


def test_a_given_state_is_the_start_of_a_new_worker_only(world):
    given = Stream(world.settings)
    given.put_events(random_events(48, seed=5))
    given.drain()
    given.snapshots = Snapshots(FolderStore(world.path / "given"), "replay", identity(world.settings), 3)
    given.parts.snapshots = given.snapshots
    given.parts.save()
    world.stream.put_events(random_events(16))
    first = run_worker(world.settings, init=world.path / "given", until_end=True)
    assert first.parts.learner.batch == 4
    world.stream.put_events(random_events(16))
    with structlog.testing.capture_logs() as logs:
        second = run_worker(world.settings, init=world.path / "given", until_end=True)
    assert second.parts.learner.batch == 5
    assert "restored" in [line["event"] for line in logs]


def test_a_given_state_must_be_there(world):
    with pytest.raises(UsageError):
        run_worker(world.settings, init=world.path / "gone")


def test_health_and_metrics_are_served_while_it_runs_and_not_after(world):
    from urllib.error import URLError
    from urllib.request import urlopen

    settings = small_settings(snapshot={"dir": str(world.path / "state")}, metrics={"enabled": True, "port": 0})
    world.stream.put_events(random_events(16))
    seen = {}

    def look(_pipeline):
        port = next(line["port"] for line in logs if line["event"] == "serving metrics and health")
        seen["port"] = port
        for page in ("livez", "readyz", "metrics"):
            with urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as answer:
                seen[page] = answer.read()

    with structlog.testing.capture_logs() as logs:
        run_worker(settings, until_end=True, on_step=look)
    assert b"tidemill_predictions_total 16.0" in seen["metrics"]
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{seen['port']}/livez", timeout=10)
