from dataclasses import replace
from math import log2

import numpy as np
import pytest

from incremental.outcomes import (
    FIRST,
    IGNORED,
    MISS,
    SCORED,
    Coverage,
    Guesses,
    ItemOutcomes,
    Outcomes,
    TimeOutcomes,
    TypeOutcomes,
)
from incremental.prequential import ITEM_METRICS, Parts, Prequential


def items(ranks, log_prob=-2.0):
    return ItemOutcomes(np.array(ranks, dtype=np.int32), np.full(len(ranks), log_prob))


def outcomes(kinds, methods, *, emitted=None, types=None, times=None):
    return Outcomes(np.array(kinds, dtype=np.uint8), methods, emitted, types or {}, times or {})


def random_outcomes(rng, count):
    kinds = rng.choice([IGNORED, SCORED, FIRST], count, p=[0.1, 0.7, 0.2])
    names = ("tidemill", "markov", "recent_popularity@1000", "recent_popularity@10000")
    methods = {name: ItemOutcomes(rng.integers(0, 40, count, dtype=np.int32), -rng.random(count)) for name in names}
    types = {"tidemill": TypeOutcomes(rng.random(count) < 0.5, -rng.random(count))}
    made = outcomes(kinds, methods, emitted=methods["tidemill"], types=types)
    draws = rng.random((3, count)) < 0.5
    coverage = Coverage(draws[0], *(rng.random((2, count, 3)) < 0.5))
    return replace(made, new_B=draws[1], guesses={"item": Guesses(rng.random(count), draws[2])}, coverage=coverage)


def test_metrics_of_one_target_per_event():
    prequential = Prequential()
    prequential.update(outcomes([SCORED] * 4, {"tidemill": items([0, 9, 10, MISS])}))
    assert prequential.result()["metrics"]["tidemill"] == pytest.approx(
        {
            "hr@10": 2 / 4,
            "ndcg@10": (1 + 1 / log2(11)) / 4,
            "mrr@10": (1 + 1 / 10) / 4,
            "recall@20": 3 / 4,
            "mrr@20": (1 + 1 / 10 + 1 / 11) / 4,
            "log_loss": 2.0,
        }
    )


def test_first_events_stand_apart_and_ignored_ones_nowhere():
    prequential = Prequential()
    kinds = [FIRST, SCORED, IGNORED]
    prequential.update(outcomes(kinds, {"tidemill": items([0, MISS, 0])}, emitted=items([0, 3, 0])))
    result = prequential.result()
    assert prequential.scored == 1
    assert result["metrics"]["tidemill"]["hr@10"] == 0.0
    assert result["first_events"]["tidemill"]["hr@10"] == 1.0
    assert result["emitted"]["tidemill"]["mrr@10"] == pytest.approx(1 / 4)
    assert set(result["emitted"]["tidemill"]) == set(ITEM_METRICS) - {"log_loss"}


def test_the_best_half_life_stands_for_recent_popularity_everywhere():
    prequential = Prequential()
    prequential.update(
        outcomes(
            [SCORED, SCORED, FIRST],
            {"recent_popularity@1000": items([MISS, MISS, 0]), "recent_popularity@10000": items([0, MISS, MISS])},
        )
    )
    result = prequential.result()
    assert list(result["metrics"]) == ["recent_popularity"]
    assert result["metrics"]["recent_popularity"]["hr@10"] == 0.5
    assert result["first_events"]["recent_popularity"]["hr@10"] == 0.0
    assert set(result["windows"][0]) == {"events", "recent_popularity"}
    assert set(prequential.methods) == {"recent_popularity@1000", "recent_popularity@10000"}


@pytest.mark.parametrize("count", [1, 9, 10, 37, 5000, 20_000])
def test_windows_are_about_equal_and_sum_to_the_whole(count):
    rng = np.random.default_rng(count)
    prequential = Prequential()
    hits = rng.random(count) < np.linspace(0.1, 0.9, count)
    for start in range(0, count, 256):
        part = hits[start : start + 256]
        prequential.update(outcomes([SCORED] * len(part), {"tidemill": items(np.where(part, 0, MISS))}))
    result = prequential.result()
    windows = result["windows"]
    assert len(windows) == min(10, count)
    sizes = [window["events"] for window in windows]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= max(1, 0.02 * count)
    total = sum(window["events"] * window["tidemill"]["hr@10"] for window in windows)
    assert total == pytest.approx(hits.sum())
    assert total == pytest.approx(count * result["metrics"]["tidemill"]["hr@10"])


