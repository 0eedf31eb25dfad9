"""What a report draws over the length of a stream, noted while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer.report import ReportSeries

if TYPE_CHECKING:
    from consumer.pipeline import Pipeline
    from consumer.ports import Clock

POINTS = 512
"""Points kept; beyond that every other one goes, and notes are taken half as often."""


class Track:
    """Speed, mixture weights and recent hit rates at evenly spaced places of the stream."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._every = 1024
        self._events, self._time = 0, clock.monotonic()
        self._speed: list[tuple[int, float]] = []
        self._weights: list[tuple[int, dict[str, float]]] = []
        self._hits: list[tuple[int, dict[str, float]]] = []

    def note(self, pipeline: Pipeline) -> None:
        """Take a note where it is time for one."""
        events = pipeline.events
        if events - self._events < self._every:
            return
        now = self._clock.monotonic()
        prequential = pipeline.parts.evaluation.prequential
        self._speed.append((events, (events - self._events) / max(now - self._time, 1e-9)))
        self._weights.append((events, pipeline.parts.model.mixture.overall()))
        self._hits.append(
            (events, {name: m["hr@10"] for name in prequential.methods if (m := prequential.recent(name))})
        )
        self._events, self._time = events, now
        if len(self._speed) > POINTS:
            self._every *= 2
            self._speed, self._weights, self._hits = self._speed[1::2], self._weights[1::2], self._hits[1::2]

    def series(self) -> ReportSeries:
        """Return the notes."""
        return ReportSeries(tuple(self._speed), tuple(self._weights), tuple(self._hits))
