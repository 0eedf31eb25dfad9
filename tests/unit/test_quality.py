"""Whether the whole is worth its trouble: on a stream whose rules are known, against what needs no learning."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from support import small_settings

from consumer.replay import ReplayOptions, replay
from model.components import COMPONENTS

EVENTS, USERS, ITEMS = 12_000, 150, 240
SETTINGS = small_settings(
    history={"length": 20},
    model={"dim": 16, "layers": 1, "heads": 2, "context": 10, "dropout": 0.1, "max_items": 1000, "proposals": 32},
    learning={"negatives": 512, "rehearsal_windows": 64, "rehearsal_capacity": 2000, "rehearsal_length": 12},
    worker={"batch_events": 128},
)


def interested_users(seed: int) -> list[dict[str, object]]:
    """Return a stream: half of the steps follow an item's own successors, a quarter an interest, some are repeats.

    The items belong to twelve topics; a user has two. New items arrive all along, and old ones are left behind.
    """
    draw = np.random.default_rng(seed)
    topic_of = draw.integers(12, size=ITEMS)
    members = [np.flatnonzero(topic_of == topic) for topic in range(12)]
    after = np.array([draw.choice(members[topic_of[item]], 3) for item in range(ITEMS)])
    likes = draw.integers(12, size=(USERS, 2))
    activity = draw.dirichlet(np.full(USERS, 0.7))
    past: list[list[int]] = [[] for _ in range(USERS)]
    stream, time = [], 1_700_000_000.0
    for n in range(EVENTS):
        alive = int(ITEMS * (0.5 + 0.5 * n / EVENTS))  # the later half of the items comes bit by bit
        user = int(draw.choice(USERS, p=activity))
        item = next_item(draw, past[user], after, members, likes[user], alive)
        past[user] = [*past[user], item][-20:]
        time += float(draw.exponential(20.0))
        stream.append(
            {"user_id": user, "item_id": item, "event_time": time, "event_type": "buy" if item % 4 == 0 else "view"}
        )
    return stream


def next_item(draw, past, after, members, likes, alive) -> int:
    step = draw.random()
    if past and step < 0.55:
        item = int(after[past[-1]][draw.choice(3, p=[0.6, 0.3, 0.1])])
    elif past and step < 0.70:
        item = past[-int(draw.integers(1, min(5, len(past)) + 1))]
    elif step < 0.95:
        item = int(draw.choice(members[likes[int(draw.integers(2))]]))
    else:
        item = int(draw.integers(ITEMS))
    return item if item < alive else int(draw.integers(alive))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same stream learned all along, and learned for its first tenth only."""
    path = tmp_path_factory.mktemp("quality") / "stream.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(one) for one in interested_users(7)))
    learned = replay(SETTINGS, ReplayOptions(str(path)))
    frozen = replay(SETTINGS, ReplayOptions(str(path), freeze_after=EVENTS // 10))
    return learned, frozen


def late(summary, method, metric):
    """The second half of the stream."""
    windows = summary["windows"][5:]
    return sum(w["events"] * w[method][metric] for w in windows) / sum(w["events"] for w in windows)


@pytest.mark.parametrize("baseline", ["popularity", "recent_popularity"])
def test_it_is_clearly_better_than_popularity(runs, baseline):
    learned, _ = runs
    for metric in ("hr@10", "ndcg@10", "mrr@20"):
        assert learned["metrics"]["tidemill"][metric] > 2.0 * learned["metrics"][baseline][metric]
    assert learned["metrics"]["tidemill"]["log_loss"] < learned["metrics"][baseline]["log_loss"] - 0.3


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_whole_ranks_better_than_each_of_its_parts(runs, component):
    learned, _ = runs
    assert late(learned, "tidemill", "hr@10") > late(learned, component, "hr@10") + 0.03


@pytest.mark.parametrize("component", COMPONENTS)
def test_its_log_loss_is_below_that_of_each_of_its_parts(runs, component):
    learned, _ = runs
    assert learned["metrics"]["tidemill"]["log_loss"] < learned["metrics"][component]["log_loss"] + 0.01


def test_learning_pays(runs):
    learned, frozen = runs
    assert late(learned, "tidemill", "hr@10") > 1.3 * late(frozen, "tidemill", "hr@10")
    assert late(learned, "transformer", "hr@10") > 1.5 * late(frozen, "transformer", "hr@10")


def test_it_gets_better_as_the_stream_goes_though_new_items_arrive(runs):
    learned, _ = runs
    windows = learned["windows"]
    first, last = windows[0]["tidemill"], windows[-1]["tidemill"]
    assert last["hr@10"] > 1.3 * first["hr@10"]


def test_the_published_list_is_about_as_good_as_the_ranking(runs):
    learned, _ = runs
    ranked, emitted = learned["metrics"]["tidemill"], learned["emitted"]["tidemill"]
    assert emitted["hr@10"] == pytest.approx(ranked["hr@10"], abs=0.02)


def test_the_heads_learn_too(runs):
    learned, frozen = (run["heads"] for run in runs)
    assert learned["event_type"]["tidemill"]["log_loss"] < frozen["event_type"]["tidemill"]["log_loss"]
    assert learned["next_event_s"]["tidemill"]["pinball"] < 0.95 * frozen["next_event_s"]["tidemill"]["pinball"]


def test_the_heads_are_better_than_counting(runs):
    types, times = (runs[0]["heads"][head] for head in ("event_type", "next_event_s"))
    for baseline in ("mode", "last", "per_type"):
        assert types["tidemill"]["log_loss"] < types[baseline]["log_loss"] - 0.005
        assert types["tidemill"]["accuracy"] > types[baseline]["accuracy"] - 0.001
    for baseline in ("median", "per_type_median"):
        assert times["tidemill"]["pinball"] < 0.95 * times[baseline]["pinball"]
        assert times["tidemill"]["mae_log"] < 0.95 * times[baseline]["mae_log"]


def test_it_is_calibrated(runs):
    calibration = runs[0]["calibration"]
    assert calibration["item"]["ece"] < 0.02
    assert calibration["event_type"]["ece"] < 0.02
    assert list(calibration["next_event_s"].values()) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


def test_new_items_are_found_sooner_than_by_counting(runs):
    new = runs[0]["new_items"]
    assert new["tidemill"]["hr@10"] > 1.15 * max(new[name]["hr@10"] for name in ("popularity", "markov", "own_recent"))
