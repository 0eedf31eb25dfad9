"""Every fault that the log in memory can play, judged by the checker that judges real runs; and sequences of them."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.errors import InputTruncated, TidemillError, TooManyBadEvents
from consumer.memory_io import Fault
from tests.faults.memory_stage import POINTS, RECOVERY_POINTS, MemoryStage
from tests.faults.mutants import MUTANTS

WAYS = ("cut", "flip", "unfinished", "gone")


@contextmanager
def staged(**wanted):
    """A stage with one worker that has done a little."""
    stage = MemoryStage(**wanted)
    try:
        stage.put(40)
        stage.start(0)
        stage.steps(0, 2)
        yield stage
    finally:
        stage.close()


def assert_well(stage, **how):
    verdict = stage.verdict(**how)
    assert verdict.ok, "\n".join(verdict.lines())


def test_kills_at_every_point_one_after_the_other():
    with staged(seed=1) as stage:
        for point in POINTS:
            stage.crash(0, point, 2)
        stage.drain()
        assert_well(stage)


def test_recoveries_that_die_themselves():
    with staged(seed=2) as stage:
        for point, times in product(RECOVERY_POINTS, (1, 3)):
            stage.put(32)
            stage.steps(0, 2)
            stage.crash_in_recovery(0, point, 2, times)
        stage.drain()
        assert_well(stage)


def test_all_that_a_broker_can_say():
    with staged(seed=3) as stage:
        for fault in (*Fault, *Fault):
            stage.inject(0, fault)
        stage.drain()
        assert_well(stage)


def test_damaged_snapshots():
    with staged(seed=4) as stage:
        for way in WAYS:
            stage.put(128)
            stage.steps(0, 9)
            stage.damage(0, way)
        stage.drain()
        assert_well(stage)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3])
def test_poison(share):
    with staged(seed=5) as stage:
        stage.put(60, poison=share)
        stage.crash(0, "before_learn", 2)
        stage.put(30, poison=share)
        stage.drain()
        assert_well(stage)


def test_nothing_but_poison_stops_it_and_commits_nothing_of_that():
    with staged(seed=6, input={"max_bad_run": 30}) as stage:
        with stage.fault("poison"):
            stage.put(100, poison=1.0)
            with pytest.raises(TooManyBadEvents):
                stage.steps(0, 40)
        stage.workers[0].save()
        assert_well(stage, stopped_early=True)


def test_input_truncated_before_it_was_redone():
    sections = {"recovery": {"journal_keep": "all", "on_truncation": "stop"}}
    with staged(seed=7, partitions=1, **sections) as stage:
        stage.put(100)
        stage.steps(0, 2)
        (events,) = stage.log.partitions("events")
        stage.kill(0)
        with stage.fault("truncated"):
            stage.truncate(events, stage.log.committed("tidemill")[events] - 8)
            with pytest.raises(InputTruncated):
                stage.start(0)
            stage._sections["recovery"] = {"journal_keep": "all", "on_truncation": "earliest"}
            stage.start(0)
        stage.drain()
        assert_well(stage, replay=False)


def test_partitions_that_move_between_two_workers():
    with staged(seed=8, partitions=4) as stage:
        for _ in range(3):
            join(stage)
            both(stage, 2)
            leave(stage)
        join(stage)
        stage.drain()
        assert_well(stage)


def test_a_zombie_is_fenced():
    with staged(seed=9, partitions=4) as stage:
        join(stage)
        for number in (0, 1, 0):
            stage.put(32)
            both(stage, 1)
            stage.zombie(number)
        stage.drain()
        assert_well(stage)


def join(stage):
    stage.put(40)
    with stage.fault("w1 joins"):
        if 1 not in stage.workers:
            stage.start(1)
    both(stage, 1)


def leave(stage):
    with stage.fault("w1 leaves"):
        if 1 in stage.workers:
            stage.stop(1)
    stage.put(40)
    both(stage, 1)


def both(stage, count):
    for _ in range(count):
        for number in list(stage.workers):
            stage.steps(number, 1)


def restart(stage, number):
    with stage.fault(f"kill w{number}"):
        stage.kill(number)
        stage.start(number)


def clean_restart(stage, number):
    with stage.fault(f"SIGTERM w{number}"):
        stage.stop(number)
        stage.start(number)


def anyone(do):
    """A fault that strikes whichever worker is there."""
    return lambda which: lambda stage: do(stage, sorted(stage.workers)[which % len(stage.workers)])


WHICH = st.integers(0, 1)
COMMON = st.one_of(
    st.builds(lambda count, share: lambda stage: stage.put(count, poison=share), st.integers(1, 80), st.just(0.1)),
    st.builds(lambda count: lambda stage: both(stage, count), st.integers(1, 5)),
    WHICH.map(anyone(restart)),
    WHICH.map(anyone(clean_restart)),
    st.builds(
        lambda w, p, n: anyone(lambda s, i: s.crash(i, p, n))(w),
        WHICH,
        st.sampled_from(list(POINTS)),
        st.integers(1, 3),
    ),
    st.builds(lambda w, f: anyone(lambda s, i: s.inject(i, f))(w), WHICH, st.sampled_from(list(Fault))),
    st.builds(
        lambda w, p, n, t: anyone(lambda s, i: s.crash_in_recovery(i, p, n, t))(w),
        WHICH,
        st.sampled_from(list(RECOVERY_POINTS)),
        st.integers(1, 3),
        st.integers(1, 3),
    ),
    WHICH.map(anyone(MemoryStage.zombie)),
)
ALONE = st.one_of(COMMON, st.builds(lambda way: lambda s: s.damage(0, way), st.sampled_from(WAYS)))
TOGETHER = st.one_of(COMMON, st.just(join), st.just(leave), WHICH.map(anyone(MemoryStage.expire)))
BOUNDED = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@BOUNDED
@given(st.lists(ALONE, min_size=2, max_size=6), st.integers(0, 2**16))
def test_any_sequence_of_faults(faults, seed):
    with staged(seed=seed) as stage:
        for fault in faults:
            fault(stage)
        stage.drain()
        assert_well(stage)


@BOUNDED
@given(st.lists(TOGETHER, min_size=2, max_size=6), st.integers(0, 2**16))
def test_any_sequence_of_faults_with_partitions_that_move(faults, seed):
    with staged(seed=seed, partitions=4) as stage:
        for fault in faults:
            fault(stage)
        stage.drain()
        assert_well(stage)


@pytest.mark.parametrize(
    ("mutant", "do", "wanted"),
    [
        ("no_redo", lambda stage: stage.crash(0, "before_learn", 2), "state≠replay"),
        ("no_journal", lambda stage: stage.steps(0, 2), "torn"),
        ("keep_before_commit", lambda stage: stage.inject(0, Fault.ABORT), "lost"),
        ("no_hash_check", lambda stage: stage.damage(0, "flip"), "state≠replay"),
    ],
)
def test_the_checker_goes_red(mutant, do, wanted):
    undo = MUTANTS[mutant]()
    try:
        with staged(seed=10) as stage:
            stage.put(130)
            stage.steps(0, 9)
            with suppress(TidemillError):  # some end the worker, which is as good
                do(stage)
                stage.drain()
            verdict = stage.verdict()
            assert verdict.counts[wanted], "\n".join(verdict.lines())
    finally:
        undo()
