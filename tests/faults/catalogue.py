"""All scenarios by name, in the order in which they run, and the short ones of the default test run."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.scenarios import WORKER_SCENARIOS
from tests.faults.scenarios_broker import BROKER_SCENARIOS
from tests.faults.scenarios_state import STATE_SCENARIOS
from tests.faults.traffic import Shape

SCENARIOS = {scenario.name: scenario for scenario in (*WORKER_SCENARIOS, *BROKER_SCENARIOS, *STATE_SCENARIOS)}

SHORT = (
    replace(SCENARIOS["kill"], events=1500, rounds=3),
    replace(SCENARIOS["kill-before-learning"], events=1500),
    replace(SCENARIOS["poison"], events=1500),
    replace(SCENARIOS["zombie"], events=1500, rounds=1, shape=lambda: Shape(at_least_s=12.0)),
    replace(SCENARIOS["join-leave"], events=1500, rounds=2, shape=lambda: Shape(at_least_s=12.0)),
    replace(SCENARIOS["broker-kill"], events=1500, rounds=1),
)
"""The last one kills the broker that they share."""
