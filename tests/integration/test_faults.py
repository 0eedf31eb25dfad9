"""Six short scenarios of the fault checker on a broker of their own; `python -m tests.faults` has all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.broker import LocalBroker
from tests.faults.catalogue import SHORT
from tests.faults.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def own_broker() -> Iterator[LocalBroker]:
    """A broker that may be killed: not the one that all tests share."""
    with LocalBroker() as broker:
        yield broker


@pytest.mark.timeout(300)  # the first one loads the libraries of all workers; the rest wait for sessions to expire
@pytest.mark.parametrize("scenario", SHORT, ids=[scenario.name for scenario in SHORT])
def test_nothing_is_lost_or_done_twice(own_broker: LocalBroker, scenario) -> None:
    verdict = run_scenario(scenario, own_broker, seed=1)
    assert verdict.ok, "\n".join(verdict.lines())
