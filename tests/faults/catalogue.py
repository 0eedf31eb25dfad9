"""All scenarios by name, in the order in which they run."""

from __future__ import annotations

from tests.faults.scenarios import WORKER_SCENARIOS

SCENARIOS = {scenario.name: scenario for scenario in (*WORKER_SCENARIOS,)}
