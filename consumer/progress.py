"""A live line on a terminal, nothing elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from consumer.pipeline import Pipeline

SHOW_EVERY_STEPS = 4


class Progress:
    """Shows records, speed and the hit rate against recent popularity while a pipeline runs."""

    def __init__(self, *, enabled: bool, total: int | None) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total)
        self._enabled, self._steps = enabled, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, pipeline: Pipeline) -> None:
        """Bring the line up to date, every few steps."""
        self._steps += 1
        if self._enabled and self._steps % SHOW_EVERY_STEPS == 0:
            self._bar.update(self._task, completed=pipeline.records, description=headline(pipeline))


def headline(pipeline: Pipeline) -> str:
    """Return the hit rate lately, ours and that of the best baseline."""
    prequential = pipeline.parts.evaluation.prequential
    recent = {name: prequential.recent(name).get("hr@10", 0.0) for name in prequential.methods}
    ours = recent.pop("tidemill", 0.0)
    others = {name: rate for name, rate in recent.items() if name not in pipeline.parts.model.mixture.names}
    if not others:
        return f"hit rate@10 {ours:.3f}"
    best = max(others, key=lambda name: others[name])
    return f"hit rate@10 {ours:.3f} (best baseline {others[best]:.3f}, {best})"
