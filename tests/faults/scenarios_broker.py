"""What is done to the broker and to the way there."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.faults.cluster import BROKER_WAIT_S, KINDS
from tests.faults.hooks import Hook
from tests.faults.proxy import END_TXN, PRODUCE, TXN_OFFSET_COMMIT, proxied_broker
from tests.faults.reader import OFFSETS_TOPIC
from tests.faults.run import Scenario
from tests.faults.three_brokers import three_brokers
from tests.faults.traffic import Shape

if TYPE_CHECKING:
    from tests.faults.run import Run

BROKER_S = 120.0
PAUSE_S, LONG_PAUSE_S = 5.0, 30.0
AWAY_S, LONG_AWAY_S = 20.0, 120.0
MORE_MEMORY_BYTES = 100 << 20
TRANSACTIONS_TOPIC = "__transaction_state"


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
        time.sleep(LONG_PAUSE_S if run.long else PAUSE_S)
        run.broker.resume()
        run.more(50, BROKER_S)


def broker_away(run: Run) -> None:
    """The broker is away for two minutes (short: 20 s): the worker waits, without a storm of restarts or a growing heap."""
    for share in run.shares(run.rounds(1)):
        run.until(share)
        before = run.workers.memory_bytes(0)
        restarts = run.workers.restarts
        with run.fault("broker away"):
            run.broker.kill()
            begin = time.monotonic()
            deadline = begin + (LONG_AWAY_S if run.long else AWAY_S)
            run.wait(lambda until=deadline: time.monotonic() > until, "the time is over", 2 * LONG_AWAY_S)
            after = run.workers.memory_bytes(0)
            run.broker.start()
            away = time.monotonic() - begin
        run.more(50, BROKER_S)
        run.facts.append(f"resident memory {before >> 20} MB before, {after >> 20} MB while the broker was away")
        if run.workers.restarts > restarts + max(1, int(away / BROKER_WAIT_S)):  # each has waited as long as it may
            run.complaints.append(f"{run.workers.restarts - restarts} restarts in an outage of {away:.0f} s")
        if after > before + MORE_MEMORY_BYTES:
            run.complaints.append("memory grows while the broker is away")


def leader_killed(run: Run) -> None:
    """Of three brokers, the one that leads the outputs is killed, and comes back later."""
    brokers = run.broker
    topics = [*map(run.cluster.topic, KINDS), OFFSETS_TOPIC, TRANSACTIONS_TOPIC]
    for share in run.shares(run.rounds(3)):
        brokers.wait_in_sync(topics)
        run.until(share)
        node = brokers.leader(run.cluster.topic("predictions"), 0)
        with run.fault(f"leader {node} killed"):
            brokers.nodes[node].kill()
            run.workers.tend()
        run.more(50, BROKER_S)
        brokers.nodes[node].start()


def replica_lost(run: Run) -> None:
    """A replica is lost, and its topic takes no records until it is back: single records fail, only their futures tell."""
    brokers = run.broker
    topics = [*map(run.cluster.topic, KINDS), OFFSETS_TOPIC, TRANSACTIONS_TOPIC]
    for share in run.shares(run.rounds(1)):
        brokers.wait_in_sync(topics)
        run.until(share)
        node = brokers.leader(run.cluster.topic("predictions"), 0)
        with run.fault(f"replica {node} lost"):
            brokers.nodes[node].kill()
            deadline = time.monotonic() + REPLICA_AWAY_S
            run.wait(lambda until=deadline: time.monotonic() > until, "the time is over")
            brokers.nodes[node].start()
        run.more(50, BROKER_S)


def produce_delayed(run: Run) -> None:
    """Produce requests are held back on the way, for less and for more than the worker waits for an answer."""
    proxy = run.broker.proxy
    run.until(0.1)
    for seconds in (0.5, 3.0, 6.0) * run.times:
        with run.fault(f"produce delayed by {seconds:g} s"):
            proxy.delay(PRODUCE, seconds)
            run.wait(partial(proxy.has_delayed, proxy.delayed + 3), "requests are delayed")
            proxy.delay(PRODUCE, 0.0)
        run.more(50, BROKER_S)


def connections_closed(run: Run) -> None:
    """All connections of all clients are closed at once, again and again."""
    proxy = run.broker.proxy
    for share in run.shares(5 * run.times):
        run.until(share)
        with run.fault("connections closed") as fault:
            fault.struck = proxy.cut() > 0
        run.more(50, BROKER_S)


def input_in_transactions(run: Run) -> None:
    """The input comes in transactions, some of which are aborted: these are no input, and no lag is left behind them."""
    for share in run.shares(3 * run.times):
        run.until(share)
        run.kill(0)
        run.more(50)
    run.wait(lambda: run.traffic.done, "all events written")
    run.wait(run.caught_up, "no lag")


def input_truncated(run: Run) -> None:
    """Retention passes the worker by: it stops with the reason, and begins a new lineage where it may."""
    for share in (0.15, 0.3, 0.45):
        run.until(share)
        run.kill(0, again=False)
        with run.fault("input truncated") as fault:
            for partition, end in run.cluster.ends("events", stable=True).items():
                run.cluster.truncate(partition, end - 20)
            on_truncation(run, "stop")
            run.workers.start(0)
            run.wait(lambda: bool(run.workers.unwanted), "the worker stops")
            fault.struck = run.workers.unwanted.pop() == "w0 ended with 65"
        run.traffic.shape.keep_ahead += run.traffic.sent - run.reader.progress  # these are never answered
        on_truncation(run, "fresh")
        run.workers.start(0)
        run.more(50)
    run.wait(lambda: run.traffic.done, "all events written")
    run.wait(run.caught_up, "no lag")


def on_truncation(run: Run, what: str) -> None:
    """Change the setting of workers that start from now on."""
    run.cluster.sections = {**run.cluster.sections, "recovery": {"on_truncation": what}}


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
    proxy = run.broker.proxy
    run.until(0.1)
    for how in ("silent", "cut") * run.times:
        with run.fault(f"reply {how}") as fault:
            wanted = proxy.dropped + 1
            proxy.drop(api, cut=how == "cut")
            run.wait(partial(proxy.has_dropped, wanted), "a reply is dropped")
            fault.struck = proxy.has_dropped(wanted)
        run.more(100, BROKER_S)


REPLICA_AWAY_S = 12.0
SAFE = {"min.insync.replicas": "2"}
REPLICA_LOST = Scenario(
    "replica-lost",
    replica_lost,
    shape=lambda: Shape(at_least_s=20.0),
    topics={"predictions": SAFE},
    replicas={**dict.fromkeys(KINDS, 3), "predictions": 2},
    broker=three_brokers,
)
BROKER_SCENARIOS = (
    Scenario("broker-restart", broker_restart),
    Scenario("broker-kill", broker_kill),
    Scenario("broker-kill-in-commit", broker_kill_in_commit),
    Scenario("broker-pause-in-commit", broker_pause_in_commit),
    Scenario("broker-away", broker_away),
    Scenario(
        "leader-killed",
        leader_killed,
        shape=lambda: Shape(at_least_s=40.0),
        topics=dict.fromkeys(KINDS, SAFE),
        replicas=dict.fromkeys(KINDS, 3),
        broker=three_brokers,
    ),
    REPLICA_LOST,
    Scenario("input-truncated", input_truncated, shape=lambda: Shape(keep_ahead=200), may_stop=True),
    Scenario("partitions-added", partitions_added),
    Scenario("input-in-transactions", input_in_transactions, shape=lambda: Shape(aborted=0.3)),
    Scenario("end-txn-reply-lost", end_txn_reply_lost, broker=proxied_broker),
    Scenario("offsets-reply-lost", offsets_reply_lost, broker=proxied_broker),
    Scenario("produce-delayed", produce_delayed, broker=proxied_broker),
    Scenario("connections-closed", connections_closed, broker=proxied_broker),
)
