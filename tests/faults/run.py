"""One run of one scenario: traffic, workers, reader, faults, settling, verdict."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from consumer.kafka_io import committed_lag
from deploy.broker import LocalBroker
from tests.faults.checker import Verdict, check
from tests.faults.cluster import Cluster
from tests.faults.disturbances import disturbed
from tests.faults.evidence import Fault, gather
from tests.faults.reader import OFFSETS_TOPIC, Reader, group_log, read_all
from tests.faults.replayed import state_differs
from tests.faults.traffic import Shape, Traffic
from tests.faults.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.faults.workers import WorkerProcess

STEP_S = 0.02
REACH_S = 90.0
SETTLE_S = 90.0
WHOLE_S = 1800.0
QUIET_S = 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is done to whom. `events` is the short form's number, `long_events` that of --long."""

    name: str
    body: Callable[[Run], None]
    partitions: int = 2
    workers: int = 1
    events: int = 3000
    long_events: int = 20_000
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    shape: Callable[[], Shape] = Shape
    topics: dict[str, dict[str, str]] = field(default_factory=dict)
    replay: bool = True
    may_stop: bool = False
    """Whether workers rightly end for good with work left: then only what they committed is judged."""
    broker: Callable[[], AbstractContextManager[Any]] = LocalBroker
    rounds: int = 0
    """How often the fault is repeated; 0 leaves it to the scenario and to --long."""
    disk_bytes: int = 0
    """Where not 0, the state folder is a file system of its own, of this size."""
    disturbance: str = ""
    """What is wrong with the workers' surroundings all the time (`tests.faults.disturbances`)."""
    replicas: dict[str, int] = field(default_factory=dict)
    """By kind of topic, on a broker that is several; 1 where nothing is said."""


class NotReached(Exception):  # noqa: N818 - it names the condition
    """The run did not come to where it was waited for."""


