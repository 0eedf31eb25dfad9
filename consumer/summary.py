"""The summary of a replay, version 1: one JSON document for machines, one table for people."""

from __future__ import annotations

import platform
import resource
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from consumer.describe_settings import HIDDEN, is_secret
from incremental.calibration import BINS
from incremental.prequential import K

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from consumer.settings import Settings
    from incremental.drift import Detection

SCHEMA_VERSION = 1
LOWER_IS_BETTER = frozenset({"log_loss", "mae_log", "pinball", "ece"})
RESULT = ("metrics", "emitted", "first_events", "new_items", "same_batch_items", "heads", "calibration", "windows")
"""Parts of the summary that the evaluation gives."""
DISTRIBUTIONS = ("tidemill", "torch", "numpy", "kafka-python")

_COUNT = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_POSITIVE = {"type": "number", "minimum": 0}
_LISTS = dict.fromkeys(("hr@10", "ndcg@10", "mrr@10", "recall@20", "mrr@20"), _SHARE)


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def _methods(properties: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    row = _object({**properties, **(optional or {})}, required=list(properties))
    return {"type": "object", "additionalProperties": row}


_ITEM = _LISTS | {"log_loss": _POSITIVE}
_ERROR = {"ece": _SHARE}
"""Expected calibration error: of the model alone."""
_HEADS = {
    "event_type": _methods({"accuracy": _SHARE, "log_loss": _POSITIVE}, _ERROR),
    "next_event_s": _methods({"mae_log": _POSITIVE, "pinball": _POSITIVE}),
}
_BIN = {"events": _COUNT, "confidence": _SHARE, "accuracy": _SHARE}
_RELIABILITY = _object({"ece": _SHARE, "bins": {"type": "array", "maxItems": BINS, "items": _object(_BIN)}})
_CALIBRATION = {
    "item": _RELIABILITY,
    "event_type": _RELIABILITY,
    "next_event_s": _object(dict.fromkeys(("p10", "p50", "p90"), _SHARE)),
}
_DETECTION = {"event": _COUNT, "signal": {"type": "string"}, "action": {"type": "string"}} | {
    "detector": {"type": "string"},
    "before": {"type": "number"},
    "after": {"type": "number"},
    "segment": {"type": "string"},
}

_PART = {
    "type": "object",
    "properties": {"events": _COUNT},
    "required": ["events"],
    "additionalProperties": _object(_ITEM),
}

SUMMARY_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Summary of a replay",
    **_object(
        {
            "schema": {"const": SCHEMA_VERSION},
            **dict.fromkeys(("events", "users", "items", "scored", "seed"), _COUNT),
            "k": {"const": list(K)},
            "protocol": {"const": "prequential"},
            "metrics": _methods(_ITEM, _ERROR),
            "emitted": _methods(_LISTS),
            "first_events": _methods(_ITEM),
            "new_items": _methods(_ITEM),
            "same_batch_items": _PART,
            "heads": _object(_HEADS, required=[]),
            "calibration": _object(_CALIBRATION, required=[]),
            "windows": {
                "type": "array",
                "maxItems": 10,
                "items": _PART,
            },
            "drift": {"type": "array", "items": _object(_DETECTION)},
            "speed": _object(dict.fromkeys(("events_per_s", "predict_s", "learn_s", "total_s"), _POSITIVE)),
            "peak_rss_bytes": _COUNT,
            "rejected": {"type": "object", "additionalProperties": _COUNT},
            "flagged": {"type": "object", "additionalProperties": _COUNT},
            "versions": {"type": "object", "additionalProperties": {"type": "string"}},
            "settings": {"type": "object", "additionalProperties": {"type": "object"}},
        }
    ),
}
"""JSON schema of `build_summary`'s result. A number that is missing or not finite does not pass."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of a replay went."""

    predict: float
    learn: float
    total: float


