"""What all test folders share: a real broker, started only when a test asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.any_broker import BrokerHandle, any_broker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerHandle]:
    """A broker that others may use at the same time: take unique names."""
    with any_broker() as handle:
        yield handle
