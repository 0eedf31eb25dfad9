"""The summary of a replay, as JSON for machines and as text for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_NOT_A_NUMBER = "-"


def write_json(summary: Mapping[str, Any], file: Path | None) -> None:
    """Write the summary to a file, or to standard output without one."""
    data = orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    if file is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        file.write_bytes(data)


def render(summary: Mapping[str, Any]) -> str:
    """Return the summary (version 1) as a few lines and one table: methods down, metrics across."""
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("events", "users", "items", "scored"))
    lines = [counts, "", *_table(summary["metrics"]), ""]
    speed = summary["speed"]
    lines.append(f"{speed['events_per_s']:,.0f} events/s, {speed['total_s']:.1f} s in all")
    if rejected := summary.get("rejected"):
        lines.append("rejected: " + ", ".join(f"{count:,} {reason}" for reason, count in rejected.items()))
    return "\n".join(lines)


def _table(metrics: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in metrics.values() for name in row))
    width = max((len(method) for method in metrics), default=0)
    yield " ".join([" " * width, *(f"{column:>10}" for column in columns)])
    for method, row in metrics.items():
        yield " ".join([f"{method:<{width}}", *(f"{_number(row.get(column)):>10}" for column in columns)])


def _number(value: float | None) -> str:
    return _NOT_A_NUMBER if value is None else f"{value:.4f}"
