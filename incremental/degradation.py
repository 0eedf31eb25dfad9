"""Whether the model is worse than it was before an alarm, since when, and when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incremental.drift import BLOCK_EVENTS, Detection
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.drift import DriftMonitor
    from incremental.settings import DriftSettings

SIGNAL = "log_loss"
RECOVERED, NOT_RECOVERED = "recovered", "not_recovered"
"""Signals of the records that tell the end: the level is back; it is not, and is taken for the usual one from now on."""


class Degradation:
    """Begins with an alarm on the model's log-loss; ends when its mean over a stated window is nearly back.

    Nearly: but for a stated share of the rise. Alarms in between only make the rise larger.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self.since: int | None = None
        """The event of the alarm, None while nothing is wrong."""
        self.lasted = 0
        """Events from alarm to end, of the last one that has ended."""
        self._usual, self._worst = 0.0, 0.0

    def update(self, monitor: DriftMonitor, alarms: Sequence[Detection], event: int) -> list[Detection]:
        """Take the alarms of a micro-batch that begins with `event`; return the end of the degradation, if it is that."""
        for alarm in alarms:
            if alarm.signal == SIGNAL:
                self._begin(alarm)
        if self.since is None:
            return []
        level = monitor.level(SIGNAL, self._settings.recovery_window_events // BLOCK_EVENTS)
        goal = self._usual + self._settings.recovery_slack * (self._worst - self._usual)
        if level is not None and level <= goal:
            return [self._end(RECOVERED, level, event)]
        if event - self.since >= self._settings.new_normal_after_events:
            return [self._end(NOT_RECOVERED, self._worst if level is None else level, event)]
        return []

    def _begin(self, alarm: Detection) -> None:
        if self.since is None:
            self.since, self._usual, self._worst = alarm.event, alarm.before, alarm.after
        self._worst = max(self._worst, alarm.after)

    def _end(self, how: str, level: float, event: int) -> Detection:
        assert self.since is not None  # noqa: S101 - the caller has looked
        self.lasted, self.since = event - self.since, None
        return Detection(event, how, SIGNAL, self._worst, level, f"after {self.lasted} events")

    def state(self) -> State:
        """Return since when, and both levels."""
        return State(values={"since": self.since, "usual": self._usual, "worst": self._worst, "lasted": self.lasted})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.since, self.lasted = state.values["since"], int(state.values["lasted"])
        self._usual, self._worst = float(state.values["usual"]), float(state.values["worst"])
