from __future__ import annotations

import threading

import pytest

from consumer.clock import ManualClock
from consumer.errors import StateError
from consumer.metrics import Metrics
from consumer.settings import SnapshotSettings
from consumer.snapshot_writer import SnapshotWriter
from consumer.snapshots import Image
from model.state import State


class Slow:
    """Snapshots whose writes end when they are let."""

    def __init__(self):
        self.may_end = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.saved: list[int] = []
        self.threads: list[str] = []

    def save(self, image):
        self.begun.set()
        self.threads.append(threading.current_thread().name)
        assert self.may_end.wait(30.0)
        if self.error is not None:
            raise self.error
        self.saved.append(image.batch)
        return 1000 + image.batch


def image(batch):
    return Image(batch, 0, State(), {})


class Desk:
    def __init__(self):
        self.slow, self.clock, self.told = Slow(), ManualClock(), []
        self.metrics = Metrics(self.clock)
        settings = SnapshotSettings(redo_s=2.0, every_s=60.0)
        self.writer = SnapshotWriter(self.slow, settings, self.metrics, self.clock, self.note)

    def note(self):
        self.told.append((tuple(self.slow.saved), threading.current_thread()))

    def sample(self, name):
        lines = self.metrics.render().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).rsplit(" ", 1)[1])


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.slow.may_end.set()
    desk.writer.close()


def test_the_loop_goes_on_while_a_snapshot_is_written(desk):
    desk.writer.write(image(3))
    assert desk.slow.begun.wait(10.0)
    desk.writer.look()
    assert desk.writer.busy
    assert desk.told == []
    desk.clock.advance(2.0)
    desk.slow.may_end.set()
    desk.writer.look(wait=True)
    assert not desk.writer.busy
    assert desk.slow.threads[0].startswith("snapshot")
    assert desk.told == [((3,), threading.current_thread())]
    assert desk.sample("tidemill_snapshot_size_bytes") == 1003
    assert desk.sample('tidemill_snapshots_total{result="saved"}') == 1
    assert desk.sample("tidemill_snapshot_duration_seconds_sum") == 2.0
    assert desk.sample("tidemill_snapshot_age_seconds") == 0.0


def test_one_write_after_the_other_and_each_is_told(desk):
    desk.slow.may_end.set()
    for batch in (1, 2, 5):
        desk.writer.write(image(batch))
    desk.writer.look(wait=True)
    assert desk.slow.saved == [1, 2, 5]
    assert [saved for saved, _ in desk.told] == [(1,), (1, 2), (1, 2, 5)]


def test_a_store_that_refuses_is_counted_and_the_next_write_may_succeed(desk):
    desk.slow.error = StateError("no space left")
    desk.slow.may_end.set()
    desk.writer.write(image(1))
    desk.writer.look(wait=True)
    assert desk.told == []
    assert desk.sample('tidemill_snapshots_total{result="failed"}') == 1
    desk.slow.error = None
    desk.writer.write(image(2))
    desk.writer.look(wait=True)
    assert desk.slow.saved == [2]


def test_a_defect_in_writing_is_not_hidden(desk):
    desk.slow.error = ZeroDivisionError("a defect")
    desk.slow.may_end.set()
    desk.writer.write(image(1))
    with pytest.raises(ZeroDivisionError):
        desk.writer.look(wait=True)


def test_closing_waits_for_what_is_under_way(desk):
    before = set(threading.enumerate())
    desk.writer.write(image(4))
    assert desk.slow.begun.wait(10.0)
    desk.slow.may_end.set()
    desk.writer.close()
    desk.writer.close()
    assert desk.slow.saved == [4]
    assert len(desk.told) == 1
    assert not [thread for thread in threading.enumerate() if thread not in before]


def test_looking_where_nothing_is_written_is_nothing(desk):
    desk.writer.look()
    desk.writer.look(wait=True)
    assert not desk.writer.busy


def saved(desk, batch, seconds):
    """Write a snapshot that takes so long."""
    desk.writer.write(image(batch))
    desk.clock.advance(seconds)
    desk.slow.may_end.set()
    assert desk.writer.look(wait=True)


def saved_nothing(desk, batch):
    """Write a snapshot that the store refuses; the next one it will take."""
    desk.slow.error = StateError("no space left")
    desk.slow.may_end.set()
    desk.writer.write(image(batch))
    assert not desk.writer.look(wait=True)
    desk.slow.error = None


def test_it_is_time_to_save_when_a_restart_would_have_too_much_to_redo(desk):
    desk.writer.holds(1)
    desk.writer.stepped(1.9)
    assert not desk.writer.due()
    desk.writer.stepped(0.2)
    assert desk.writer.due()
    saved(desk, 3, 0.0)
    assert not desk.writer.due()  # what the snapshot holds need not be redone


def test_it_is_time_to_save_after_the_longest_interval_however_little_was_done(desk):
    desk.writer.holds(1)
    desk.clock.advance(59.0)
    assert not desk.writer.due()
    desk.clock.advance(1.0)
    assert desk.writer.due()


def test_what_is_dear_to_save_is_saved_less_often(desk):
    desk.writer.holds(1)
    saved(desk, 2, 3.0)
    desk.writer.stepped(10.0)
    desk.clock.advance(26.0)  # 29 after it was begun
    assert not desk.writer.due()
    desk.clock.advance(1.0)
    assert desk.writer.due()


def test_the_first_one_after_a_restart_does_not_hold_back_the_second(desk):
    desk.writer.holds(1)
    desk.writer.overdue()
    assert desk.writer.due()
    saved(desk, 2, 3.0)
    assert not desk.writer.due()
    desk.writer.stepped(2.0)
    assert desk.writer.due()
    saved(desk, 3, 3.0)
    desk.writer.stepped(2.0)
    desk.clock.advance(26.0)
    assert not desk.writer.due()
    desk.clock.advance(1.0)
    assert desk.writer.due()


def test_after_a_restart_only_the_first_write_is_not_counted_also_where_it_fails(desk):
    desk.writer.overdue()
    saved_nothing(desk, 2)
    saved(desk, 3, 3.0)
    desk.writer.stepped(2.0)
    assert not desk.writer.due()
    desk.clock.advance(27.0)
    assert desk.writer.due()


def test_nothing_is_begun_while_a_snapshot_is_written(desk):
    desk.writer.write(image(3))
    desk.writer.stepped(100.0)
    desk.clock.advance(100.0)
    assert not desk.writer.due()
    desk.slow.may_end.set()
    desk.writer.look(wait=True)
    assert desk.writer.due()


def test_a_store_that_refuses_is_not_asked_at_every_step(desk):
    desk.writer.holds(1)
    saved_nothing(desk, 2)
    desk.writer.stepped(10.0)
    desk.clock.advance(59.0)
    assert not desk.writer.due()
    desk.clock.advance(1.0)
    assert desk.writer.due()


def test_what_could_not_be_saved_is_new_also_where_nothing_more_comes(desk):
    desk.writer.holds(1)
    saved_nothing(desk, 2)
    assert desk.writer.batch not in (1, 2)
    desk.slow.error = None
    desk.writer.write(image(2))
    desk.writer.look(wait=True)
    assert desk.writer.batch == 2
