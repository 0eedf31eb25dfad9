"""The watchdog: where a phase of the loop takes longer than its limit, it dumps all stacks and ends the process.

Ending is safe at any moment: what is committed can be redone, what is not was never there. No transaction call of the
client has a timeout of its own, and one that hangs after a broker was lost does so for ever.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.ports import Clock

log = structlog.get_logger()

EXIT_CODE = 70
LOOKS_PER_LIMIT = 8


def end_process() -> None:
    """Dump the stacks of all threads to standard error and end at once."""
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_CODE)


class Watchdog:
    """`enter` a phase with its limit; entering the next one, or `rest`, shows that the loop moves."""

    def __init__(self, clock: Clock, bark: Callable[[], None] = end_process) -> None:
        self._clock, self._bark = clock, bark
        self._lock = threading.Lock()
        self._phase, self._limit_s, self._since = "", 0.0, clock.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, shortest_limit_s: float) -> None:
        """Begin to watch, often enough for the shortest limit there is."""
        pause_s = shortest_limit_s / LOOKS_PER_LIMIT
        self._thread = threading.Thread(target=self._watch, args=(pause_s,), name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, phase: str, limit_s: float) -> None:
        """The loop begins a phase that may take `limit_s`."""
        with self._lock:
            self._phase, self._limit_s, self._since = phase, limit_s, self._clock.monotonic()

    def rest(self) -> None:
        """The loop is in no phase that is watched."""
        self.enter("", 0.0)

    def age_s(self) -> float:
        """Seconds since the loop last showed that it moves."""
        with self._lock:
            return self._clock.monotonic() - self._since

    def look(self) -> None:
        """End the process where the phase has passed its limit."""
        with self._lock:
            phase, limit_s = self._phase, self._limit_s
            age_s = self._clock.monotonic() - self._since
        if phase and age_s > limit_s:
            log.critical("the loop hangs: ending the process", phase=phase, limit_s=limit_s)
            self._bark()

    def close(self) -> None:
        """Stop watching; safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, pause_s: float) -> None:
        while not self._stop.wait(pause_s):
            self.look()
