"""Loading libraries without the garbage collector."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def loading() -> Iterator[None]:
    """Load what stays for as long as the process lives.

    Modules, classes and functions are a million objects, and hardly any becomes garbage: a collector that looks through
    them again and again takes a third of the time of importing. What has been loaded it never looks at again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
