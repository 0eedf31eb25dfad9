"""The same faults, and the same checker, on the log in memory: workers that die and come back inside one process.

Time stands still unless it is moved, snapshots are waited for, and whoever dies is simply let go of: so a sequence of
faults is a function of its numbers alone.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support import MemoryStore, record_value, small_settings

from consumer.clock import ManualClock
from consumer.describe_settings import identity
from consumer.errors import Fenced, TidemillError
from consumer.health import HealthState
from consumer.memory_io import MemoryLog, MemoryPast, MemorySink, MemorySource
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.recovery import Recovery
from consumer.snapshots import Snapshots
from consumer.worker import Doors, Worker
from tests.faults.checker import check
from tests.faults.damage import flipped
from tests.faults.evidence import Evidence, Fault, entries
from tests.faults.hooks import _is_manifest, _is_snapshot_file, intercept
from tests.faults.reader import Commit, GroupLog, Seen, answer_of
from tests.faults.replayed import compare
from tests.faults.traffic import GARBAGE, ITEMS, POISON, T0, USERS_PER_PARTITION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from consumer.memory_io import Fault as Injected
    from consumer.ports import Record, TopicPartition
    from consumer.settings import Settings
    from tests.faults.checker import Verdict

EVENTS, GROUP = "events", "tidemill"
OUTPUTS = {"predictions": 2, "dead-letters": 1, "drift": 1, "journal": 3}
STEPS_AT_MOST = 400
SNAPSHOT_EVERY_S = 30.0


class Killed(BaseException):
    """The worker's process ends here."""


POINTS: dict[str, tuple[type, str, Callable[..., bool] | None]] = {
    "before_commit": (MemorySink, "commit", None),
    "before_offsets": (MemorySink, "_store", None),
    "after_offsets": (MemorySink, "_store", None),
    "after_commit": (MemorySink, "commit", None),
    "before_keep": (Parts, "keep", None),
    "before_learn": (Parts, "learn", None),
    "after_learn": (Parts, "learn", None),
    "after_snapshot_file": (MemoryStore, "write", _is_snapshot_file),
    "before_manifest": (MemoryStore, "write", _is_manifest),
    "after_manifest": (MemoryStore, "write", _is_manifest),
}
"""Name → class, method, and (optional) which calls of it count, in a worker that runs."""
RECOVERY_POINTS: dict[str, tuple[type, str, Callable[..., bool] | None]] = {
    "before_redo": (Recovery, "_redo_one", None),
    "after_redo": (Recovery, "_redo_one", None),
}


