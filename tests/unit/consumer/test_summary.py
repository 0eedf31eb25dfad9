import json
import subprocess
import sys
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from consumer.settings import Settings
from consumer.summary import SUMMARY_SCHEMA, Seconds, best_method, build_summary, render_table
from incremental.drift import Detection
from incremental.outcomes import FIRST, SCORED, Coverage, Guesses, ItemOutcomes, Outcomes, TimeOutcomes, TypeOutcomes
from incremental.prequential import Prequential


def evaluated(log_prob=-3.0):
    rng = np.random.default_rng(1)
    prequential = Prequential()
    for _ in range(8):
        kinds = rng.choice([SCORED, FIRST], 64, p=[0.8, 0.2]).astype(np.uint8)
        items = {
            name: ItemOutcomes(rng.integers(0, reach, 64, dtype=np.int32), np.full(64, log_prob))
            for name, reach in (("tidemill", 30), ("markov", 60), ("recent_popularity@1000", 90))
        }
        types = {"tidemill": TypeOutcomes(rng.random(64) < 0.5, np.full(64, -0.5))}
        times = {"median": TimeOutcomes(rng.random(64), rng.random(64))}
        guesses = {head: Guesses(rng.random(64), rng.random(64) < 0.5) for head in ("item", "event_type")}
        coverage = Coverage(*(rng.random((3, 64, 3)) < 0.5))
        coverage = replace(coverage, known_B=coverage.known_B[:, 0])
        new = rng.random(64) < 0.5
        prequential.update(Outcomes(kinds, items, items["tidemill"], types, times, new, guesses, coverage))
    return prequential


def summary(settings=None, prequential=None):
    prequential = prequential or evaluated()
    return build_summary(
        events=512,
        users=40,
        items=90,
        scored=prequential.scored,
        result=prequential.result(),
        detections=[Detection(300, "log_loss", "adwin", 3.0, 3.5)],
        seconds=Seconds(0.1, 0.3, 0.5),
        rejected={"not_json": 2},
        flagged={"late": 3},
        settings=settings or Settings(),
    )


def test_the_summary_follows_its_schema_and_survives_json():
    made = summary()
    jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), SUMMARY_SCHEMA)
    assert made["speed"]["events_per_s"] == 1024.0
    assert made["drift"][0] | {"event": 300, "signal": "log_loss", "action": "observe"} == made["drift"][0]
    assert len(made["windows"]) == 10
    assert set(made["calibration"]) == {"item", "event_type", "next_event_s"}
    assert made["metrics"]["tidemill"]["ece"] == made["calibration"]["item"]["ece"] > 0.0
    assert made["peak_rss_bytes"] > 10_000_000
    assert set(made["versions"]) == {"python", "tidemill", "torch", "numpy", "kafka-python"}


def test_a_number_that_is_not_finite_does_not_pass_the_schema():
    made = summary(prequential=evaluated(log_prob=np.nan))
    as_written = json.loads(json.dumps(made).replace("NaN", "null"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(as_written, SUMMARY_SCHEMA)


def test_an_empty_replay_follows_the_schema_too():
    jsonschema.validate(summary(prequential=Prequential()), SUMMARY_SCHEMA)


def test_secrets_are_not_shown():
    kafka = {
        "sasl_username": "worker",
        "sasl_password": "hunter2",
        "properties": {"ssl_password": "hunter3", "client_id": "here"},
    }
    made = summary(Settings.model_validate({"kafka": kafka}))
    text = json.dumps(made)
    assert "hunter" not in text
    assert made["settings"]["kafka"]["sasl_password"] == "***"
    assert made["settings"]["kafka"]["properties"] == {"ssl_password": "***", "client_id": "here"}
    assert made["settings"]["kafka"]["ssl_cafile"] is None


def test_the_best_of_a_metric_is_the_largest_but_the_smallest_loss():
    table = {"a": {"hr@10": 0.1, "log_loss": 3.0}, "b": {"hr@10": 0.2, "log_loss": 4.0}}
    assert best_method(table, "hr@10") == "b"
    assert best_method(table, "log_loss") == "a"
    assert best_method({}, "hr@10") is None


def test_the_table_shows_every_method_and_stars_the_best():
    made = summary()
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(render_table(made))
    text = capture.get()
    assert "512 events, 40 users, 90 items" in text
    row = next(line for line in text.splitlines() if "tidemill" in line)
    assert f"{made['metrics']['tidemill']['hr@10']:.4f}*" in row
    for word in (
        "calibration error: item",
        "times covered: p10",
        "markov",
        "recent_popularity",
        "event type",
        "next event s",
        "rejected: not_json 2",
        "flagged: late 3",
        f"as published: hr@10 {made['emitted']['tidemill']['hr@10']:.4f}",
    ):
        assert word in text


def test_torch_is_not_imported():
    code = "import sys, consumer.summary as s; s.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
