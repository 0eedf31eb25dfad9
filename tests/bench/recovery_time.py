"""`python -m tests.bench.recovery_time`: from kill -9 to the first new prediction that is committed, and where it goes.

A whole worker with default settings on a real local broker, killed at random moments and started again at once as a
new process, libraries and all; the input goes on meanwhile, at a share of the largest rate
that the worker reaches. With static membership, and without: then the group waits for the dead member's session.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deploy.broker import LocalBroker
from tests.faults.cluster import Cluster
from tests.faults.reader import Reader
from tests.faults.traffic import Shape, Traffic
from tests.faults.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE: dict[str, dict[str, Any]] = {"metrics": {"port": 0}}
USERS, ITEMS, PARTITIONS = 1000, 2000, 2
FULL_SPEED_EVENTS = 12_000
IN_FLIGHT_S = 0.3
BACK_S = 120.0
PHASES = {
    "serving metrics and health": "process, libraries",
    "snapshot loaded": "warm-up, broker, snapshot",
    "journal redone": "journal",
    "partitions assigned": "group",
}
"""What the worker says at the end of each phase, and its name."""


class Trial:
    """A broker's topics with one worker, its input and a reader of its predictions."""

    def __init__(self, broker: LocalBroker, folder: Path, disturbance: str) -> None:
        name = f"recovery-{uuid4().hex[:6]}"
        self.cluster = Cluster(broker, folder / name, name, PARTITIONS, base=BASE)
        self.cluster.folder.mkdir()
        self.cluster.create()
        self.reader = Reader(self.cluster)
        self.workers = Workers(self.cluster, whole=True, disturbance=disturbance)
        self.traffic: Traffic | None = None

    def feed(self, events: int, seconds: float, keep_ahead: int) -> None:
        """Write so many events over so many seconds, at most so far ahead of the predictions."""
        shape = Shape(users=USERS, items=ITEMS, keep_ahead=keep_ahead, at_least_s=seconds)
        self.traffic = Traffic(self.cluster, events, 1, shape, lambda: self.reader.progress)
        self.traffic.start()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BACK_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.005)

    def close(self) -> None:
        self.workers.end()
        if self.traffic is not None:
            self.traffic.stop()
        self.reader.stop()


@contextmanager
def trial(broker: LocalBroker, folder: Path, disturbance: str = "") -> Iterator[Trial]:
    """Yield a running worker."""
    it = Trial(broker, folder, disturbance)
    try:
        it.reader.start()
        it.workers.start(0)
        yield it
    finally:
        it.close()


def full_speed(broker: LocalBroker, folder: Path) -> float:
    """Return the events per second of a worker that always finds more."""
    with trial(broker, folder) as it:
        it.feed(FULL_SPEED_EVENTS, 0.0, 8192)
        it.wait(lambda: it.reader.progress >= FULL_SPEED_EVENTS, "the worker is too slow")
        times = [at for at, _ in it.reader.arrivals]
        first = FULL_SPEED_EVENTS // 3
        return (len(times) - first) / (times[-1] - times[first])


def kills(it: Trial, rate: float, count: int, apart_s: float, seed: int) -> tuple[list[float], list[dict[str, float]]]:
    """Kill and restart so often; returns the seconds of each, and how they were spent."""
    draw = random.Random(seed)
    seconds, spent = [], []
    it.feed(int(rate * 3600), 3600.0, 1 << 30)
    it.wait(lambda: it.reader.progress > rate * 2, "the worker does not begin")
    for _ in range(count):
        time.sleep(draw.uniform(0.1, 1.0) * apart_s)
        log = it.cluster.folder / "w0.log"
        at_byte = log.stat().st_size
        it.workers.kill(0)
        at, wall = time.monotonic(), time.time()
        it.workers.start(0)
        it.wait(lambda since=at + IN_FLIGHT_S: it.reader.arrivals[-1][0] > since, "no new prediction")
        seconds.append(next(arrival for arrival, _ in it.reader.arrivals if arrival > at + IN_FLIGHT_S) - at)
        spent.append(_phases(log.read_bytes()[at_byte:], wall, seconds[-1]))
        say(f"  {seconds[-1]:.2f} s: " + _named(spent[-1]))
    return seconds, spent


def _phases(said: bytes, wall: float, whole: float) -> dict[str, float]:
    """Return the seconds of each phase, from the times of what the new process has said."""
    found: dict[str, float] = {}
    for line in said.splitlines():
        if line.startswith(b"{"):
            body = json.loads(line)
            phase = PHASES.get(body["message"])
            if phase is not None and phase not in found:
                found[phase] = datetime.fromisoformat(body["timestamp"]).timestamp() - wall
    last, spent = 0.0, {}
    for name, until in [*found.items(), ("first micro-batch", whole)]:
        spent[name], last = until - last, until
    return spent


def _named(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {part:.2f}" for name, part in parts.items())


def say(line: str) -> None:
    """Print at once: it takes long."""
    print(line, flush=True)  # noqa: T201 - the answer to the command


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery_time", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shares", default="0.1,0.5", help="of the largest rate")
    parser.add_argument(
        "--apart-s", type=float, default=10.0, help="a worker works at most so long before it is killed"
    )
    parser.add_argument("--membership", default="static,dynamic")
    given = parser.parse_args()
    with LocalBroker() as broker, tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name)
        most = full_speed(broker, folder)
        say(f"largest rate {most:.0f} events/s")
        for share in map(float, given.shares.split(",")):
            for membership in given.membership.split(","):
                disturbance = "" if membership == "static" else "dynamic_member"
                with trial(broker, folder, disturbance) as it:
                    seconds, spent = kills(it, share * most, given.kills, given.apart_s, seed=1)
                names = [*PHASES.values(), "first micro-batch"]
                parts = {name: statistics.median(one.get(name, 0.0) for one in spent) for name in names}
                say(
                    f"{share:.0%} of it, {membership}: median {statistics.median(seconds):.2f} s, worst"
                    f" {max(seconds):.2f} s of {len(seconds)}; " + _named(parts)
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
