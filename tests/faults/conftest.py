"""The long tests of this folder run only where they are asked for: `pytest -m soak tests/faults`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: takes minutes; only where it is asked for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in config.option.markexpr:
        return
    ours = [item for item in items if item.path.is_relative_to(_HERE) and item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=ours)
    items[:] = [item for item in items if item not in ours]
