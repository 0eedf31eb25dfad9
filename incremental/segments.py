"""Drift in segments: the model's log-loss per value of one mapped feature, such as a country, each watched by itself.

A change in one country may be lost in the whole. The first `most` values that have had `least` events each become
segments with a detector of their own; everything else, events without the feature too, is the segment `other`, whose
detector begins anew when a value leaves it. Page-Hinkley alone watches, since the events of a segment follow the users
of the hour; its threshold is corrected for the number of segments. A segment is only reported: no rule of the policy
asks for it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from incremental.drift import SEGMENT_LOSS, Detection, DriftMonitor
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.settings import DriftSettings
    from model.contexts import Bool, Float64

OTHER = "other"
COUNTED = 1024
"""Values counted before they are segments; when there are more, counting begins anew."""


class Segments:
    """The segments so far, the values that may become some, and the detectors of all."""

    def __init__(self, settings: DriftSettings) -> None:
        self._feature, self._most, self._least = settings.segment, settings.max_segments, settings.segment_events
        self._warm_up_events = settings.warm_up_events
        self._begin()

    def _begin(self) -> None:
        self.names: list[str] = [OTHER]
        self._counts: Counter[str] = Counter()
        self._monitor = DriftMonitor([_signal(place) for place in range(self._most + 1)], self._warm_up_events)

    def update(self, segment_B: Sequence[str | None], loss_B: Float64, watched_B: Bool, event: int) -> list[Detection]:
        """Take the losses of the watched events of a micro-batch, in stream order; return what is detected."""
        place_B = np.array([self._place(name) for name in segment_B], np.int64)
        values = {
            _signal(place): loss_B[watched_B & (place_B == place)] for place in np.unique(place_B[watched_B]).tolist()
        }
        found = [self._named(alarm) for alarm in self._monitor.update(values, event)]
        self._admit([name for name, watched in zip(segment_B, watched_B.tolist(), strict=True) if name and watched])
        return found

    def _place(self, name: str | None) -> int:
        return self.names.index(name) if name in self.names else 0

    def _named(self, alarm: Detection) -> Detection:
        place = int(alarm.signal.removeprefix(SEGMENT_LOSS))
        return Detection(
            alarm.event, SEGMENT_LOSS, alarm.detector, alarm.before, alarm.after, segment=self.names[place]
        )

    def _admit(self, names: Sequence[str]) -> None:
        """Count values that are no segments yet; those with enough events become some while there is room."""
        if len(self.names) > self._most:
            return
        self._counts.update(name for name in names if name not in self.names)
        for name in [name for name, count in self._counts.items() if count >= self._least]:
            del self._counts[name]
            if len(self.names) <= self._most:
                self.names.append(name)
                self._monitor.restart(_signal(0))
        if len(self._counts) > COUNTED or len(self.names) > self._most:
            self._counts.clear()

    def state(self) -> State:
        """Return the segments, the counts and the detectors."""
        values = {"names": list(self.names), "counts": dict(self._counts), "drift": self._monitor.state()}
        return State(values=values | {"feature": self._feature, "most": self._most})

    def load(self, state: State) -> None:
        """Become what `state` holds; begin anew where it is about another feature, or another number of segments."""
        values = state.values
        if (values["feature"], values["most"]) != (self._feature, self._most):
            self._begin()
            return
        self.names, self._counts = list(values["names"]), Counter(values["counts"])
        self._monitor.load_state(values["drift"])


def _signal(place: int) -> str:
    return f"{SEGMENT_LOSS}{place}"
