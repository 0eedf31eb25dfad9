"""Writes snapshots in the background: the loop copies, a thread writes, and at most one write is under way.

When to save is decided by what a restart would cost: small micro-batches take as long to redo as they took to do, so a
clock alone would let a quiet stream, cut into many of them, come back later than a busy one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from consumer.errors import AccessError, StateError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.metrics import Metrics
    from consumer.ports import Clock
    from consumer.settings import SnapshotSettings
    from consumer.snapshots import Image, Snapshots

log = structlog.get_logger()

NONE = -1
"""No micro-batch."""
SHARE = 0.1
"""Of the time, at most, goes into snapshots that only make a restart shorter."""


class SnapshotWriter:
    """One thread. A failed write is counted and said; the worker goes on with the snapshots that it has.

    It outlives connections, so it knows how old the newest snapshot is: `batch` is its micro-batch, or that of the one
    under way, and NONE after a write that failed. `on_saved` is called by the loop's thread, in `look`, after a snapshot was completed.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        settings: SnapshotSettings,
        metrics: Metrics,
        clock: Clock,
        on_saved: Callable[[], None] | None = None,
    ) -> None:
        self.snapshots = snapshots
        self._redo_s, self._every_s = settings.redo_s, settings.every_s
        self._metrics, self._clock, self._on_saved = metrics, clock, on_saved
        self._stepped_s = 0.0  # what came after the snapshot of `batch` took
        self._pause_s = 0.0  # after the last one was begun, before the next one for the sake of `redo_s`
        self._is_typical = True  # the write that ends next takes about what those after it will
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._writing: Future[int] | None = None
        self._begun_at = clock.monotonic()
        self.batch = 0

    def holds(self, batch: int) -> None:
        """Memory is as of this micro-batch, and so is the newest snapshot."""
        self._begun_at, self.batch = self._clock.monotonic(), batch
        self._stepped_s = 0.0

    def overdue(self) -> None:
        """The newest snapshot is older than is known here: the next one must not wait.

        It will be written beside the first micro-batches after a restart, which are large: what it takes says nothing.
        """
        self._begun_at = float("-inf")
        self._is_typical = False

    def stepped(self, seconds: float) -> None:
        """One more micro-batch that is not in the snapshot, and what it takes to redo it."""
        self._stepped_s += seconds

    def due(self) -> bool:
        """Whether a snapshot should be begun now."""
        if self.busy:
            return False
        age_s = self._clock.monotonic() - self._begun_at
        return age_s >= self._every_s or (self._stepped_s >= self._redo_s and age_s >= self._pause_s)

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._writing is not None

    def write(self, image: Image) -> None:
        """Begin to write; waits for the write before it, where that has not ended."""
        self.look(wait=True)
        self.holds(image.batch)
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
            self._pause_s, self._is_typical = self._every_s, True
            self.batch = NONE  # a stream that is quiet from now on is saved too
            return False
        seconds = self._clock.monotonic() - self._begun_at
        self._pause_s = seconds / SHARE if self._is_typical else 0.0
        self._is_typical = True
        self._metrics.snapshot(seconds, size)
        log.info("snapshot saved", batch=self.batch, bytes=size, seconds=round(seconds, 2))
        if self._on_saved is not None:
            self._on_saved()
        return True

    def close(self) -> None:
        """Wait for the write under way and end the thread."""
        self.look(wait=True)
        self._pool.shutdown()
