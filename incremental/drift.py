"""Drift detection on the prequential signals: what changed for the worse, and when.

Detectors see means over blocks of 32 events: a mean is nearly normal whatever the signal, and costs little. Three
kinds look at them: ADWIN (Bifet and Gavalda 2007) at the means as they are; Page-Hinkley (Page 1954) at the means in
units of their own spread, at most 4 of them, so that one strange block is no alarm; KSWIN (Raab et al. 2020), which is
costly, at means over four blocks of the model's loss alone. Their thresholds are corrected for how many there are.

One signal, LOST_HITS, is about a change of everything at once. It is fed the model's loss on users with a long history, who
cannot be the newcomers of a burst, and its blocks are judged by their 13th smallest value of 32, which moves only where
many events are harder than usual. What it tells when it goes off is KNOWN_MISSES over the latest six blocks: in so few
events the share of hits that is lost tells best whether all of the traffic has changed or only a part of it. Page-Hinkley
alone watches it: it goes off when about that many blocks are behind the change.

Another, UNKNOWN, is seen by its detectors as the root of the share.

Only a rise counts. After an alarm all detectors of the signal begin anew with what comes next.

A detector cannot be saved, so it is defined by what it was fed: the block means since its last beginning are kept, at
most 4,096 of them, and when they are full the detectors are rebuilt from the latest half. A restored monitor is fed the
same values and so is in the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np
from river.drift import ADWIN, KSWIN, PageHinkley

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.contexts import Float64

BLOCK_EVENTS = 32
KEPT_BLOCKS = 4096
FALSE_ALARMS = 1e-3
"""Chance of a false alarm of all ADWIN and KSWIN detectors together: each gets an equal part."""
QUIET_BLOCKS = 1e6
"""Page-Hinkley: blocks between two false alarms of all detectors together, as far as blocks are independent."""
CALIBRATION_BLOCKS = 64
SPREAD_BLOCKS = 1024
"""Mean and spread of a signal follow it as fast as a mean over so many blocks."""
LATEST_BLOCKS = 16
MOST_SPREADS = 4.0
LEAST_SPREAD = 0.03
"""A spread is never taken for less, in the unit of the signal: a change that nobody would notice is no alarm."""
ALLOWANCE = 0.5
"""Page-Hinkley: spreads above the mean that count as no change."""
KSWIN_BLOCKS = 4
LOST_HITS, KNOWN_MISSES, UNKNOWN = "lost_hits", "misses/known", "unknown"
SEGMENT_LOSS = "segment/log_loss"
"""What a segment's alarm is called; the detectors of single segments have a number behind it."""
SUDDEN_BLOCKS = 6
SUDDEN_PLACE = 12
DETECTORS = ("adwin", "page_hinkley", "kswin")

Change = tuple[float, float]
"""The mean of a signal before and after."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A signal rose. `event` is its place in the stream; `before` and `after` are means of the signal.

    `segment` is empty where the whole stream is meant.
    """

    event: int
    signal: str
    detector: str
    before: float
    after: float
    action: str = "observe"
    segment: str = ""

    @property
    def is_alarm(self) -> bool:
        """Whether a detector went off; other records tell what came of it."""
        return self.detector in DETECTORS


class RiverDetector(Protocol):
    """What is used of a detector of river."""

    drift_detected: bool

    def update(self, x: float) -> None:
        """Take the next value."""


def adwin(tests: int) -> RiverDetector:
    """ADWIN: do the older and the newer part of an adaptive window differ? It looks every 256 events."""
    detector: RiverDetector = ADWIN(delta=FALSE_ALARMS / tests, clock=8)
    return detector


def page_hinkley(tests: int) -> RiverDetector:
    """Page-Hinkley on standardised values; a run between false alarms is about exp(2 * allowance * threshold) blocks.

    Nothing fades (`alpha` 1): with river's fading the sum comes back from far below by itself, and that is an alarm.
    """
    threshold = log(QUIET_BLOCKS * tests) / (2.0 * ALLOWANCE)
    detector: RiverDetector = PageHinkley(min_instances=1, delta=ALLOWANCE, threshold=threshold, alpha=1.0, mode="up")
    return detector


def kswin(tests: int) -> RiverDetector:
    """KSWIN: do the latest 30 means and 30 of the 70 before them come from one distribution?"""
    detector: RiverDetector = KSWIN(alpha=FALSE_ALARMS / tests / SPREAD_BLOCKS, window_size=100, stat_size=30, seed=1)
    return detector


