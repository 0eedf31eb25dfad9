"""Runs one program and makes sure that it does not outlive the process that asked for it.

Usage: broker_guard.py LOG REMOVE PROGRAM [ARGUMENT…]. Run as a script, with the standard library only.

1. Starts PROGRAM with its output appended to LOG and prints its process id.
2. Reads standard input: each byte is the number of a signal to pass on; answers with an empty line.
3. Ends with the program's exit code when the program ends.
4. At the end of standard input, or when its own parent has changed, the owner is gone, however it died: kills the
   program and removes the folder REMOVE (empty: none).

On Linux the kernel also kills the program when this guard dies; on macOS a killed guard leaves it running.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_S = 1.0


def _die_with_guard() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(log_path: str, command: list[str]) -> subprocess.Popen[bytes]:
    with Path(log_path).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the owner's own command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_guard,  # noqa: PLW1509 - this process has no threads
        )


def _child_events() -> int:
    """Return a descriptor that becomes readable when a child changes state."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read_end


def _serve(child: subprocess.Popen[bytes], events: int, owner: int) -> bool:
    """Pass signals on until the child has ended (False) or the owner has gone (True)."""
    while child.poll() is None:
        ready, _, _ = select.select([0, events], [], [], _PARENT_CHECK_S)
        if events in ready:
            os.read(events, 64)
        if 0 in ready:
            numbers = os.read(0, 64)
            if not numbers:
                return True
            for number in numbers:
                child.send_signal(number)
                print(flush=True)  # noqa: T201 - the owner waits for it
        if os.getppid() != owner:
            return True
    return False


def main(arguments: list[str]) -> int:
    """Guard one program; returns its exit code, 128 + n where signal n ended it."""
    log_path, remove, *command = arguments
    owner = os.getppid()
    events = _child_events()
    child = _start(log_path, command)
    print(child.pid, flush=True)  # noqa: T201 - the owner reads it
    orphaned = _serve(child, events, owner)
    if orphaned:
        child.kill()
    code = child.wait()
    if orphaned and remove:
        shutil.rmtree(remove, ignore_errors=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