class WatchedLog(MemoryLog):
    """Keeps every commit of the group, not only the last."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        super().__init__(topics)
        self.group = GroupLog()

    def _stored(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        super()._stored(group, positions)
        self.group.commits += [Commit(tp.partition, offset) for tp, offset in sorted(positions.items())]


class MemoryStage:
    """A log, a store, and up to two workers. A worker that is not there is None."""

    def __init__(self, *, seed: int = 0, partitions: int = 2, **sections: dict[str, Any]) -> None:
        self.draw, self.clock, self.store = random.Random(seed), ManualClock(), MemoryStore()
        self.log = WatchedLog({EVENTS: partitions} | OUTPUTS)
        self._sections = {
            "evaluation": {"baselines": False},
            "learning": {"negatives": 32, "rehearsal_windows": 8, "rehearsal_capacity": 50, "rehearsal_length": 8},
            "recovery": {"journal_keep": "all"},
            "snapshot": {"keep": 1000, "every_s": SNAPSHOT_EVERY_S},
            **sections,
        }
        self._partitions, self._number = partitions, 0
        self.workers: dict[int, Worker] = {}
        self.live: dict[tuple[str, int, int], Seen] = {}
        self.faults: list[Fault] = []
        self.known: list[int] = []
        self._spoilt: set[str] = set()

    def settings(self, number: int) -> Settings:
        """Return the settings of one instance."""
        own = {"kafka": {"instance": f"w{number}", "group": GROUP}, "topics": {"journal_partition": number}}
        return small_settings(**{**self._sections, **own})

    def snapshots(self, number: int) -> Snapshots:
        """Return what an instance has saved."""
        settings = self.settings(number)
        return Snapshots(self.store, settings.kafka.instance, identity(settings), settings.snapshot.keep)

    # What comes in

    def put(self, count: int, *, poison: float = 0.0) -> None:
        """Append events, each user's in its own partition."""
        for _ in range(count):
            number, self._number = self._number, self._number + 1
            partition = self.draw.randrange(self._partitions)
            user = f"u{partition}-{self.draw.randrange(USERS_PER_PARTITION)}"
            value: bytes | None = record_value(
                user_id=user,
                item_id=self.draw.randrange(ITEMS),
                event_type=self.draw.choice(("view", "buy")),
                event_time=T0 + number,
                event_id=number + 1,
            )
            headers: tuple[tuple[str, bytes], ...] = ()
            if self.draw.random() < poison:
                value, headers = self.draw.choice(GARBAGE), ((POISON, b"1"),)
            stamp = (T0 + number) * 1000
            self.log.append(EVENTS, user.encode(), value, partition=partition, headers=headers, timestamp_ms=stamp)

    def truncate(self, partition: TopicPartition, before: int) -> None:
        """Let retention delete what lies before an offset."""
        self.log.trim(partition, before)

    # What workers do

    def start(self, number: int) -> Worker:
        """Start an instance as a new process would; an older one of the name is a zombie from now on."""
        settings = self.settings(number)
        kafka = settings.kafka
        parts = Parts(settings, Metrics(self.clock), HealthState(self.clock, 60.0))

        def doors() -> Doors:
            source = MemorySource(self.log, EVENTS, kafka.group, instance=kafka.instance, until_end=True)
            return Doors(source, MemorySink(self.log, kafka.group, instance=kafka.instance), MemoryPast(self.log))

        worker = Worker(settings, parts, self.snapshots(number), self.clock, doors)
        worker.start()
        self.workers[number] = worker
        self.known += [] if number in self.known else [number]
        return worker

    def steps(self, number: int, count: int) -> None:
        """Let an instance do so many steps; each takes some time, and a snapshot that it begins is waited for."""
        worker = self.workers[number]
        for _ in range(count):
            worker.step()
            self.clock.advance(SNAPSHOT_EVERY_S / 4)
            worker._writer.look(wait=True)
            self._read()

    def kill(self, number: int) -> Worker:
        """Let go of an instance: nothing of it is closed."""
        worker = self.workers.pop(number)
        worker._writer._pool.shutdown()
        return worker

    def stop(self, number: int) -> None:
        """SIGTERM: it saves and leaves the group."""
        worker = self.workers.pop(number)
        worker.save()
        worker.close()

    def crash(self, number: int, point: str, nth: int) -> None:
        """Run an instance until it dies at a point, and start it again."""
        with self.fault(point) as fault, bomb(POINTS[point], point, nth):
            fault.struck = self._until(lambda: self.steps(number, 1), Killed)
        if fault.struck:
            self.kill(number)
            self.start(number)

    def crash_in_recovery(self, number: int, point: str, nth: int, times: int) -> None:
        """Kill an instance; its next starts die at a point of their recovery (where there is that much to redo)."""
        with self.fault(f"{point}, {times} times"):
            self.kill(number)
            for _ in range(times):
                with bomb(RECOVERY_POINTS[point], point, nth):
                    try:
                        self.start(number)
                    except Killed:
                        continue
                self.kill(number)
            self.start(number)

    def inject(self, number: int, what: Injected) -> None:
        """Let a commit or a poll go wrong in the log."""
        with self.fault(what.value) as fault:
            self.log.inject(what)
            fenced = self._until(lambda: self.steps(number, 1), Fenced, lambda: not self.log.missed_faults())
            fault.struck = not self.log.missed_faults()
        if fenced:
            self.kill(number)
            self.start(number)

    def expire(self, number: int) -> None:
        """The group gives an instance up, as after a session timeout."""
        with self.fault(f"w{number} expired"):
            instance = f"w{number}"
            member, _ = self.log._group(GROUP).members.get(instance, (-1, ""))
            self.log.leave(GROUP, instance, member)

    def zombie(self, number: int) -> None:
        """A second process of an instance starts; the first one wakes up and must be fenced."""
        with self.fault(f"zombie w{number}") as fault:
            old = self.workers.pop(number)
            self.start(number)
            try:
                old.step()
            except Fenced:
                fault.struck = True
            else:
                fault.struck = False
            old._writer._pool.shutdown()

    def damage(self, number: int, way: str) -> None:
        """Kill an instance, damage its newest snapshot, start it again. One that is whole is left, or none at all."""
        with self.fault(f"snapshot {way}"):
            self.kill(number)
            names = [name for name in self.snapshots(number).names() if name not in self._spoilt]
            if len(names) > 1:
                {"cut": self._cut, "flip": self._flip, "unfinished": self._unfinished, "gone": self._gone}[way](
                    names[-1]
                )
            self.start(number)

    def _cut(self, name: str) -> None:
        file = f"{name}/worker.safetensors"
        self.store.blobs[file] = self.store.blobs[file][:100]
        self._spoilt.add(name)

    def _flip(self, name: str) -> None:
        file = f"{name}/worker.safetensors"
        self.store.blobs[file] = flipped(self.store.blobs[file], self.draw)
        self._spoilt.add(name)

    def _unfinished(self, name: str) -> None:
        self.store.delete(f"{name}/manifest.json")

    def _gone(self, _name: str) -> None:
        self.store.blobs.clear()

    def _until(
        self, do: Callable[[], None], ends: type[BaseException], done: Callable[[], bool] = lambda: False
    ) -> bool:
        """Repeat until it raises `ends` (true), or `done`, or often enough; what is needed to go on is put in."""
        for _ in range(STEPS_AT_MOST):
            self.put(16)
            try:
                do()
            except ends:
                return True
            if done():
                return False
        return False

    # What comes of it

    @contextmanager
    def fault(self, name: str) -> Iterator[Fault]:
        """Note a fault."""
        fault = Fault(name, len(self._answered()), self.clock.monotonic())
        self.faults.append(fault)
        yield fault

    def _answered(self) -> list[Record]:
        return [*self.log.records("predictions"), *self.log.records("dead-letters")]

    def _read(self) -> None:
        """Read what is committed now, as a reader that is always there."""
        for topic in ("predictions", "dead-letters", "journal"):
            for record in self.log.records(topic):
                seen = _seen(record)
                self.live.setdefault(seen.place, seen)

    def drain(self) -> None:
        """Some more events; let all that are there do everything, turn by turn; each saves."""
        self.put(40)
        for _ in range(STEPS_AT_MOST):
            for number in list(self.workers):
                self.steps(number, 1)
            if self._lag() == 0:
                break
        for worker in self.workers.values():
            worker.save()

    def _lag(self) -> int:
        committed = self.log.committed(GROUP)
        return sum(self.log.end(tp) - committed.get(tp, 0) for tp in self.log.partitions(EVENTS))

    def evidence(self, *, stopped_early: bool = False) -> Evidence:
        """What is there in the end, for the checker."""
        for fault in self.faults:
            fault.after = len(self._answered())
        predictions, letters, journal = (
            [_seen(r) for r in self.log.records(topic)] for topic in ("predictions", "dead-letters", "journal")
        )
        answers = [answer_of(seen, "predictions") for seen in predictions]
        answers += [answer_of(seen, "dead_letters") for seen in letters]
        outputs = [tp for topic in OUTPUTS for tp in self.log.partitions(topic)]
        return Evidence(
            {(r.partition, r.offset): _seen(r) for r in self.log.records(EVENTS)},
            answers,
            entries(journal),
            self.log.group,
            {seen.place: seen.value for seen in [*predictions, *letters, *journal]},
            "journal",
            [f"{tp}" for tp in outputs if self.log.stable_end(tp) < self.log.end(tp)],
            list(self.live.values()),
            self.faults,
            stopped_early,
        )

    def verdict(self, *, stopped_early: bool = False, replay: bool = True) -> Verdict:
        """What the checker says."""
        return check(self.evidence(stopped_early=stopped_early), self._compare if replay else None)

    def _compare(self) -> tuple[int, list[str]]:
        compared, problems = 0, []
        for number in self.known:
            try:
                count, differing = compare(self.settings(number), self.snapshots(number), MemoryPast(self.log))
            except TidemillError as error:
                count, differing = 0, [f"w{number}: {type(error).__name__}: {error}"]
            compared += count
            problems += differing
        return compared, problems

    def close(self) -> None:
        """End the threads of all that are there."""
        for number in list(self.workers):
            self.kill(number)


def _seen(record: Record) -> Seen:
    return Seen(record.topic, record.partition, record.offset, record.key, record.value, record.headers)


@contextmanager
def bomb(place: tuple[type, str, Callable[..., bool] | None], point: str, nth: int) -> Iterator[None]:
    """Raise Killed at the `nth` passing of a point."""
    passed = [0]

    def act(_owner: Any) -> None:
        passed[0] += 1
        if passed[0] == nth:
            raise Killed

    undo = intercept(point, *place, act)
    try:
        yield
    finally:
        undo()