def detectors_of(signal: str) -> tuple[str, ...]:
    """Return the names of a signal's detectors.

    ADWIN takes values for independent: not so the losses of single components or segments, which follow the users of
    the hour.
    """
    if signal == "log_loss":
        return DETECTORS
    alone = signal == LOST_HITS or signal.startswith(("log_loss/", SEGMENT_LOSS))
    return ("page_hinkley",) if alone else ("adwin", "page_hinkley")


class DriftMonitor:
    """Watches `signals`, each with its detectors; passes over the first `warm_up_events` events."""

    def __init__(self, signals: Sequence[str], warm_up_events: int = 0) -> None:
        tests = sum(len(detectors_of(signal)) for signal in signals)
        self._warm_up_events = warm_up_events
        self._watches = {signal: _watch(signal, tests) for signal in signals}

    def update(self, values: Mapping[str, Float64], event: int) -> list[Detection]:
        """Take one micro-batch of per-event values per signal, in stream order; return what is detected.

        `event` is the place in the stream that detections are given. Values that are not finite are passed over.
        """
        if event < self._warm_up_events:
            return []
        return [
            Detection(event, signal, detector, *told)
            for signal, watch in self._watches.items()
            if signal in values
            for detector, change in watch.update(values[signal])
            if (told := self._lost_hits() if signal == LOST_HITS else change) is not None
        ]

    def _lost_hits(self) -> Change | None:
        """Return the misses before and after a sudden change; None where they have gone off by themselves just before."""
        misses = self._watches.get(KNOWN_MISSES)
        return None if misses is None else misses.latest(SUDDEN_BLOCKS)

    def level(self, signal: str, blocks: int) -> float | None:
        """Return the mean of the latest blocks of a signal since its last alarm; None while there are not so many."""
        return self._watches[signal].level(blocks)

    def restart(self, signal: str) -> None:
        """Let the detectors of a signal begin anew with what comes next."""
        self._watches[signal].restart()

    def state(self) -> dict[str, dict[str, list[float]]]:
        """Return signal → the values that its detectors are rebuilt from; fit for JSON."""
        return {signal: watch.state() for signal, watch in self._watches.items()}

    def load_state(self, state: Mapping[str, Mapping[str, list[float]]]) -> None:
        """Take over what `state` returned."""
        for signal, values in state.items():
            self._watches[signal].load_state(values)


