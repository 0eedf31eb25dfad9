from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy import broker_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT = "import sys, time; print('here', flush=True); time.sleep(60)"


@contextmanager
def guarded(tmp_path: Path, code: str, remove: str = "") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, broker_guard.__file__, str(tmp_path / "log"), remove, sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        try:
            yield guard, int(guard.stdout.readline())
        finally:
            guard.kill()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_it_ends_with_the_programs_code(tmp_path) -> None:
    with guarded(tmp_path, "print('said'); raise SystemExit(7)") as (guard, _):
        assert guard.wait(20) == 7
    assert (tmp_path / "log").read_text() == "said\n"


def test_it_passes_signals_on(tmp_path) -> None:
    with guarded(tmp_path, WAIT) as (guard, pid):
        for number, status in ((signal.SIGSTOP, psutil.STATUS_STOPPED), (signal.SIGCONT, psutil.STATUS_SLEEPING)):
            guard.stdin.write(bytes([number]))
            guard.stdin.flush()
            assert guard.stdout.readline() == b"\n"
            assert wait_until(lambda status=status: psutil.Process(pid).status() == status)
        guard.stdin.write(bytes([signal.SIGTERM]))
        guard.stdin.flush()
        assert guard.wait(20) == 128 + signal.SIGTERM


def test_when_its_owner_is_gone_it_kills_and_removes(tmp_path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with guarded(tmp_path, WAIT, str(folder)) as (guard, pid):
        guard.stdin.close()
        assert guard.wait(20) == 128 + signal.SIGKILL
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_what_ended_by_itself_keeps_its_folder(tmp_path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with guarded(tmp_path, "pass", str(folder)) as (guard, _):
        assert guard.wait(20) == 0
    assert folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel ends a process with its parent")
def test_a_killed_guard_takes_the_program_along(tmp_path) -> None:
    with guarded(tmp_path, WAIT) as (guard, pid):
        guard.kill()
        assert wait_until(lambda: not psutil.pid_exists(pid))
