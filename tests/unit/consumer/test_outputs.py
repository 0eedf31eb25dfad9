from __future__ import annotations

import math

import msgspec
import numpy as np
import orjson
import pytest
from support import Worker, event, random_events

from consumer.outputs import DECIMALS, MAX_TYPES, PredictionEncoder, drift_record
from incremental.drift import Detection
from model.predictor import LIST_LENGTH, Predictions
from model.vocabulary import Vocabulary

ITEMS = Vocabulary(64)
ITEMS.observe(np.arange(1, 41), [*range(1, 20), *(f"item-{n}" for n in range(20, 41))], 0)
TYPES = Vocabulary(20, evict=False)
TYPES.observe(np.arange(1, 15), [f"t{n}" for n in range(1, 15)], 0)


def predictions(*rows, types=False, seconds=None):
    lines = np.array([[*line, *[0] * (LIST_LENGTH - len(line))] for line in rows], np.int32)
    p = np.where(lines > 0, 1.0 / np.arange(3, 3 + LIST_LENGTH), 0.0).astype(np.float32)
    type_p = np.tile(np.arange(15) / 105, (len(rows), 1)).astype(np.float32) if types else None
    return Predictions(lines, ITEMS.keys(lines), p, type_p, None if seconds is None else np.array(seconds))


def encoded(events, given, *, repeated=None, top_k=10):
    encoder = PredictionEncoder("out", top_k, ITEMS, TYPES)
    return encoder.encode(events, repeated or [False] * len(events), given, "me@7", 8)


def test_a_prediction_is_one_json_record_keyed_like_its_event():
    one = event("u", 1, 1000.5, partition=3)
    (output,) = encoded([one], predictions([3, 25], types=True, seconds=[[1.04, 20.0, 1e6]]))
    assert (output.topic, output.key) == ("out", b"u")
    body = orjson.loads(output.value)
    assert list(body) == [
        "user_id", "source", "event_time", "items", "event_type", "next_event_s", "model_version", "batch",
    ]  # fmt: skip
    assert body["user_id"] == "u"
    assert body["source"] == {"topic": "events", "partition": 3, "offset": one.record.offset}
    assert body["event_time"] == 1000.5
    assert body["items"] == [{"item_id": 3, "score": 0.3333333}, {"item_id": "item-25", "score": 0.25}]
    assert body["next_event_s"] == {"p10": 1.0, "p50": 20.0, "p90": 1e6}
    assert (body["model_version"], body["batch"]) == ("me@7", 8)


def test_only_the_most_probable_types_are_told_best_first():
    (output,) = encoded([event("u", 1)], predictions([1], types=True))
    types = orjson.loads(output.value)["event_type"]
    assert list(types) == [f"t{n}" for n in range(14, 14 - MAX_TYPES, -1)]
    assert list(types.values()) == [round(n / 105, DECIMALS) for n in range(14, 14 - MAX_TYPES, -1)]


def test_what_the_stream_does_not_have_is_left_out():
    (output,) = encoded([event("u", 1)], predictions([1]))
    assert not {"event_time", "event_type", "next_event_s"} & set(orjson.loads(output.value))


@pytest.mark.parametrize("top_k", [1, 5, 20])
def test_at_most_top_k_items(top_k):
    outputs = encoded([event("u", 1), event("v", 1)], predictions(range(1, 21), [4]), top_k=top_k)
    assert [len(orjson.loads(output.value)["items"]) for output in outputs] == [top_k, 1]


def test_an_empty_list_is_an_empty_list():
    (output,) = encoded([event("u", 1)], predictions([]))
    assert orjson.loads(output.value)["items"] == []


def test_a_record_without_a_key_is_keyed_by_its_user():
    keyless = msgspec.structs.replace(event(77, 1), record=event(77, 1).record._replace(key=None))
    empty = msgspec.structs.replace(event(77, 1), record=event(77, 1).record._replace(key=b""))
    assert [output.key for output in encoded([keyless, empty], predictions([1], [1]))] == [b"77", b""]


def test_headers_tell_the_model_the_flags_and_the_trace():
    plain, late = event("u", 1), event("u", 1, late=True)
    headers = (("traceparent", b"00-1"), ("other", b"x"), ("traceparent", None))
    traced = msgspec.structs.replace(plain, record=plain.record._replace(headers=headers), future=True)
    outputs = encoded([plain, late, traced], predictions([1], [1], [1]), repeated=[False, True, False])
    version = ("tidemill-model-version", b"me@7")
    assert outputs[0].headers == (version,)
    assert outputs[1].headers == (version, ("tidemill-flags", b"late,repeated"))
    assert outputs[2].headers == (version, ("tidemill-flags", b"future"), ("traceparent", b"00-1"))


def test_never_null_never_nan_whatever_the_stream():
    """Every value of every prediction of a live model is there and finite; scores are probabilities, best first."""
    worker = Worker()
    encoder = PredictionEncoder("out", 20, worker.model.items, worker.model.types)
    for start in range(0, 160, 16):
        events = random_events(16, seed=start, items=60) if start % 32 else random_events(16, seed=start, timed=False)
        step = worker.step(events)
        for output in encoder.encode(events, step.staged.repeated_B, step.predictions, "x@0", start):
            body = orjson.loads(output.value)
            check_whole(body)
            scores = [item["score"] for item in body["items"]]
            assert scores == sorted(scores, reverse=True)
            assert len({item["item_id"] for item in body["items"]}) == len(scores)
            assert sum(scores) <= 1.0 + 1e-5


def check_whole(value):
    assert value is not None
    if isinstance(value, dict):
        for inner in value.values():
            check_whole(inner)
    elif isinstance(value, list):
        for inner in value:
            check_whole(inner)
    elif isinstance(value, float):
        assert math.isfinite(value)
        assert value >= 0.0


def test_a_drift_record_says_what_was_seen_and_done():
    output = drift_record(Detection(512, "log_loss", "adwin", 1.0, 2.5), "drift", "me@3")
    assert (output.topic, output.key) == ("drift", None)
    assert output.headers == (("tidemill-model-version", b"me@3"),)
    assert orjson.loads(output.value) == {
        "event": 512,
        "signal": "log_loss",
        "detector": "adwin",
        "before": 1.0,
        "after": 2.5,
        "size": 1.5,
        "action": "observe",
        "segment": "",
        "model_version": "me@3",
    }
