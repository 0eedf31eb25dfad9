"""What every sink does alike: the partition a key goes to, and how it reports an output that is too large."""

from __future__ import annotations

from functools import lru_cache

from consumer.errors import Aborted

_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


class OutputTooLarge(Aborted):
    """The transaction was aborted because output number `index` is larger than its topic allows.

    The same outputs would be refused again: replace that one before the next attempt.
    """

    def __init__(self, index: int, size: int) -> None:
        super().__init__(f"output {index} of {size} bytes is larger than its topic allows")
        self.index = index
        self.size = size


def murmur2(data: bytes) -> int:
    """Return the 32-bit MurmurHash2 of `data` with the seed that Kafka clients use."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _MULTIPLIER & _MASK
        k = (k ^ k >> 24) * _MULTIPLIER & _MASK
        h = h * _MULTIPLIER & _MASK ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    h = (h ^ h >> 13) * _MULTIPLIER & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=1 << 16)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that every Kafka client's default partitioner gives to `key`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