def test_a_window_holds_the_events_of_its_place_in_the_stream():
    prequential = Prequential()
    hits = np.arange(6400) >= 3200
    for part in np.split(hits, 25):
        prequential.update(outcomes([SCORED] * len(part), {"tidemill": items(np.where(part, 0, MISS))}))
    rates = [window["tidemill"]["hr@10"] for window in prequential.result()["windows"]]
    assert rates == [0.0] * 5 + [1.0] * 5


def test_parts_are_bounded_and_lose_nothing():
    parts = Parts(limit=8)
    for size in (3, 5, 1, 20, 40):
        parts.add({"a": np.ones((size, 2))})
    assert parts.sums["a"].shape == (8, 2)
    assert parts.totals()["a"].tolist() == [69.0, 69.0]


def test_recent_looks_at_the_latest_events_only():
    prequential = Prequential(window_events=10)
    for rank in [MISS] * 20 + [0] * 10:
        prequential.update(outcomes([SCORED] * 5, {"tidemill": items([rank] * 5)}))
    assert prequential.recent("tidemill")["hr@10"] == 1.0
    assert prequential.result()["metrics"]["tidemill"]["hr@10"] == pytest.approx(1 / 3)
    assert prequential.recent("nobody") == {}


def test_a_head_counts_the_events_that_all_its_methods_know():
    nan = np.nan
    types = {
        "tidemill": TypeOutcomes(np.array([True, True, False]), np.array([-1.0, -1.0, -3.0])),
        "mode": TypeOutcomes(np.array([False, False, False]), np.array([nan, -1.0, -1.0])),
    }
    times = {"median": TimeOutcomes(np.array([1.0, nan, 3.0]), np.array([0.5, nan, 0.5]))}
    prequential = Prequential()
    prequential.update(outcomes([SCORED] * 3, {}, types=types, times=times))
    heads = prequential.result()["heads"]
    assert heads["event_type"]["tidemill"] == {"accuracy": 0.5, "log_loss": 2.0}
    assert heads["next_event_s"]["median"] == {"mae_log": 2.0, "pinball": 0.5}
    assert prequential.recent_heads() == heads


def test_an_infinite_loss_of_a_head_is_counted_not_hidden():
    types = {"tidemill": TypeOutcomes(np.array([False, True]), np.array([-np.inf, -1.0]))}
    prequential = Prequential()
    prequential.update(outcomes([SCORED] * 2, {}, types=types))
    assert prequential.result()["heads"]["event_type"]["tidemill"] == {"accuracy": 0.5, "log_loss": np.inf}


def test_heads_without_any_number_are_left_out():
    prequential = Prequential()
    times = {"median": TimeOutcomes(np.array([np.nan]), np.array([np.nan]))}
    prequential.update(outcomes([SCORED], {"tidemill": items([0])}, times=times))
    assert prequential.result()["heads"] == {}


def test_calibration_and_new_items_are_those_of_scored_events():
    guesses = {"item": Guesses(np.array([0.5, 0.5, 0.9]), np.array([True, False, True]))}
    below, at = np.array([[True] * 3] * 3), np.zeros((3, 3), np.bool_)
    methods = {"tidemill": items([0, 3, MISS]), "markov": items([MISS, 0, 0])}
    made = Outcomes(
        np.array([SCORED, SCORED, FIRST], np.uint8),
        methods,
        None,
        {"tidemill": TypeOutcomes(np.array([True, False, True]), np.full(3, -1.0))},
        {},
        np.array([True, False, True]),
        guesses | {"event_type": Guesses(np.array([0.75, 0.75, 1.0]), np.array([True, True, True]))},
        Coverage(np.ones(3, np.bool_), below, at),
    )
    prequential = Prequential()
    prequential.update(made)
    result = prequential.result()
    assert result["calibration"]["item"] == {"ece": 0.0, "bins": [{"events": 2, "confidence": 0.5, "accuracy": 0.5}]}
    assert result["metrics"]["tidemill"]["ece"] == 0.0
    assert "ece" not in result["metrics"]["markov"]
    assert result["heads"]["event_type"]["tidemill"]["ece"] == pytest.approx(0.25)
    assert result["calibration"]["next_event_s"] == {"p10": 1.0, "p50": 1.0, "p90": 1.0}
    assert result["new_items"]["tidemill"]["hr@10"] == 1.0
    assert result["new_items"]["markov"]["hr@10"] == 0.0


def test_nothing_scored_gives_an_empty_result():
    nothing = {key: {} for key in ("metrics", "emitted", "first_events", "new_items", "heads", "calibration")}
    assert Prequential().result() == nothing | {"windows": [], "same_batch_items": {"events": 0}}
