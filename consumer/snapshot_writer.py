"""Writes snapshots in the background: the loop copies, a thread writes, and at most one write is under way."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from consumer.errors import AccessError, StateError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.metrics import Metrics
    from consumer.ports import Clock
    from consumer.snapshots import Image, Snapshots

log = structlog.get_logger()


class SnapshotWriter:
    """One thread. A failed write is counted and said; the worker goes on with the snapshots that it has.

    It outlives connections, so it knows how old the newest snapshot is: `batch` is its micro-batch, or that of the one
    under way. `on_saved` is called by the loop's thread, in `look`, after a snapshot was completed.
    """

    def __init__(
        self, snapshots: Snapshots, metrics: Metrics, clock: Clock, on_saved: Callable[[], None] | None = None
    ) -> None:
        self.snapshots = snapshots
        self._metrics, self._clock, self._on_saved = metrics, clock, on_saved
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._writing: Future[int] | None = None
        self._begun_at = clock.monotonic()
        self.batch = 0

    def holds(self, batch: int) -> None:
        """Memory is as of this micro-batch, and so is the newest snapshot."""
        self._begun_at, self.batch = self._clock.monotonic(), batch

    def overdue(self) -> None:
        """The newest snapshot is older than is known here: the next one must not wait."""
        self._begun_at = float("-inf")

    @property
    def age_s(self) -> float:
        """Seconds since the last write was begun."""
        return self._clock.monotonic() - self._begun_at

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._writing is not None

    def write(self, image: Image) -> None:
        """Begin to write; waits for the write before it, where that has not ended."""
        self.look(wait=True)
        self._begun_at, self.batch = self._clock.monotonic(), image.batch
        self._writing = self._pool.submit(self.snapshots.save, image)

    def look(self, *, wait: bool = False) -> bool:
        """See whether the write under way has ended, or wait until it has; true where it was completed."""
        if self._writing is None or not (wait or self._writing.done()):
            return False
        writing, self._writing = self._writing, None
        try:
            size = writing.result()
        except (StateError, TransientError, AccessError) as error:
            log.error("snapshot failed", reason=str(error), batch=self.batch)  # noqa: TRY400 - the reason says it
            self._metrics.snapshot_failed()
            return False
        seconds = self._clock.monotonic() - self._begun_at
        self._metrics.snapshot(seconds, size)
        log.info("snapshot saved", batch=self.batch, bytes=size, seconds=round(seconds, 2))
        if self._on_saved is not None:
            self._on_saved()
        return True

    def close(self) -> None:
        """Wait for the write under way and end the thread."""
        self.look(wait=True)
        self._pool.shutdown()
