"""Keeps what a bench has run, so that it can be made in pieces and goes on where it was interrupted.

Below one folder, each under a key made of the code, the settings and the events that it came from: runs, as snapshots
of the worker with the trace so far, and traces alone. Without a folder nothing is kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from consumer.parts import Parts
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from incremental.drift import Detection
from tests.bench.runner import Run, Trace

PACKAGES = ("consumer", "incremental", "model")
TRACE, TEMPORARY = "trace.npz", "trace.part.npz"


class Keep:
    """A folder of runs and traces, or none."""

    def __init__(self, folder):
        self._folder = None if folder is None else Path(folder)
        self._code = "" if folder is None else code()

    def run(self, settings, log, make):
        """Return the run that `make` returns, with the settings given, after the events of `log`."""
        if self._folder is None:
            return make()
        place = self._folder / self._key("run", settings, log)
        snapshots = Snapshots(FolderStore(place), "bench", {}, keep=1)
        if (place / TRACE).exists():
            run = Run(settings)
            Parts.restore(run.parts, snapshots.newest())
            run.offset, run.trace = len(log), read_trace(place)
            return run
        run = make()
        snapshots.save(run.parts.image(0))
        write_trace(run.trace, place)
        return run

    def trace(self, settings, log, make, *what):
        """Return the trace that `make` returns; `what` says what else it depends on."""
        if self._folder is None:
            return make()
        place = self._folder / self._key("trace", settings, log, *what)
        if not (place / TRACE).exists():
            write_trace(make(), place)
        return read_trace(place)

    def _key(self, kind, settings, log, *what):
        text = json.dumps([self._code, settings.model_dump(mode="json"), digest(log), *what], sort_keys=True)
        return f"{kind}-{sha256(text.encode()).hexdigest()[:24]}"


def code():
    """Return a hash of the code that runs: what another version has run is not taken for its own."""
    root = Path(__file__).parents[2]
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def digest(log):
    """Return a hash of a log."""
    hashed = sha256()
    for column in (log.user, log.item, log.time, log.genuine):
        hashed.update(np.ascontiguousarray(column).tobytes())
    hashed.update("\n".join(log.kind.tolist()).encode())
    return hashed.hexdigest()


def write_trace(trace, place):
    """Write what the figures need of a trace; complete, or not at all."""
    place.mkdir(parents=True, exist_ok=True)
    hit, scored = trace.arrays()
    found = json.dumps([asdict(detection) for detection in trace.detections])
    np.savez_compressed(
        place / TEMPORARY, hit=hit, scored=scored, detections=np.array(found), quarantined=trace.quarantined
    )
    (place / TEMPORARY).rename(place / TRACE)


def read_trace(place):
    """Return the trace that was written."""
    with np.load(place / TRACE) as kept:
        found = [Detection(**values) for values in json.loads(str(kept["detections"]))]
        return Trace([kept["hit"]], [kept["scored"]], detections=found, quarantined=int(kept["quarantined"]))
