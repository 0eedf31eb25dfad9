"""SIGTERM and SIGINT as a flag for the loop, and the promise that the process does end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

ABANDONED = 70
GRACE_SHARE = 0.9
"""Of the time to stop: the rest is for the process to end."""


class Stopped(BaseException):
    """A stop came where one need not wait for the loop. No Exception, so that nothing on the way takes it for an error.

    `whole`: memory is as of a micro-batch, and so can be saved.
    """

    def __init__(self, *, whole: bool) -> None:
        super().__init__(f"whole={whole}")
        self.whole = whole


class AtOnce(Protocol):
    """Begins what a stop may end anywhere, see StopSignal.at_once."""

    def __call__(self, *, whole: bool = False) -> AbstractContextManager[None]:
        """`whole`: memory stays as of a micro-batch all the while."""


def to_the_end(*, whole: bool = False) -> AbstractContextManager[None]:
    """An AtOnce where there is nobody who stops anything."""
    del whole
    return nullcontext()


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag, and sees to it that the process does end.

    What takes long and commits nothing runs `at_once`: there the signal raises Stopped. What has not ended `stop_after_s`
    after the signal is abandoned: the uncommitted micro-batch is read again at the next start.
    """

    def __init__(self, stop_after_s: float) -> None:
        self._stop_after_s = stop_after_s
        self._asked = threading.Event()
        self._at_once: list[
            bool
        ] = []  # what is under way at once, the innermost last: whether memory is whole in there
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    @contextmanager
    def at_once(self, *, whole: bool = False) -> Iterator[None]:
        """Raise Stopped in here, where the main thread stands, or on entry, when nothing has begun. May be nested.

        `whole`: memory stays as of a micro-batch all the while.
        """
        if self.asked:
            raise Stopped(whole=all(self._at_once))
        self._at_once.append(whole)
        try:
            yield
        finally:
            self._at_once.pop()

    def _ask(self, _number: int, _frame: object) -> None:
        if not self._asked.is_set():
            self._asked.set()
            self._timer = threading.Timer(self._stop_after_s * GRACE_SHARE, self._abandon)
            self._timer.daemon = True
            self._timer.start()
            if self._at_once:
                raise Stopped(whole=all(self._at_once))

    def _abandon(self) -> None:
        said = f"tidemill: did not stop within worker.stop_after_s ({self._stop_after_s:g} s) and was abandoned\n"
        os.write(sys.stderr.fileno() if sys.stderr else 2, said.encode())
        os._exit(ABANDONED)
