"""What all test folders share: a real broker, started only when a test asks for it, one for the whole session."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from consumer.errors import BrokerUnavailable
from deploy.any_broker import BrokerHandle, any_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

_USED = pytest.StashKey[BrokerHandle]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    handle = config.stash.get(_USED, None)
    if handle is not None:
        terminalreporter.write_line(f"integration tests used a {handle.kind} broker at {handle.bootstrap_servers}")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerHandle]:
    """A broker that others may use at the same time: take unique names."""
    with ExitStack() as opened:
        try:
            handle = opened.enter_context(any_broker())
        except BrokerUnavailable as error:
            if os.environ.get("TIDEMILL_REQUIRE_BROKER"):
                raise
            pytest.skip(f"no broker: {error}")
        request.config.stash[_USED] = handle
        yield handle


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """Let the collector see again what a command that a test ran has frozen as loaded for good."""
    yield
    gc.unfreeze()
