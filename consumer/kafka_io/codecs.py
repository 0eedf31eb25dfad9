"""Snappy for kafka-python: it looks for a module `snappy`, which is a wrapper of cramjam; cramjam itself will do."""

from __future__ import annotations

from typing import Any

import cramjam

from consumer.kafka_io.client import codec


class _Snappy:
    """The two functions that kafka-python calls."""

    @staticmethod
    def compress(data: bytes) -> bytes:
        return bytes(cramjam.snappy.compress_raw(data))

    @staticmethod
    def decompress(data: bytes) -> bytes:
        return bytes(cramjam.snappy.decompress_raw(data))


def provide_snappy() -> None:
    """Let kafka-python read and write snappy; nothing changes where it can already."""
    module: Any = codec
    if module.snappy is None:
        module.snappy = _Snappy
