"""State of a part of the worker as named arrays and JSON values: what a snapshot holds, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = npt.NDArray[Any]


@dataclass(slots=True)
class State:
    """Named arrays (any shape, numeric or bool) and JSON-able values."""

    arrays: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, part: State) -> None:
        """Store the state of a part under `name`."""
        self.arrays.update({f"{name}.{key}": array for key, array in part.arrays.items()})
        self.values[name] = part.values

    def take(self, name: str) -> State:
        """Return the state of the part stored under `name`; KeyError when there is none."""
        prefix = f"{name}."
        arrays = {key.removeprefix(prefix): array for key, array in self.arrays.items() if key.startswith(prefix)}
        return State(arrays, self.values[name])


def same(left: Mapping[str, Array], right: Mapping[str, Array]) -> bool:
    """Whether two sets of arrays hold the same names, types, shapes and bytes."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )
