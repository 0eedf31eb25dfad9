"""One flipped bit, where it does the most harm: in the weights, where nothing but a hash can see it."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

WEIGHTS = "learner.model.transformer.table.weight"


def flipped(data: bytes, draw: random.Random, tensor: str = WEIGHTS) -> bytes:
    """Return a safetensors file with one bit of the fraction of one float of a tensor flipped."""
    (length,) = struct.unpack_from("<Q", data)
    begin, end = json.loads(data[8 : 8 + length])[tensor]["data_offsets"]
    at = 8 + length + begin + 4 * draw.randrange(4, (end - begin) // 4) + 2  # beyond the row of unknown items
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(4, 7)]) + data[at + 1 :]
