"""All scenarios by name, in the order in which they run."""

from __future__ import annotations

from tests.faults.scenarios import WORKER_SCENARIOS
from tests.faults.scenarios_broker import BROKER_SCENARIOS
from tests.faults.scenarios_state import STATE_SCENARIOS

SCENARIOS = {scenario.name: scenario for scenario in (*WORKER_SCENARIOS, *BROKER_SCENARIOS, *STATE_SCENARIOS)}
