"""`loading`: no collections while it goes on, and none of what it brought afterwards."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from consumer.loading import loading

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _enabled_again() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


def _collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def _many_objects() -> list[list[int]]:
    return [[number] for number in range(20_000)]


def test_nothing_is_collected_while_it_goes_on() -> None:
    gc.enable()
    with loading():
        before = _collections()
        kept = _many_objects()
        assert _collections() == before
    assert len(kept) == 20_000


def test_afterwards_it_collects_again_but_not_what_was_loaded() -> None:
    gc.enable()
    with loading():
        kept = _many_objects()
    assert gc.isenabled()
    assert not any(one is kept for one in gc.get_objects())  # which leaves out what is frozen
    before = _collections()
    more = _many_objects()
    assert _collections() > before
    assert len(more) == len(kept)


def test_who_switched_it_off_finds_it_off() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()


def test_after_a_library_that_is_missing_it_collects_again() -> None:
    gc.enable()
    with pytest.raises(ModuleNotFoundError), loading():
        raise ModuleNotFoundError("torch")
    assert gc.isenabled()
