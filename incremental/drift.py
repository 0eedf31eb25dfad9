"""Drift detection on the prequential signals: what changed for the worse, and when. Nothing is done about it here.

Detectors see means over blocks of 32 events: a mean is nearly normal whatever the signal, and costs little. A
detector cannot be saved, so it is defined by what it was fed: the block means since its last rebuild are kept, at
most 4,096 of them, and when they are full the detector is rebuilt from the latest half. A restored monitor is fed the
same values and so is in the same state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from river.drift import ADWIN, PageHinkley

from incremental.outcomes import IGNORED, SCORED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from incremental.outcomes import Observed, Outcomes
    from model.contexts import Float64

BLOCK_EVENTS = 32
KEPT_BLOCKS = 4096

Change = tuple[float, float]
"""The mean of a signal before and after."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A signal rose. `event` is its place in the stream; `before` and `after` are means of the signal."""

    event: int
    signal: str
    detector: str
    before: float
    after: float
    action: str = "observe"


class RiverDetector(Protocol):
    """What is used of a detector of river."""

    drift_detected: bool

    def update(self, x: float) -> None:
        """Take the next value."""


class Detector:
    """A change detector over block means that reports rises only, and starts anew after each change.

    `before` is the mean since its start without the latest 16 blocks, `after` the mean of those.
    """

    def __init__(self, test: RiverDetector) -> None:
        self._test = test
        self._clear()

    def feed(self, value: float) -> Change | None:
        """Take the next value; return the means before and after where a change for the worse is detected."""
        if self._test.drift_detected:  # river starts anew with this value, and so do the means
            self._clear()
        self._test.update(value)
        self._latest.append(value)
        self._total += value
        self._count += 1
        earlier = self._count - len(self._latest)
        if not self._test.drift_detected or not earlier:
            return None
        latest = sum(self._latest)
        before, after = (self._total - latest) / earlier, latest / len(self._latest)
        return (before, after) if after > before else None

    def _clear(self) -> None:
        self._latest: deque[float] = deque(maxlen=16)
        self._total = 0.0
        self._count = 0


def adwin() -> Detector:
    """ADWIN (Bifet & Gavaldà 2007): do the older and the newer part of an adaptive window differ?"""
    return Detector(ADWIN(delta=1e-4, clock=8))  # it looks every 256 events


def page_hinkley() -> Detector:
    """Page-Hinkley (Page 1954): the sum of what exceeds the mean so far by more than 0.2 nats passes 30."""
    return Detector(PageHinkley(min_instances=64, delta=0.2, threshold=30.0, mode="up"))


DETECTORS: Mapping[str, Mapping[str, Callable[[], Detector]]] = {
    "log_loss": {"adwin": adwin, "page_hinkley": page_hinkley},
    "unknown": {"adwin": adwin},
}


def signals(observed: Observed, outcomes: Outcomes) -> dict[str, Float64]:
    """Return the watched signals of one micro-batch: the model's log-loss, and 1 for each item it did not know."""
    counted_B = observed.kind_B != IGNORED
    values = {"unknown": (~observed.admitted_B[counted_B]).astype(np.float64)}
    if "tidemill" in outcomes.items:
        values["log_loss"] = -outcomes.items["tidemill"].log_prob_B[outcomes.kind_B == SCORED]
    return values


class DriftMonitor:
    """Watches each signal of DETECTORS with its detectors."""

    def __init__(self) -> None:
        self._watches = {signal: _Watch(detectors) for signal, detectors in DETECTORS.items()}

    def update(self, values: Mapping[str, Float64], event: int) -> list[Detection]:
        """Take one micro-batch of per-event values per signal, in stream order; return what is detected.

        `event` is the place in the stream that detections are given. Values that are not finite are passed over.
        """
        return [
            Detection(event, signal, detector, before, after)
            for signal, watch in self._watches.items()
            if signal in values
            for detector, (before, after) in watch.update(values[signal])
        ]

    def state(self) -> dict[str, dict[str, list[float]]]:
        """Return signal → the values that its detectors are rebuilt from; fit for JSON."""
        return {signal: watch.state() for signal, watch in self._watches.items()}

    def load_state(self, state: Mapping[str, Mapping[str, list[float]]]) -> None:
        """Take over what `state` returned."""
        for signal, values in state.items():
            self._watches[signal].load_state(values)


class _Watch:
    """The detectors of one signal, and the block means that they are made of."""

    def __init__(self, detectors: Mapping[str, Callable[[], Detector]]) -> None:
        self._makers = detectors
        self._rest: list[float] = []  # values of the block that is not full yet
        self._rebuild([])

    def update(self, values_B: Float64) -> list[tuple[str, Change]]:
        """Take values; return (detector, change) for each detection."""
        values = self._rest + values_B[np.isfinite(values_B)].tolist()
        full = len(values) - len(values) % BLOCK_EVENTS
        self._rest = values[full:]
        changes: list[tuple[str, Change]] = []
        for start in range(0, full, BLOCK_EVENTS):
            changes += self._feed(sum(values[start : start + BLOCK_EVENTS]) / BLOCK_EVENTS)
            if len(self._blocks) >= KEPT_BLOCKS:
                self._rebuild(self._blocks[-KEPT_BLOCKS // 2 :])
        return changes

    def state(self) -> dict[str, list[float]]:
        """Return the values that define this watch."""
        return {"blocks": list(self._blocks), "rest": list(self._rest)}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Become the watch that `state` was taken from."""
        self._rest = list(state["rest"])
        self._rebuild(state["blocks"])

    def _feed(self, value: float) -> list[tuple[str, Change]]:
        self._blocks.append(value)
        fed: list[tuple[str, Any]] = [(name, detector.feed(value)) for name, detector in self._detectors.items()]
        return [(name, change) for name, change in fed if change is not None]

    def _rebuild(self, blocks: list[float]) -> None:
        self._blocks: list[float] = []
        self._detectors = {name: make() for name, make in self._makers.items()}
        for value in blocks:
            self._feed(value)
