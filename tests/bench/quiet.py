"""Stream a: how often the detectors speak where nothing changes, and what they cost.

The worker learns a simulated stream, then goes on without learning, and the signals of that part are recorded. From
that record ten series are drawn, in stretches of 16 micro-batches, and only the detectors go through those: nothing
acts.
"""

from __future__ import annotations

import time

import numpy as np

from incremental.drift import DriftMonitor
from incremental.signals import names
from tests.bench.runner import Run
from tests.bench.simulator import simulate

SERIES = 10
STRETCH = 16


def quiet(options, settings):
    """Return the alarms in all series, and what signals and detectors cost."""
    warm_up, recorded, each = options.quiet_warm_up, options.quiet_recorded, options.quiet_events
    log = simulate(warm_up + recorded, 0, items=options.items)
    run = Run(settings)
    run.go(log[:warm_up])
    values, begin = record(run), time.perf_counter()
    run.go(log[warm_up:], learn=False)  # what still learns is not stationary: stretches of it would differ
    step_us = (time.perf_counter() - begin) * 1e6 / recorded
    found, events, seconds = [], 0, 0.0
    for seed in range(SERIES):
        alarms, count, spent = one_series(run, values, each, seed)
        found, events, seconds = found + alarms, events + count, seconds + spent
    us = seconds * 1e6 / max(1, events)
    return {
        "events": events,
        "alarms": [(alarm.event, alarm.signal, alarm.detector) for alarm in found],
        "alarms_while_learning": len(run.trace.detections),
        "us_per_event": us,
        "signals_us_per_event": values.us / recorded,
        "share_of_a_step": (us + values.us / recorded) / step_us,
    }


class record:  # noqa: N801 - used like a function
    """Puts itself before the signals of a run and keeps what they said, micro-batch by micro-batch."""

    def __init__(self, run):
        self.batches, self.us = [], 0.0
        self._values = run.parts.evaluation.signals.values
        run.parts.evaluation.signals.values = self

    def __call__(self, *arguments):
        begin = time.perf_counter()
        values = self._values(*arguments)
        self.us += (time.perf_counter() - begin) * 1e6
        self.batches.append(values)
        return values


def one_series(run, values, events, seed):
    """Let fresh detectors go through one drawn series; returns alarms, events and seconds."""
    monitor = DriftMonitor(names(run.parts.model.mixture.names))
    draw, size = np.random.default_rng(seed), run.settings.worker.batch_events
    found, place, spent = [], 0, 0.0
    while place < events:
        start = int(draw.integers(max(1, len(values.batches) - STRETCH)))
        for batch in values.batches[start : start + STRETCH]:
            begin = time.perf_counter()
            found += monitor.update(batch, place)
            spent += time.perf_counter() - begin
            place += size
    return found, place, spent
