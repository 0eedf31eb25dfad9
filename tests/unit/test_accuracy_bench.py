"""The accuracy bench runs with each of its options, on a log that is written here; its figures are those of a replay."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import consumer.histories
import consumer.parts
import incremental.learner
from tests.bench import accuracy

EVENTS = 400
SMALL = ("model.dim=16", "model.layers=1", "learning.rehearsal_windows=16", "worker.batch_events=64")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw, folder = np.random.default_rng(2), tmp_path_factory.mktemp("logs") / "small"
    user = draw.integers(12, size=EVENTS)
    table = {
        "user_id": user,
        "item_id": (user + draw.integers(4, size=EVENTS)) % 15,
        "event_time": 1_700_000_000 + np.cumsum(draw.integers(1, 400, size=EVENTS)),
        "period": np.arange(EVENTS) * 3 // EVENTS,
    }
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "events.parquet")
    return folder.parent


@pytest.fixture
def result(data, tmp_path, monkeypatch):
    """What a call of the bench writes."""
    for owner, name in ((consumer.parts, "Learner"), (consumer.histories, "Stage"), (incremental.learner, "Rehearsal")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back what the bench replaces

    def call(*options):
        changes = [text for change in SMALL for text in ("--change", change)]
        file = tmp_path / "result.json"
        assert accuracy.main(["--data", str(data), "--set", "small", "--json", str(file), *changes, *options]) == 0
        return json.loads(file.read_text())

    return call


def test_a_replay_of_two_seeds(result):
    found = result("--seeds", "0,1", "--shuffle-ties")
    assert found["seeds"] == [0, 1]
    assert {"hr@10", "ndcg@10", "log_loss"} <= found["metrics"]["tidemill"].keys()
    assert 1.0 < found["gradient_visits_per_event"] < 3.0
    for one in found["results"].values():
        assert one["mixture"]["events"] == EVENTS
        assert one["mixture"]["excess_nats"] < one["mixture"]["bound_nats"] + 20.0


def test_without_rehearsal_an_event_is_visited_once(result):
    assert result("--change", "learning.rehearsal_windows=0")["gradient_visits_per_event"] == pytest.approx(
        1.0, abs=0.01
    )


def test_a_component_is_left_out(result):
    found = result("--ablate", "transformer", "--ablate", "own_items")
    assert "transformer" not in found["metrics"]
    assert "transitions" in found["metrics"]
    assert found["ablated"] == ["transformer", "own_items"]


def test_a_component_that_there_is_not_is_refused(result):
    with pytest.raises(SystemExit, match="no component is called that; did you mean transitions"):
        result("--ablate", "transition")


def test_the_last_session_alone_is_seen(result):
    """Sessions are a few events long, and what a user has done in those before is not there to be told again."""
    whole, last = (
        result("--change", "input.session_gap_s=2000"),
        result("--change", "input.session_gap_s=2000", "--last-session-only"),
    )
    assert last["last_session_only"]
    assert last["metrics"]["own_items"]["hr@10"] < 0.7 * whole["metrics"]["own_items"]["hr@10"]


def test_periods(result):
    found = result("--protocol", "ader")
    (one,) = found["results"].values()
    assert [row["period"] for row in one["periods"]] == [0, 1, 2]
    assert {"recall@20", "mrr@20", "preq_recall@20", "strict_mrr@20"} <= one["mean"].keys()
    assert 0.0 < one["mean"]["recall@20"] <= 1.0


def test_the_tenths_in_which_another_is_ahead_are_named():
    windows = [{"events": 5, "tidemill": {"hr@10": ours}, "markov": {"hr@10": 0.5}} for ours in (0.4, 0.5, 0.6)]
    assert accuracy.behind(windows) == [(0, "markov", 0.4, 0.5)]
