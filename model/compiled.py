"""The door to numba: loops over neighbours and candidates, compiled once and kept on disk.

The compiled code is cached beside the source or, where that folder is read-only, in the user's cache folder (numba
chooses, and obeys NUMBA_CACHE_DIR). Where neither can be written it is compiled anew in every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

FAST = {"nnan", "nsz", "arcp", "contract", "afn", "reassoc"}
"""Sums may be taken in any order, so that they use the processor's vector units. Infinities keep their meaning."""

Function = TypeVar("Function", bound="Callable[..., object]")


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays at its first call."""
    try:
        return cast("Function", numba.njit(function, cache=True, fastmath=FAST))
    except RuntimeError:  # numba found no folder to keep the compiled code in
        return cast("Function", numba.njit(function, cache=False, fastmath=FAST))
