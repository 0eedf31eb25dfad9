"""The door to numba: loops over neighbours and candidates, compiled once and kept on disk.

The compiled code is cached beside the source or, where that folder is read-only, in the user's cache folder (numba
chooses, and obeys NUMBA_CACHE_DIR). Where neither can be written it is compiled anew in every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., object]")

EXACT = {"nnan", "nsz"}
"""No number is NaN. Sums keep their order: the bits must not depend on where in memory an array stands."""
ANY_ORDER = EXACT | {"reassoc", "contract"}
"""Sums may be taken in any order, for inner loops that only read: those are compiled in one way, whatever the arrays.

A loop that also writes is compiled in two ways, and where its arrays stand in memory decides which one runs.
"""


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays at its first call."""
    return _compiled(function, EXACT)


def compiled_products(function: Function) -> Function:
    """Compile a function whose inner loops are products of vectors, for the processor's vector units."""
    return _compiled(function, ANY_ORDER)


def _compiled(function: Function, fastmath: set[str]) -> Function:
    try:
        return cast("Function", numba.njit(function, cache=True, fastmath=fastmath, error_model="numpy"))
    except RuntimeError:  # numba found no folder to keep the compiled code in
        return cast("Function", numba.njit(function, cache=False, fastmath=fastmath, error_model="numpy"))
