"""Damaged memory neither speaks nor is saved; the next process goes on from what is on disk."""

from __future__ import annotations

import pytest
from support import Stream, random_events, same_state, small_settings

from consumer.errors import DamagedMemory

NAN = float("nan")


@pytest.fixture
def stream():
    stream = Stream(small_settings())
    stream.put_events(random_events(160))
    for _ in range(5):
        stream.pipeline.step()
    return stream


def damage_the_items(stream):
    stream.parts.model.transformer.table.weight[1, 0] = NAN


def damage_the_network(stream):
    next(iter(stream.parts.model.transformer.network.parameters())).data.view(-1)[0] = NAN


@pytest.mark.parametrize("damage", [damage_the_items, damage_the_network])
def test_a_weight_that_is_no_number_ends_the_process_before_the_commit(stream, damage):
    written = len(stream.bodies())
    damage(stream)
    with pytest.raises(DamagedMemory):
        stream.pipeline.step()
    assert len(stream.bodies()) == written
    assert DamagedMemory.exit_code == 70


@pytest.mark.parametrize("damage", [damage_the_items, damage_the_network])
def test_no_snapshot_is_made_of_it(stream, damage):
    stream.parts.image(0)
    damage(stream)
    with pytest.raises(DamagedMemory, match="no snapshot"):
        stream.parts.image(0)


def test_the_next_process_goes_on_as_if_nothing_had_been(stream):
    whole = Stream(small_settings())
    whole.put_events(random_events(160))
    whole.drain()
    damage_the_items(stream)
    with pytest.raises(DamagedMemory):
        stream.pipeline.step()
    stream.start()
    stream.drain()
    assert same_state(stream.parts.learner.state(), whole.parts.learner.state())