class Run:
    """What a scenario's body works with."""

    def __init__(
        self,
        scenario: Scenario,
        broker: Any,
        seed: int,
        *,
        long: bool = False,
        whole: bool = False,
        mutant: str = "",
    ) -> None:
        self.scenario, self.broker, self.long = scenario, broker, long
        self.draw = random.Random(seed)
        self.total = scenario.long_events if long else scenario.events
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-faults-"))
        name = f"{scenario.name}-{uuid4().hex[:6]}"
        self.cluster = Cluster(broker, self.folder, name, scenario.partitions, scenario.sections)
        self.cluster.create(scenario.topics, scenario.replicas)
        if scenario.disk_bytes:
            mount(self.cluster.state_dir, scenario.disk_bytes)
        self.reader = Reader(self.cluster)
        shape = scenario.shape()
        self.times = 5 if long else 1
        shape.at_least_s *= self.times
        self.traffic = Traffic(self.cluster, self.total, seed, shape, lambda: self.reader.progress)
        self.workers = Workers(self.cluster, whole=whole, mutant=mutant, disturbance=scenario.disturbance)
        self.faults: list[Fault] = []
        self.facts: list[str] = []
        self.complaints: list[str] = []
        self.codes: list[int | None] = []

    def begin(self) -> None:
        """Start reader, traffic and workers."""
        self.reader.start()
        for number in range(self.scenario.workers):
            self.workers.start(number)
        self.traffic.start()

    def rounds(self, usual: int) -> int:
        """Return how often the fault is to be repeated."""
        return self.scenario.rounds or usual * self.times

    def shares(self, count: int) -> list[float]:
        """Return `count` moments of the run, in order, each at a random place of its part of it."""
        return [(i + 0.15 + 0.6 * self.draw.random()) / count for i in range(count)]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = REACH_S, *, tend: bool = True) -> None:
        """Wait for a condition, looking after the workers meanwhile. Raises NotReached.

        The time begins anew with every answer that comes: a machine that has other work is slow, not wrong.
        """
        begin = time.monotonic()
        deadline, last, progress = begin + timeout_s, begin + WHOLE_S, self.reader.progress
        while not condition():
            now = time.monotonic()
            if self.reader.progress > progress:
                deadline, progress = now + timeout_s, self.reader.progress
            if now > min(deadline, last):
                raise NotReached(f"{what}: not in {now - begin:.0f} s, at {self.reader.progress} of {self.total}")
            if tend:
                self.workers.tend()
            time.sleep(STEP_S)

    def until(self, share: float) -> None:
        """Wait until so much of the input is answered."""
        wanted = max(1, int(share * self.total))
        self.wait(lambda: self.reader.progress >= wanted, f"{share:.0%} answered")

    def more(self, events: int, timeout_s: float = REACH_S) -> None:
        """Wait until so many more are answered."""
        wanted = min(self.reader.progress + events, self.total)
        self.wait(lambda: self.reader.progress >= wanted, f"{events} more answered", timeout_s)

    @contextmanager
    def fault(self, name: str) -> Iterator[Fault]:
        """Note a fault that is injected inside; `struck` may be set to what proves it."""
        fault = Fault(name, self.reader.progress, time.monotonic())
        self.faults.append(fault)
        yield fault

    def kill(self, number: int, *, again: bool = True) -> None:
        """Kill -9 one worker, and start it again."""
        with self.fault(f"kill -9 w{number}") as fault:
            fault.struck = self.workers.kill(number) == -9
        if again:
            self.workers.start(number)

    def hit(self, process: WorkerProcess, point: str, *, count: int, code: int | None = -9) -> None:
        """Wait until a hook has struck for the `count`-th time (and the worker ended with `code`), note the fault."""
        with self.fault(point) as fault:
            self.wait(lambda: len(self.workers.hits) >= count, f"the point {point}", tend=False)
            fault.before = self.reader.progress
            fault.struck = self.workers.hits[-1] == point and (code is None or process.wait() == code)

    def hit_alive(self, process: WorkerProcess, point: str) -> None:
        """Wait until a hook has struck in a worker that goes on, note the fault."""
        with self.fault(point) as fault:
            self.wait(lambda: point in self.workers.hits, f"the point {point}", tend=False)
            fault.before = self.reader.progress
            fault.struck = process.code is None

    def settle(self) -> None:
        """Wait until every record that was written has its answer, nothing more comes, and the group has no lag."""
        if self.workers.unwanted and self.scenario.may_stop:
            return
        self.wait(lambda: self.traffic.done, "all events written")
        if self.scenario.may_stop:
            return
        try:
            self.wait(lambda: self.reader.progress >= self.traffic.acked, "all events answered", SETTLE_S)
        except NotReached as error:
            if not self._all_of_the_topic_is_answered():
                raise NotReached(f"{error}; {self._input()}") from error
        time.sleep(QUIET_S)

    def _all_of_the_topic_is_answered(self) -> bool:
        """Whether what is missing is missing in the input topic: its writer was told of records that are not there."""
        topic = self.cluster.topic("events")
        there = {(seen.partition, seen.offset) for seen in read_all(self.cluster, [topic])[topic]}
        strays = [(partition, offset) for partition, offset in self.traffic.places if (partition, offset) not in there]
        missing = self.traffic.acked - len(there)
        if missing <= 0 or self.reader.progress < len(there) or not self.caught_up():
            return False
        self.facts.append(
            f"the writer was told of {missing} records more than the topic holds; {self.traffic.acked_nowhere} without a"
            f" place, {self.traffic.acked_twice} at the place of another, {len(strays)} at a place that is empty {strays[:5]}"
        )
        return True

    def _input(self) -> str:
        """Say what was written and what is there, by partition: who lost it, the producer, the topic or the worker."""
        written = ", ".join(f"{p}: {n}" for p, n in sorted(self.traffic.acked_in.items()))
        ends = ", ".join(f"{p}: {n}" for p, n in sorted(self.cluster.ends("events", stable=True).items()))
        answered = Counter(partition for partition, _ in self.reader.sources)
        found = ", ".join(f"{p}: {n}" for p, n in sorted(answered.items()))
        return f"acknowledged by partition {written}; ends of the input {ends}; answered {found}; lag {self.lag()}"

    def finish(self) -> Verdict:
        """Stop everything, and judge."""
        self.traffic.stop()
        self.codes = self.workers.stop_all()
        time.sleep(0.3)
        self.reader.stop()
        for fault in self.faults:
            fault.after = self.reader.progress
        evidence = gather(self.cluster, self.reader.records, self.faults)
        evidence.stopped_early = self.scenario.may_stop
        compare = partial(state_differs, self.cluster, evidence.journal) if self.scenario.replay else None
        with disturbed(self.scenario.disturbance):
            verdict = check(evidence, compare)
        verdict.facts += [*self.facts, f"workers were started again by themselves {self.workers.restarts} times"]
        verdict.complaints += self.complaints
        if self.workers.unwanted and not self.scenario.may_stop:
            verdict.complaints += self.workers.unwanted
        if any(code != 0 for code in self.codes):
            verdict.complaints.append(f"SIGTERM at the end: exit codes {self.codes}")
        if self.reader.broken or self.traffic.failed:
            verdict.complaints.append(f"the harness: {self.reader.broken} {self.traffic.failed[:3]}")
        return verdict

    def back_after(self, at: float, lineage: str) -> float | None:
        """Return how long after a moment the first prediction of a lineage was readable."""
        return next((arrival - at for arrival, name in self.reader.arrivals if arrival > at and name == lineage), None)

    def snapshots(self, number: int) -> list[Path]:
        """Return the folders of an instance's complete snapshots, oldest first."""
        folder = self.cluster.state_dir / f"w{number}"
        return sorted(path.parent for path in folder.glob("snapshot-*/manifest.json"))

    def log(self, number: int) -> str:
        """Return what an instance has said."""
        return (self.folder / f"w{number}.log").read_text(encoding="utf-8")

    def recoveries(self, number: int) -> int:
        """Return how often an instance has begun to recover while it ran."""
        return self.log(number).count('"message": "recovering"')

    def has_recovered(self, number: int, times: int) -> bool:
        """Whether it has done so so many times."""
        return self.recoveries(number) >= times

    def lag(self) -> int:
        """Return how many offsets the group has left to do."""
        return sum(committed_lag(self.cluster.settings(0)).values())

    def caught_up(self) -> bool:
        """Whether the group has nothing left to do: also behind the markers of transactions."""
        return self.lag() == 0

    def generation(self) -> int:
        """Return the group's generation: it grows with every rebalance."""
        records = read_all(self.cluster, [OFFSETS_TOPIC])[OFFSETS_TOPIC]
        return group_log(records, self.cluster.name, self.cluster.topic("events")).generations[-1]

    def say_times(self, seconds: list[float], what: str) -> None:
        """Add median and worst of some times to what the run says."""
        if seconds:
            self.facts.append(
                f"{what}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s of {len(seconds)}"
            )

    def close(self, *, keep: bool = False) -> None:
        """Leave nothing behind but, with `keep`, the folder with logs and state."""
        self.workers.end()
        self.traffic.stop()
        self.reader.stop()
        if self.scenario.disk_bytes:
            subprocess.run(["umount", "-l", str(self.cluster.state_dir)], check=True)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def mount(folder: Path, size: int) -> None:
    """Put a small file system in memory at a folder."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def run_scenario(
    scenario: Scenario,
    broker: Any,
    seed: int,
    *,
    long: bool = False,
    whole: bool = False,
    mutant: str = "",
    keep: bool = False,
) -> Verdict:
    """Run a scenario on a running broker; returns what the checker says. Logs and state stay where it is not well."""
    run = Run(scenario, broker, seed, long=long, whole=whole, mutant=mutant)
    verdict = Verdict()
    try:
        try:
            run.begin()
            scenario.body(run)
            run.settle()
        except NotReached as error:
            run.complaints.append(str(error))
        verdict = run.finish()
    except Exception:  # noqa: BLE001 - one scenario that fails must not end all
        verdict.complaints.append(f"the run itself failed: {traceback.format_exc()}")
    finally:
        run.close(keep=keep or not verdict.ok)
    if keep or not verdict.ok:
        shutil.copy(broker.log_path, run.folder / "broker.log")
        verdict.facts.append(f"logs and state: {run.folder}")
    return verdict
