from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from consumer.clock import ManualClock
from consumer.watchdog import Watchdog


class Yard:
    """A watchdog that is looked at by hand."""

    def __init__(self):
        self.clock = ManualClock()
        self.barks = 0
        self.barked = threading.Event()
        self.dog = Watchdog(self.clock, self._bark)

    def _bark(self):
        self.barks += 1
        self.barked.set()

    def after(self, seconds):
        self.clock.advance(seconds)
        self.dog.look()
        return self.barks


@pytest.fixture
def yard():
    return Yard()


def test_it_barks_when_a_phase_has_passed_its_limit_and_not_before(yard):
    yard.dog.enter("commit", 12.0)
    assert yard.after(12.0) == 0
    assert yard.after(0.1) == 1


def test_entering_again_shows_that_the_loop_moves(yard):
    for _ in range(5):
        yard.dog.enter("recovery", 120.0)
        assert yard.after(100.0) == 0
    yard.dog.enter("commit", 12.0)
    assert yard.after(13.0) == 1


def test_at_rest_nothing_is_too_long(yard):
    yard.dog.enter("commit", 12.0)
    yard.dog.rest()
    assert yard.after(10_000.0) == 0


def test_before_the_first_phase_it_watches_nothing(yard):
    assert yard.after(10_000.0) == 0


def test_its_age_is_that_of_the_last_sign(yard):
    yard.dog.enter("poll", 120.0)
    yard.clock.advance(7.0)
    assert yard.dog.age_s() == 7.0
    yard.dog.rest()
    assert yard.dog.age_s() == 0.0


def test_its_thread_looks_by_itself_and_ends_when_told(yard):
    yard.dog.enter("commit", 12.0)
    yard.clock.advance(13.0)
    yard.dog.start(0.08)
    assert yard.barked.wait(10.0)
    yard.dog.close()
    yard.dog.close()
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_one_that_was_never_started_can_be_closed(yard):
    yard.dog.close()
    assert yard.after(1.0) == 0


def test_a_process_that_hangs_ends_with_70_and_its_stacks():
    code = (
        "import threading; from consumer.clock import SystemClock; from consumer.watchdog import Watchdog\n"
        "def a_call_that_hangs(): threading.Event().wait()\n"
        "dog = Watchdog(SystemClock()); dog.start(0.08); dog.enter('commit', 0.05); a_call_that_hangs()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 70
    assert "a_call_that_hangs" in done.stderr
    assert "phase=commit" in done.stdout + done.stderr