def build_summary(
    *,
    events: int,
    users: int,
    items: int,
    scored: int,
    result: Mapping[str, Any],
    detections: Sequence[Detection],
    seconds: Seconds,
    rejected: Mapping[str, int],
    flagged: Mapping[str, int],
    settings: Settings,
) -> dict[str, Any]:
    """Return the summary; `result` is that of `incremental.prequential.Prequential`, `events` the accepted ones."""
    return {
        "schema": SCHEMA_VERSION,
        "events": events,
        "users": users,
        "items": items,
        "scored": scored,
        "seed": settings.worker.seed,
        "k": list(K),
        "protocol": "prequential",
        **{key: result[key] for key in RESULT},
        "drift": [asdict(detection) for detection in detections],
        "speed": {
            "events_per_s": events / seconds.total if seconds.total > 0.0 else 0.0,
            "predict_s": seconds.predict,
            "learn_s": seconds.learn,
            "total_s": seconds.total,
        },
        "peak_rss_bytes": peak_rss_bytes(),
        "rejected": dict(rejected),
        "flagged": dict(flagged),
        "versions": versions(),
        "settings": shown_settings(settings),
    }


def shown_settings(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return section → setting → value as JSON values, secrets as ***."""
    tree: dict[str, dict[str, Any]] = settings.model_dump(mode="json")
    return {
        section: {key: _shown(f"{section}.{key}", value) for key, value in values.items()}
        for section, values in tree.items()
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers; nothing of them is imported."""
    return {"python": platform.python_version()} | {name: _version(name) for name in DISTRIBUTIONS}


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def best_method(table: Mapping[str, Mapping[str, float]], metric: str) -> str | None:
    """Return the method that is best by a metric; the first of equals."""
    scores = {method: row[metric] for method, row in table.items() if metric in row}
    choose = min if metric in LOWER_IS_BETTER else max
    return choose(scores, key=lambda method: scores[method], default=None)


def render_table(summary: Mapping[str, Any]) -> RenderableType:
    """Return counts, the tables of the item metrics and of the heads; the best of a column is bold and starred."""
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("events", "users", "items", "scored"))
    tables = [_table("next item", summary["metrics"])]
    tables += [_table(head.replace("_", " "), table) for head, table in summary["heads"].items()]
    speed = f"{summary['speed']['events_per_s']:,.0f} events/s, {summary['speed']['total_s']:.1f} s in all"
    counted = [f"rejected: {reason} {count:,}" for reason, count in summary["rejected"].items()]
    counted += [f"flagged: {flag} {count:,}" for flag, count in summary["flagged"].items()]
    lines = [*_published_lines(summary["emitted"]), *_calibration_lines(summary["calibration"]), speed, *counted]
    return Group(counts, *tables, "\n".join(lines))


def _published_lines(emitted: Mapping[str, Any]) -> list[str]:
    """Return one line: how often the prediction that had been published after the user's previous event was right."""
    return [f"as published: hr@10 {row['hr@10']:.4f}, ndcg@10 {row['ndcg@10']:.4f}" for row in emitted.values()]


def _calibration_lines(calibration: Mapping[str, Any]) -> list[str]:
    """Return one line where there is something to say."""
    parts = [
        f"{head.replace('_', ' ')} {calibration[head]['ece']:.4f}"
        for head in ("item", "event_type")
        if head in calibration
    ]
    times = [f"{name} {share:.1%}" for name, share in calibration.get("next_event_s", {}).items()]
    lines = [f"calibration error: {', '.join(parts)}"] if parts else []
    return lines + ([f"times covered: {', '.join(times)}"] if times else [])


def _table(title: str, methods: Mapping[str, Mapping[str, float]]) -> Table:
    metrics = list(dict.fromkeys(metric for row in methods.values() for metric in row))
    best = {metric: best_method(methods, metric) for metric in metrics}
    table = Table("method", title=title, title_justify="left")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for method, row in methods.items():
        cells = [_cell(row.get(metric), best=best[metric] == method) for metric in metrics]
        table.add_row(Text(method, style="bold" if method == "tidemill" else ""), *cells)
    return table


def _cell(value: float | None, *, best: bool) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:.4f}{'*' if best else ' '}", style="bold green" if best else "")


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(f"{name}.{key}", entry) for key, entry in value.items()}
    return HIDDEN if value is not None and is_secret(name) else value


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
