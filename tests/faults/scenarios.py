"""The scenarios: what is done to the workers. Those on broker and state are in files of their own."""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from tests.faults.hooks import Hook
from tests.faults.run import Scenario
from tests.faults.traffic import Shape

if TYPE_CHECKING:
    from tests.faults.run import Run

KILL_POINTS = (
    ("before_flush", 12),
    ("after_flush", 9),
    ("after_offsets", 11),
    ("before_learn", 10),
    ("after_snapshot_file", 3),
    ("before_manifest", 2),
    ("before_redo", 1),
)
"""Where a worker dies, and at which passing: one after the other, each in the process that follows the last."""


def kill_at_random(run: Run) -> None:
    """Kill -9 at random moments, again and again."""
    seconds = []
    for share in run.shares(run.rounds(4)):
        run.until(share)
        at = time.monotonic()
        run.kill(0)
        run.more(1)
        seconds.append(run.back_after(at, "w0") or 0.0)
    run.say_times(seconds, "kill -9 to the first new prediction that is committed")


def kill_at_points(run: Run) -> None:
    """Kill -9 between the steps of the protocol."""
    run.until(0.1)
    run.kill(0, again=False)
    count = 0
    for _ in range(run.times):
        for point, nth in KILL_POINTS:
            count += 1
            process = run.workers.start(0, hooks=[Hook(point, nth)])
            run.hit(process, point, count=count)
            run.workers.running.pop(0, None)
    run.workers.start(0)
    run.more(10)


def kill_before_learning(run: Run) -> None:
    """Kill -9 after the commit, before anything of it is learned: the journal alone knows."""
    run.until(0.1)
    run.kill(0, again=False)
    for count in range(1, run.rounds(3) + 1):
        process = run.workers.start(0, hooks=[Hook("after_commit" if count % 2 else "before_learn", 7)])
        run.hit(process, "after_commit" if count % 2 else "before_learn", count=count)
        run.workers.running.pop(0, None)
    run.workers.start(0)
    run.more(10)


def sigterm(run: Run) -> None:
    """SIGTERM in a batch, and once more while it stops: it ends with 0 and a snapshot."""
    for share in run.shares(3 * run.times):
        run.until(share)
        process = run.workers.running.pop(0)
        with run.fault("SIGTERM twice") as fault:
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGTERM)
            fault.struck = process.wait() == 0
        run.workers.start(0)
        run.more(10)


def zombie(run: Run) -> None:
    """A worker sleeps past its session, another takes its partitions over, then it wakes up."""
    for turn, share in enumerate(run.shares(run.rounds(2))):
        run.until(share)
        number = turn % 2
        sleeper = run.workers.running[number]
        with run.fault(f"SIGSTOP w{number} past its session") as fault:
            recoveries = run.recoveries(number)
            sleeper.signal(signal.SIGSTOP)
            time.sleep(7.5)
            sleeper.signal(signal.SIGCONT)
            run.wait(partial(run.has_recovered, number, recoveries + 1), "the zombie notices")
            fault.struck = sleeper.code is None
        run.more(50)


def zombie_in_transaction(run: Run) -> None:
    """A worker sleeps in the middle of a transaction until the broker has ended that; then it wakes up."""
    run.until(0.1)
    for count, point in enumerate(("after_flush", "after_offsets", "before_flush") * run.times, 1):
        run.kill(0, again=False)
        process = run.workers.start(0, hooks=[Hook(point, 8, "STOP")])
        run.hit(process, point, count=count, code=None)
        time.sleep(6.0)
        process.signal(signal.SIGCONT)
        run.more(50)


def twins(run: Run) -> None:
    """A second process with the same identity: one of the two is fenced and ends.

    As a rule the older one; where the fence meets a commit whose outcome it cannot know, it recovers and fences the newer.
    """
    survivors = Counter[str]()
    for share in run.shares(3 * run.times):
        run.until(share)
        older = run.workers.running[0]
        with run.fault("a twin") as fault:
            newer = run.workers.start(0)
            run.wait(lambda pair=(older, newer): any(one.code is not None for one in pair), "one ends", tend=False)
            left = newer if newer.code is None else older
            run.workers.running[0] = left
            fault.struck = left.code is None and {older.code, newer.code} & {70, 75} != set()
        survivors["older" if left is older else "newer"] += 1
        run.more(50)
    run.facts.append(f"who went on: {dict(survivors)}")


def join_and_leave(run: Run) -> None:
    """Workers join and leave all the time; the partitions and what is known of their users move with them."""
    for round_, share in enumerate(run.shares(run.rounds(3))):
        run.until(share)
        number = 1 + round_ % 3
        if number in run.workers.running:
            with run.fault(f"w{number} leaves") as fault:
                fault.struck = run.workers.stop(number) == 0
        else:
            with run.fault(f"w{number} joins"):
                run.workers.start(number)
        run.more(50)
    with run.fault("w1 leaves") as fault:
        fault.struck = run.workers.stop(1) == 0
    run.more(20)


def rolling_restart(run: Run) -> None:
    """Three static members are restarted one after the other: the group must not rebalance."""
    run.until(0.2)
    before = run.generation()
    for number in (0, 1, 2) * (3 if run.long else 1):
        with run.fault(f"restart of w{number}") as fault:
            fault.struck = run.workers.stop(number) == 0
            run.workers.start(number)
            run.more(200)
    after = run.generation()
    run.facts.append(f"generation {before} before, {after} after")
    if before != after:
        run.complaints.append(f"the generation changed from {before} to {after}")


WORKER_SCENARIOS = (
    Scenario("kill", kill_at_random),
    Scenario("kill-points", kill_at_points, events=4000, shape=lambda: Shape(at_least_s=25.0)),
    Scenario("kill-before-learning", kill_before_learning),
    Scenario("sigterm", sigterm),
    Scenario("zombie", zombie, partitions=4, workers=2, shape=lambda: Shape(at_least_s=26.0)),
    Scenario("zombie-transaction", zombie_in_transaction, sections={"kafka": {"transaction_timeout_ms": 3000}}),
    Scenario("twins", twins, shape=lambda: Shape(at_least_s=10.0)),
    Scenario("join-leave", join_and_leave, partitions=8, events=4000, shape=lambda: Shape(at_least_s=26.0)),
    Scenario(
        "rolling-restart",
        rolling_restart,
        partitions=6,
        workers=3,
        events=4000,
        sections={"kafka": {"session_timeout_ms": 30_000}},  # a start takes long on a machine that has other work
    ),
)
