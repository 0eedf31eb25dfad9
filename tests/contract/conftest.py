"""Every test of the contract runs in both worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from worlds import KafkaWorld, MemoryWorld, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def make_world(request: pytest.FixtureRequest) -> Iterator[Callable[[int], World]]:
    """make_world(partitions) → an empty world of its own."""
    made: list[World] = []

    def make(partitions: int = 2) -> World:
        if request.param == "memory":
            made.append(MemoryWorld(partitions))
        else:
            broker = request.getfixturevalue("broker")
            made.append(KafkaWorld(broker.bootstrap_servers, partitions))
        return made[-1]

    yield make
    for world in made:
        world.close()
