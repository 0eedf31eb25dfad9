"""What is done to the broker and to the way there."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.faults.hooks import Hook
from tests.faults.proxy import END_TXN, TXN_OFFSET_COMMIT, proxied_broker
from tests.faults.run import Scenario

if TYPE_CHECKING:
    from tests.faults.run import Run

BROKER_S = 120.0


def broker_restart(run: Run) -> None:
    """The broker is ended in order and started again, under load."""
    for share in run.shares(2 * run.times):
        run.until(share)
        with run.fault("broker SIGTERM"):
            run.broker.stop()
            run.workers.tend()
            run.broker.start()
        run.more(50, BROKER_S)


def broker_kill(run: Run) -> None:
    """The broker is killed under load: commits of unknown outcome."""
    seconds = []
    for share in run.shares(run.rounds(2)):
        run.until(share)
        with run.fault("broker kill -9"):
            run.broker.kill()
            run.workers.tend()
            run.broker.start()
        at = time.monotonic()
        run.more(50, BROKER_S)
        seconds.append(run.back_after(at, "w0") or 0.0)
    run.say_times(seconds, "broker back to the first new prediction")


def broker_kill_in_commit(run: Run) -> None:
    """The broker is killed at the very moment when the worker sends its offsets, or its commit."""
    run.until(0.1)
    for count, point in enumerate(("before_commit", "before_flush", "after_offsets")[: 2 + run.long] * run.times, 1):
        run.kill(0, again=False)
        process = run.workers.start(0, hooks=[Hook(point, 8, "KILL", run.broker.pid)])
        run.hit(process, point, count=count, code=None)
        run.broker.kill()  # it is dead already: this takes note of it
        run.broker.start()
        run.more(50, BROKER_S)


def broker_pause_in_commit(run: Run) -> None:
    """The broker freezes at the very moment of a commit, for longer than a request may take."""
    run.until(0.1)
    for count, point in enumerate(("before_commit", "after_flush") * run.times, 1):
        run.kill(0, again=False)
        process = run.workers.start(0, hooks=[Hook(point, 8, "STOP", run.broker.pid)])
        run.hit(process, point, count=count, code=None)
        time.sleep(5.0)
        run.broker.resume()
        run.more(50, BROKER_S)


def input_truncated(run: Run) -> None:
    """Retention passes the worker by: it stops with the reason, and begins a new lineage without those events where it may."""
    run.until(0.3)
    run.kill(0, again=False)
    with run.fault("input truncated") as fault:
        ends = run.cluster.ends("events", stable=True)
        for partition, end in ends.items():
            run.cluster.truncate(partition, end - 20)
        run.workers.start(0)
        run.wait(lambda: bool(run.workers.unwanted), "the worker stops")
        fault.struck = run.workers.unwanted.pop() == "w0 ended with 65"
    run.traffic.free.set()
    run.cluster.sections = {**run.cluster.sections, "recovery": {"on_truncation": "fresh"}}
    run.workers.start(0)
    run.wait(lambda: run.traffic.done, "all events written")
    run.wait(lambda: run.lag() == 0, "no lag")


def partitions_added(run: Run) -> None:
    """The input topic gets more partitions while it is read."""
    for count, share in zip((4, 5), run.shares(2), strict=True):
        run.until(share)
        with run.fault(f"{count} partitions"):
            run.cluster.add_partitions(count)
            run.traffic.add_partitions(count)
        run.more(50)


def end_txn_reply_lost(run: Run) -> None:
    """The broker's answer to EndTxn is lost on the way: the commit has happened and nobody says so."""
    _replies_lost(run, END_TXN)


def offsets_reply_lost(run: Run) -> None:
    """The broker's answer to TxnOffsetCommit is lost on the way."""
    _replies_lost(run, TXN_OFFSET_COMMIT)


def _replies_lost(run: Run, api: int) -> None:
    proxy = run.broker.proxy  # type: ignore[attr-defined]
    run.until(0.1)
    for how in ("silent", "cut") * run.times:
        with run.fault(f"reply {how}") as fault:
            wanted = proxy.dropped + 1
            proxy.drop(api, cut=how == "cut")
            run.wait(partial(proxy.has_dropped, wanted), "a reply is dropped")
            fault.struck = proxy.has_dropped(wanted)
        run.more(100, BROKER_S)


BROKER_SCENARIOS = (
    Scenario("broker-restart", broker_restart),
    Scenario("broker-kill", broker_kill),
    Scenario("broker-kill-in-commit", broker_kill_in_commit),
    Scenario("broker-pause-in-commit", broker_pause_in_commit),
    Scenario("input-truncated", input_truncated, may_stop=True),
    Scenario("partitions-added", partitions_added),
    Scenario("end-txn-reply-lost", end_txn_reply_lost, broker=proxied_broker),
    Scenario("offsets-reply-lost", offsets_reply_lost, broker=proxied_broker),
)
