"""Predictions and drift as records: JSON, keyed like the event, never null, never NaN."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from consumer.ports import Headers, Output
from incremental.drift import Detection
from incremental.policy import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.events import Event
    from model.predictor import Predictions
    from model.vocabulary import Vocabulary

MODEL_VERSION_HEADER = "tidemill-model-version"
FLAGS_HEADER = "tidemill-flags"
TRACE_HEADER = "traceparent"
MAX_TYPES = 10
"""Event types in a prediction, the most probable first."""
DECIMALS = 7


class PredictionEncoder:
    """Turns the predictions of a micro-batch into outputs for one topic."""

    def __init__(self, topic: str, top_k: int, items: Vocabulary, types: Vocabulary) -> None:
        self._topic, self._top_k, self._items, self._types = topic, top_k, items, types

    def encode(
        self, events: Sequence[Event], repeated: Sequence[bool], predictions: Predictions, version: str, batch: int
    ) -> list[Output]:
        """Return one output per event, in order."""
        names = self._items.names
        rows, p = predictions.rows_BK[:, : self._top_k].tolist(), self._rounded(predictions.p_BK).tolist()
        types, seconds = self._type_maps(predictions), self._seconds(predictions)
        outputs = []
        for index, event in enumerate(events):
            record = event.record
            body: dict[str, Any] = {
                "user_id": event.user_id,
                "source": {"topic": record.topic, "partition": record.partition, "offset": record.offset},
            }
            if event.event_time == event.event_time:  # false for NaN, the fastest way to ask
                body["event_time"] = event.event_time
            body["items"] = [
                {"item_id": names[row], "score": score}
                for row, score in zip(rows[index], p[index], strict=False)
                if row
            ]
            if types is not None:
                body["event_type"] = types[index]
            if seconds is not None:
                body["next_event_s"] = dict(zip(("p10", "p50", "p90"), seconds[index], strict=True))
            body["model_version"], body["batch"] = version, batch
            key = record.key if record.key is not None else str(event.user_id).encode()
            headers = _headers(event, version, repeated=repeated[index])
            outputs.append(Output(self._topic, key, orjson.dumps(body), headers))
        return outputs

    def _rounded(self, p_BK: np.ndarray) -> np.ndarray:
        return np.round(p_BK[:, : self._top_k].astype(np.float64), DECIMALS)

    def _type_maps(self, predictions: Predictions) -> list[dict[str, float]] | None:
        if predictions.type_p_BY is None:
            return None
        p_BY = np.round(predictions.type_p_BY[:, 1:].astype(np.float64), DECIMALS)
        best = np.argsort(-p_BY, axis=1, kind="stable")[:, :MAX_TYPES]
        best_p = np.take_along_axis(p_BY, best, axis=1).tolist()
        names = [str(name) for name in self._types.names[1:]]
        return [
            {names[row]: score for row, score in zip(line, scores, strict=True)}
            for line, scores in zip(best.tolist(), best_p, strict=True)
        ]

    @staticmethod
    def _seconds(predictions: Predictions) -> list[list[float]] | None:
        if predictions.seconds_B3 is None:
            return None
        quantiles: list[list[float]] = np.round(predictions.seconds_B3, 1).tolist()
        return quantiles


def _headers(event: Event, version: str, *, repeated: bool) -> Headers:
    flags = [name for name, on in (("late", event.late), ("future", event.future), ("repeated", repeated)) if on]
    headers: list[tuple[str, bytes | None]] = [(MODEL_VERSION_HEADER, version.encode())]
    if flags:
        headers.append((FLAGS_HEADER, ",".join(flags).encode()))
    headers += [(name, value) for name, value in event.record.headers if name == TRACE_HEADER and value is not None]
    return tuple(headers)


def detection_values(detection: Detection) -> dict[str, Any]:
    """Return a detection as JSON values."""
    return asdict(detection)


def detection_from(values: dict[str, Any]) -> Detection:
    """Return the detection that `detection_values` was given."""
    return Detection(**values)


def drift_record(detection: Detection, topic: str, version: str) -> Output:
    """Return what was detected and what was done about it."""
    rise = size(detection.signal, detection.before, detection.after)
    body = detection_values(detection) | {"size": rise, "model_version": version}
    return Output(topic, None, orjson.dumps(body), ((MODEL_VERSION_HEADER, version.encode()),))
