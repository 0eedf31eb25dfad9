"""The summary of a run or a replay: as JSON for machines, as tables for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from consumer.errors import ConfigError
from consumer.summary import render_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTH = 110
"""Of tables that go to a file or a pipe."""


def write_json(summary: Mapping[str, Any], file: Path | None) -> None:
    """Write the summary to a file, or to standard output without one. Raises ConfigError where that fails."""
    data = orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    if file is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"--json {str(file)!r}: could not be written: {error.strerror}") from error


def show(summary: Mapping[str, Any]) -> None:
    """Print counts and tables."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(render_table(summary))
