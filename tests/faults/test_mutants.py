"""The checker against mutants: workers in which one rule of the protocol is switched off. It must say so.

Not part of the default run (`pytest -m soak tests/faults`): each takes up to a minute.
"""

from __future__ import annotations

import pytest

from tests.faults.hooks import Hook
from tests.faults.run import Run, Scenario, run_scenario
from tests.faults.scenarios import kill_before_learning
from tests.faults.scenarios_broker import REPLICA_LOST
from tests.faults.scenarios_state import flip

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

TRIES = {"unchecked_futures": 4}
"""Runs until a mutant must have been seen: whether single records fail, and the transaction not, is a matter of timing."""


def known_abort(run: Run) -> None:
    """The broker refuses a transaction clearly: the same records are read again by the same process."""
    run.until(0.2)
    run.kill(0, again=False)
    process = run.workers.start(0, hooks=[Hook("before_check", 6, "ABORT")])
    run.hit_alive(process, "before_check")
    run.more(200, 20.0)


def kill_between(run: Run) -> None:
    """Kill -9 between outputs and offsets, where these are no longer one transaction."""
    run.until(0.2)
    run.kill(0, again=False)
    process = run.workers.start(0, hooks=[Hook("before_offsets_outside", 6)])
    run.hit(process, "before_offsets_outside", count=1)
    run.workers.running.pop(0)
    run.workers.start(0)
    run.more(50, 20.0)


def flipped_bit(run: Run) -> None:
    """One bit of the newest snapshot flips, in the weights."""
    run.until(0.4)
    run.wait(lambda: len(run.snapshots(0)) >= 2, "two snapshots")
    run.kill(0, again=False)
    flip(run.snapshots(0)[-1] / "worker.safetensors", run.draw)
    run.workers.start(0)
    run.more(50, 20.0)


SHORT = {"events": 2000}
RED = (
    ("unchecked_futures", REPLICA_LOST, {"lost", "torn"}),
    ("offsets_outside", Scenario("kill-between", kill_between, **SHORT), {"torn", "lost"}),
    ("no_redo", Scenario("no-redo", kill_before_learning, **SHORT), {"state≠replay"}),
    (
        "no_hash_check",
        Scenario("flipped-bit", flipped_bit, sections={"snapshot": {"every_s": 0.3}}, **SHORT),
        {"state≠replay"},
    ),
    ("keep_before_commit", Scenario("known-abort", known_abort, **SHORT), {"lost", "state≠replay"}),
    ("no_journal", Scenario("no-journal", kill_before_learning, **SHORT), {"torn", "state≠replay"}),
)
"""Mutant, scenario, and the invariants of which at least one must be broken."""
GREEN = tuple(scenario for mutant, scenario, _ in RED if mutant in {"no_hash_check", "keep_before_commit"})
"""The scenarios that are not among the others, with nothing switched off."""


@pytest.mark.parametrize(("mutant", "scenario", "wanted"), RED, ids=[mutant for mutant, *_ in RED])
def test_the_checker_goes_red(mutant, scenario, wanted):
    seen = []
    for seed in range(3, 3 + TRIES.get(mutant, 1)):
        with scenario.broker() as broker:
            verdict = run_scenario(scenario, broker, seed=seed, mutant=mutant)
        seen += verdict.lines()
        if wanted & {name for name, count in verdict.counts.items() if count}:
            return
    pytest.fail("\n".join(seen))


@pytest.mark.parametrize("scenario", GREEN, ids=[scenario.name for scenario in GREEN])
def test_the_checker_stays_green_without_the_mutant(scenario):
    with scenario.broker() as broker:
        verdict = run_scenario(scenario, broker, seed=3)
    assert verdict.ok, "\n".join(verdict.lines())
