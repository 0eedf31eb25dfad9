"""The checker of faults must be able to fail: what a run left behind is tampered with, one invariant at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from tests.faults import hooks, memory_stage
from tests.faults.checker import INVARIANTS, check
from tests.faults.disturbances import DISTURBANCES, disturbed
from tests.faults.evidence import Evidence, Fault
from tests.faults.memory_stage import MemoryStage
from tests.faults.mutants import MUTANTS
from tests.faults.reader import Commit, GroupLog


@pytest.fixture(scope="module")
def sound():
    stage = MemoryStage(seed=1)
    try:
        stage.put(120, poison=0.1)
        stage.start(0)
        stage.steps(0, 2)
        with stage.fault("kill"):
            stage.kill(0)
            stage.start(0)
        stage.drain()
        return stage.evidence()
    finally:
        stage.close()


def an_answer_is_missing(evidence: Evidence) -> None:
    evidence.answers = [answer for answer in evidence.answers if answer.kind != "dead_letters"]


def a_dead_letter_comes_twice(evidence: Evidence) -> None:
    evidence.answers.append(next(answer for answer in evidence.answers if answer.kind == "dead_letters"))


def a_prediction_has_another_key(evidence: Evidence) -> None:
    evidence.answers[0] = replace(evidence.answers[0], key=b"another")


def a_poison_is_predicted_for(evidence: Evidence) -> None:
    at = next(index for index, answer in enumerate(evidence.answers) if answer.kind == "dead_letters")
    evidence.answers[at] = replace(evidence.answers[at], kind="predictions")


def a_journal_entry_is_missing(evidence: Evidence) -> None:
    evidence.journal["w0"].pop(1)


def an_offset_is_not_committed(evidence: Evidence) -> None:
    evidence.group.commits.pop()


def an_offset_is_not_journalled(evidence: Evidence) -> None:
    evidence.group.commits.append(Commit(0, 10_000))


def a_record_was_seen_that_is_not_committed(evidence: Evidence) -> None:
    evidence.live.append(evidence.live[0]._replace(offset=10_000))


def a_record_was_seen_with_another_value(evidence: Evidence) -> None:
    evidence.live.append(evidence.live[0]._replace(value=b"{}"))


def an_answer_to_no_input(evidence: Evidence) -> None:
    evidence.answers.append(replace(evidence.answers[0], source=(0, 10_000)))


def two_predictions_change_places(evidence: Evidence) -> None:
    first = evidence.answers[0]
    later = next(a for a in evidence.answers[1:] if a.key == first.key and a.kind == "predictions")
    places = first.seen, later.seen
    evidence.answers[0] = replace(first, seen=places[1])
    evidence.answers[evidence.answers.index(later)] = replace(later, seen=places[0])


def a_transaction_is_open(evidence: Evidence) -> None:
    evidence.unstable.append("journal-0")


def an_offset_goes_back(evidence: Evidence) -> None:
    evidence.group.commits.append(evidence.group.commits[0])


def a_fault_comes_too_late(evidence: Evidence) -> None:
    evidence.faults.append(Fault("late", before=len(evidence.answers), at=0.0, after=len(evidence.answers)))


def a_fault_comes_too_early(evidence: Evidence) -> None:
    evidence.faults.append(Fault("early", before=0, at=0.0, after=len(evidence.answers)))


def a_fault_does_not_strike(evidence: Evidence) -> None:
    evidence.faults.append(Fault("in vain", before=1, at=0.0, after=2, struck=False))


def test_what_is_sound_passes(sound):
    verdict = check(sound, lambda: (1, []))
    assert verdict.ok
    assert verdict.counted == " ".join(f"{name} 0" for name in INVARIANTS)
    assert verdict.lines()[: len(INVARIANTS)] == [f"{name} 0" for name in INVARIANTS]


@pytest.mark.parametrize(
    ("tamper", "wanted"),
    [
        (an_answer_is_missing, "lost"),
        (a_prediction_has_another_key, "lost"),
        (a_poison_is_predicted_for, "lost"),
        (a_dead_letter_comes_twice, "duplicate"),
        (a_journal_entry_is_missing, "torn"),
        (an_offset_is_not_committed, "torn"),
        (an_offset_is_not_journalled, "torn"),
        (a_record_was_seen_that_is_not_committed, "aborted-read"),
        (a_record_was_seen_with_another_value, "aborted-read"),
        (an_answer_to_no_input, "aborted-read"),
        (two_predictions_change_places, "order"),
        (a_transaction_is_open, "open-transaction"),
        (an_offset_goes_back, "offset-regression"),
        (a_fault_comes_too_late, "fault-missed"),
        (a_fault_comes_too_early, "fault-missed"),
        (a_fault_does_not_strike, "fault-missed"),
    ],
)
def test_each_invariant_can_break(sound, tamper, wanted):
    evidence = copy.deepcopy(sound)
    tamper(evidence)
    verdict = check(evidence)
    assert verdict.counts[wanted] > 0
    assert not verdict.ok


def test_a_state_that_differs_is_told():
    verdict = check(Evidence({}, [], {}, GroupLog(), {}, "journal"), lambda: (2, ["w0@3 worker: values differ"]))
    assert verdict.counts["state≠replay"] == 1


@pytest.mark.parametrize("points", [hooks.POINTS, memory_stage.POINTS, memory_stage.RECOVERY_POINTS])
def test_every_point_is_a_method_that_exists(points):
    assert all(callable(getattr(owner, name)) for owner, name, _ in points.values())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_can_be_taken_back(mutant):
    before = [getattr(owner, name) for owner, name, _ in hooks.POINTS.values()]
    MUTANTS[mutant]()()
    assert [getattr(owner, name) for owner, name, _ in hooks.POINTS.values()] == before


@pytest.mark.parametrize("name", ["", *DISTURBANCES])
def test_a_disturbance_ends(name):
    from consumer.clock import SystemClock
    from model.transformer import Transformer

    before = SystemClock.now, Transformer._apply
    with disturbed(name):
        changed = (SystemClock.now, Transformer._apply) != before
    assert (SystemClock.now, Transformer._apply) == before
    assert changed == (name in {"clock_jumps", "nan_gradients"})