class _Watch:
    """The detectors of one signal, and the block means that they are made of."""

    def __init__(self, tests: int, detectors: tuple[str, ...]) -> None:
        self._tests, self._detectors = tests, detectors
        self._rest: list[float] = []  # values of the block that is not full yet
        self._tail: list[float] = []  # the latest blocks, alarms or not
        self._usual: float | None = None  # the mean before the latest alarm
        self._begin()

    def update(self, values_B: Float64) -> list[tuple[str, Change]]:
        """Take values; return (detector, change) for each alarm."""
        values = self._rest + values_B[np.isfinite(values_B)].tolist()
        full = len(values) - len(values) % BLOCK_EVENTS
        self._rest = values[full:]
        changes: list[tuple[str, Change]] = []
        for start in range(0, full, BLOCK_EVENTS):
            changes += self._take(self._level(values[start : start + BLOCK_EVENTS]))
        return changes

    def latest(self, blocks: int) -> Change | None:
        """Return the mean without the latest blocks (SUDDEN_BLOCKS at most) and that of those.

        Where the signal has gone off by itself within them, the former is what it was before that. None where it did
        not rise, or is not known.
        """
        if len(self._blocks) > CALIBRATION_BLOCKS:
            before = sum(self._blocks[:-blocks]) / (len(self._blocks) - blocks)
        elif self._usual is not None and len(self._blocks) <= blocks:
            before = self._usual
        else:
            return None
        after = sum(self._tail[-blocks:]) / blocks
        return (before, after) if after > before else None

    def level(self, blocks: int) -> float | None:
        """Return the mean of the latest blocks."""
        return sum(self._blocks[-blocks:]) / blocks if len(self._blocks) >= blocks else None

    def restart(self) -> None:
        """Begin anew."""
        self._rest, self._tail, self._usual = [], [], None
        self._begin()

    def state(self) -> dict[str, list[float]]:
        """Return the values that define this watch."""
        usual = [] if self._usual is None else [self._usual]
        return {"blocks": list(self._blocks), "rest": list(self._rest), "tail": list(self._tail), "usual": usual}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Become the watch that `state` was taken from."""
        self._rest, self._tail = list(state["rest"]), list(state["tail"])
        self._usual = next(iter(state["usual"]), None)
        self._rebuild(state["blocks"])

    def _level(self, block: list[float]) -> float:
        """Return what a block counts as."""
        return sum(block) / BLOCK_EVENTS

    def _scaled(self, level: float) -> float:
        """Return what the detectors see of a block."""
        return level

    def _rise(self) -> Change | None:
        """Return how the signal rose, None where it did not."""
        return rise(self._blocks)

    def _begin(self) -> None:
        self._blocks: list[float] = []
        self._mean, self._variance = 0.0, 0.0
        self._page_hinkley = page_hinkley(self._tests)
        self._adwin = adwin(self._tests) if "adwin" in self._detectors else None
        self._kswin = kswin(self._tests) if "kswin" in self._detectors else None

    def _rebuild(self, blocks: Sequence[float]) -> None:
        self._begin()
        for value in blocks:
            self._feed(value)

    def _take(self, value: float) -> list[tuple[str, Change]]:
        """Feed a block mean; on an alarm for the worse tell of it, and begin anew."""
        self._tail = [*self._tail, value][-SUDDEN_BLOCKS:]
        went_off = self._feed(value)
        if len(self._blocks) >= KEPT_BLOCKS:
            self._rebuild(self._blocks[-KEPT_BLOCKS // 2 :])
        if not went_off:
            return []
        change = self._rise()
        if change is None:
            return []
        self._usual = change[0]
        self._begin()
        return [(detector, change) for detector in went_off]

    def _feed(self, value: float) -> list[str]:
        """Let all detectors see a block mean; return the names of those that went off."""
        self._blocks.append(value)
        value = self._scaled(value)
        went_off = self._standardised(value)
        if self._adwin is not None:
            self._adwin.update(value)
            if self._adwin.drift_detected:
                went_off.append("adwin")
        if self._kswin is not None and len(self._blocks) % KSWIN_BLOCKS == 0:
            self._kswin.update(sum(self._blocks[-KSWIN_BLOCKS:]) / KSWIN_BLOCKS)
            if self._kswin.drift_detected:
                went_off.append("kswin")
        return went_off

    def _standardised(self, value: float) -> list[str]:
        """Feed Page-Hinkley the value in spreads from the mean, as both were before it; then let both follow."""
        count = len(self._blocks)
        off = value - self._mean
        alarm = False
        if count > CALIBRATION_BLOCKS:
            spreads = off / max(sqrt(self._variance), LEAST_SPREAD)
            self._page_hinkley.update(min(max(spreads, -MOST_SPREADS), MOST_SPREADS))
            alarm = self._page_hinkley.drift_detected
        rate = max(1.0 / count, 1.0 / SPREAD_BLOCKS)
        self._mean += rate * off
        self._variance += rate * (off * (value - self._mean) - self._variance)
        return ["page_hinkley"] if alarm else []


class _LostHitsWatch(_Watch):
    """The same for LOST_HITS."""

    def _level(self, block: list[float]) -> float:
        return sorted(block)[SUDDEN_PLACE]


class _UnknownWatch(_Watch):
    """The same for UNKNOWN, whose rare events come in bursts: one user may bring a dozen.

    Its detectors see the root of a share, of which the spread is the same for any share of independent events (Bartlett
    1936) and which makes less of a burst: in a changing catalogue everyone meets new items now and then.
    """

    def _scaled(self, level: float) -> float:
        return sqrt(level)


WATCHES = {LOST_HITS: _LostHitsWatch, UNKNOWN: _UnknownWatch}


def _watch(signal: str, tests: int) -> _Watch:
    return WATCHES.get(signal, _Watch)(tests, detectors_of(signal))


def rise(blocks: Sequence[float]) -> Change | None:
    """Return the means before and after the place among the latest blocks where a rise stands out most.

    None where there is no rise there.
    """
    recent = min(LATEST_BLOCKS, len(blocks) // 2)
    if not recent:
        return None
    earlier = blocks[:-recent]
    before = sum(earlier) / len(earlier)
    best, total, after = 0.0, 0.0, before
    for count in range(1, recent + 1):
        total += blocks[-count] - before
        if total / sqrt(count) > best:
            best, after = total / sqrt(count), before + total / count
    return (before, after) if best > 0.0 else None
