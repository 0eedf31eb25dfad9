"""What a bounded run or a replay comes to: the summary of version 1 and, where wanted, the report."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from consumer.errors import ConfigError
from consumer.report import make_folder, write_report
from consumer.summary import Seconds, build_summary
from consumer.track import Track

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consumer.parts import Parts
    from consumer.pipeline import Pipeline, StepReport
    from consumer.ports import Clock
    from consumer.settings import Settings
    from incremental.drift import Detection


def prepare_report(report: Path | None) -> None:
    """Raise ConfigError, before anything is read, where a report is wanted that cannot be drawn, or not written."""
    if report is None:
        return
    if find_spec("matplotlib") is None:
        raise ConfigError("--report draws with matplotlib: pip install 'tidemill[report]'")
    make_folder(report)


KEPT_DETECTIONS = 10_000
"""The latest: a worker may run for years."""


class Account:
    """Notes each step; its clock starts when it is made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin = clock.monotonic()
        self._detections: deque[Detection] = deque(maxlen=KEPT_DETECTIONS)
        self.track = Track(clock)

    def note(self, pipeline: Pipeline, report: StepReport) -> None:
        """Take note of a step. Detections tell the events of the lineage; here those of this process are counted."""
        before = pipeline.parts.events - pipeline.events
        self._detections.extend(replace(found, event=found.event - before) for found in report.detections)
        self.track.note(pipeline)

    def summary(self, settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
        """Return the summary as of now."""
        stage_s = pipeline.stage_s
        seconds = Seconds(stage_s["predict"], stage_s["learn"], self._clock.monotonic() - self._begin)
        return summary_of(settings, pipeline.parts, pipeline.events, self._detections, seconds)

    def write_report(self, summary: dict[str, Any], folder: Path) -> Path:
        """Write the page; returns its path."""
        return write_report(summary, self.track.series(), folder)


def summary_of(
    settings: Settings, parts: Parts, events: int, detections: Sequence[Detection], seconds: Seconds
) -> dict[str, Any]:
    """Return the summary of what these parts have seen."""
    return build_summary(
        events=events,
        users=parts.histories.users,
        items=parts.model.items.size,
        scored=parts.evaluation.prequential.scored,
        result=parts.evaluation.prequential.result(),
        detections=detections,
        seconds=seconds,
        rejected=parts.rejected,
        flagged=+parts.flagged,
        settings=settings,
    )
