"""The figures of the drift bench, from traces and rows of which they can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from incremental.drift import Detection
from tests.bench import drift_figures as figures
from tests.bench.runner import Trace
from tests.bench.streams import Log, Stream

MET = {"holds": True}


def trace(*hits, detections=(), quarantined=0):
    """Return a trace of whole windows, all of them scored, of which the first so many events are hits."""
    hit = np.concatenate([np.arange(figures.WINDOW) < count for count in hits])
    return Trace([hit], [np.ones(len(hit), bool)], detections=list(detections), quarantined=quarantined)


def events(hit, scored=None):
    """Return a trace of single events."""
    return Trace([np.array(hit, bool)], [np.ones(len(hit), bool) if scored is None else np.array(scored, bool)])


def stream(length, change, *, genuine=None, returns=()):
    genuine = np.ones(length, bool) if genuine is None else np.array(genuine, bool)
    zeros = np.zeros(length, np.int64)
    return Stream("x", Log(zeros, zeros, np.full(length, "view"), zeros, genuine), change, returns)


def alarm(event, detector="adwin"):
    return Detection(event, "log_loss", detector, 6.0, 7.0004)


def row(seed=0, oracle="oracle:x", **hits):
    """Return a row of one seed: per variant the hits of its windows of 1,000 scored events each."""
    variants = {
        name: {"hr@10": sum(counts) / (1000 * len(counts)), "deficit": 0.0, "window_hits": counts}
        for name, counts in hits.items()
    }
    return {"seed": seed, "oracle": oracle, "delay": 256, "variants": variants}


def test_only_scored_events_count():
    assert figures.hit_rate(events([1, 1, 0, 0, 1], [1, 0, 1, 1, 1])) == 0.5


def test_a_last_part_of_a_window_is_left_out(monkeypatch):
    monkeypatch.setattr(figures, "WINDOW", 3)
    hits, scored = figures.windows(events([1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 1, 1, 1, 1, 1, 1]))
    assert (hits.tolist(), scored.tolist()) == ([1, 1], [2, 3])


def test_the_level_is_that_of_the_last_ten_thousand_events():
    assert figures.level(trace(2000, 2000, 1000, 0, 0, 0, 1000)) == 0.2


def test_the_deficit_is_what_is_missing_below_the_level_and_more_hits_than_usual_make_up_for_it():
    assert figures.deficit(trace(200, 600, 1300), 0.5) == 800 + 400 - 300


def test_events_that_are_not_scored_are_not_missing():
    unscored = events(np.ones(figures.WINDOW), np.arange(figures.WINDOW) < 500)
    assert figures.deficit(unscored, 0.9) == pytest.approx(450 - 500)


def test_three_windows_in_a_row_at_98_percent_of_the_oracle_are_a_recovery():
    oracle = trace(*[1000] * 8)
    assert figures.recovered(trace(500, 980, 980, 979, 980, 1200, 980, 0), oracle) == 4 * 2000
    assert figures.recovered(trace(*[980] * 8), oracle) == 0


def test_who_never_recovers_needs_all_events():
    oracle = trace(*[1000] * 5)
    assert figures.recovered(trace(980, 980, 0, 980, 980), oracle) == 5 * 2000


def test_the_delay_is_counted_to_the_end_of_the_micro_batch_of_the_first_alarm():
    changed = stream(2000, 1000)
    assert figures.delay(changed, trace(0, detections=[alarm(1512), alarm(1256)])) == 512
    assert figures.delay(changed, trace(0, detections=[alarm(1000)])) == 256


def test_a_micro_batch_that_the_change_is_in_counts_and_one_before_it_does_not():
    changed = stream(2000, 1000)
    assert figures.delay(changed, trace(0, detections=[alarm(745)])) == 1
    assert figures.delay(changed, trace(0, detections=[alarm(744), alarm(1256)])) == 512


def test_a_miss_counts_as_the_full_length():
    changed = stream(1600, 1000)
    assert figures.delay(changed, trace(0)) == 600
    assert figures.delay(changed, trace(0, detections=[alarm(1100, "recovered")])) == 600
    assert figures.delay(changed, trace(0, detections=[alarm(1500)])) == 600


def test_a_stream_is_compared_with_the_level_before_and_with_the_best_order():
    before = trace(*[1000] * 5, detections=[alarm(100), alarm(300, "champion"), alarm(900, "kswin")])
    traces = {
        "online": trace(600, 600, 600, 600),
        "policy": trace(600, 900, 900, 900, detections=[alarm(10_256)], quarantined=7),
        "oracle:one": trace(700, 700, 700, 700),
        "oracle:two": trace(900, 900, 900, 900),
    }
    found = figures.compare(stream(18_000, 10_000), before, traces)
    assert (found["level"], found["oracle"], found["delay"]) == (0.5, "oracle:two", 512)
    assert (found["false_alarms"], found["watched_before"]) == (2, 10_000)
    assert [told["event"] for told in found["alarms_before"]] == [100, 300, 900]
    assert found["alarms"] == [
        {"event": 10_256, "signal": "log_loss", "detector": "adwin", "rise": 1.0, "action": "observe"}
    ]
    assert found["variants"]["policy"] == {
        "hr@10": 3300 / 8000,
        "deficit": 700.0,
        "window_hits": [600, 900, 900, 900],
        "quarantined": 7,
        "recovered_after": 2000,
    }
    assert {name: variant["recovered_after"] for name, variant in found["variants"].items()} == {
        "online": 8000,
        "policy": 2000,
        "oracle:one": 8000,
        "oracle:two": 0,
    }


def test_without_an_oracle_nobody_recovers_and_without_a_watched_variant_there_is_no_delay():
    found = figures.compare(stream(4000, 2000), trace(1000), {"frozen": trace(0)})
    assert (found["oracle"], found["delay"], found["alarms"]) == (None, None, [])
    assert "recovered_after" not in found["variants"]["frozen"]


def test_hits_over_online_are_paired_window_by_window_over_all_seeds():
    """5, 15, 5, 15 more: 40, with a spread of 5.77 around 10, so 11.5 for the sum of four."""
    rows = [row(0, policy=[105, 215], online=[100, 200]), row(1, policy=[305, 415], online=[300, 400])]
    means = figures.over_seeds(rows)["policy"]
    assert means["hits_over_online"] == 40.0
    assert means["standard_error"] == pytest.approx((100 / 3) ** 0.5 * 2)
    assert means["hr@10"] == pytest.approx((0.16 + 0.36) / 2)
    assert figures.over_seeds(rows)["online"]["hits_over_online"] == 0.0


def test_the_error_of_one_window_is_not_known():
    assert figures.over_seeds([row(policy=[105], online=[100])])["policy"]["standard_error"] is None


def test_means_are_over_all_seeds_and_of_variants_that_all_have():
    rows = [row(0, policy=[100], online=[100], frozen=[0]), row(1, policy=[300], online=[100])]
    for seed in rows:
        seed["variants"]["policy"]["quarantined"] = 6 * seed["seed"]
    means = figures.over_seeds(rows)
    assert set(means) == {"policy", "online"}
    assert means["policy"]["quarantined"] == 3.0


def gap(**hits):
    return figures.gap_targets([row(0, **{name: counts[:2] for name, counts in hits.items()})]), figures.gap_targets(
        [row(seed, **{name: counts[seed * 2 : seed * 2 + 2] for name, counts in hits.items()}) for seed in (0, 1)]
    )


def test_the_gap_is_closed_by_its_share_of_all_seeds():
    """The oracle has 40, 60, 40, 60 more (200 ± 23.1); the policy 30, 30, 20, 30."""
    _, both = gap(no_adaptation=[100, 200, 100, 200], policy=[130, 230, 120, 230], **{"oracle:x": [140, 260, 140, 260]})
    found = both["gap_closed"]
    assert (found["value"], found["gap"], found["holds"]) == (0.55, 200.0, True)
    assert found["error"] == pytest.approx((400 / 3) ** 0.5 * 2)


def test_less_than_half_of_the_gap_is_not_enough():
    _, both = gap(no_adaptation=[100, 200, 100, 200], policy=[130, 230, 120, 219], **{"oracle:x": [140, 260, 140, 260]})
    assert both["gap_closed"]["value"] == 0.495
    assert not both["gap_closed"]["holds"]


def test_a_gap_below_two_errors_is_nothing_to_gain():
    """80, -10, 70, 0: 140 ± 93.1."""
    _, both = gap(no_adaptation=[100] * 4, policy=[0] * 4, **{"oracle:x": [180, 90, 170, 100]})
    assert (
        both["gap_closed"] == {"value": "nothing to gain", "gap": 140.0, "error": pytest.approx(93.1, abs=0.01)} | MET
    )


def test_an_oracle_that_changes_nothing_leaves_nothing_to_gain():
    one, _ = gap(no_adaptation=[100] * 4, policy=[100] * 4, **{"oracle:x": [100] * 4})
    assert one["gap_closed"]["value"] == "nothing to gain"


@pytest.mark.parametrize(
    "second",
    [
        row(1, oracle=None, policy=[9, 9], no_adaptation=[1, 1]),
        row(1, policy=[9, 9], **{"oracle:x": [9, 9]}),
        row(1, no_adaptation=[1, 1], **{"oracle:x": [9, 9]}),
    ],
    ids=["no oracle", "no no_adaptation", "no policy"],
)
def test_a_gap_is_measured_under_every_seed_or_not_at_all(second):
    first = row(0, policy=[9, 9], no_adaptation=[1, 1], **{"oracle:x": [9, 9]})
    assert figures.gap_targets([first])["gap_closed"]["value"] == 1.0
    assert figures.gap_targets([first, second]) == {}


def test_a_gap_of_one_window_or_of_no_seed_is_not_measured():
    assert figures.gap_targets([row(policy=[9], no_adaptation=[1], **{"oracle:x": [9]})]) == {}
    assert figures.gap_targets([]) == {}


def test_the_worst_seed_is_never_worse_than_online():
    good, bad = row(0, policy=[1100], online=[1000]), row(1, policy=[970], online=[1000])
    (found,) = figures.never_worse([good, bad]).values()
    assert found == {"value": 0.97, "least": 0.98, "holds": False}
    (found,) = figures.never_worse([good, row(1, policy=[980], online=[1000])]).values()
    assert found == {"value": 0.98, "least": 0.98, "holds": True}
    assert figures.never_worse([good, row(1, policy=[980])]) == {}


def test_the_slowest_seed_is_the_delay():
    rows = [row(0) | {"delay": 256}, row(1) | {"delay": 768}]
    assert figures.delay_target("b", rows)["delay"] == {"value": 768, "most": 500, "holds": False}
    assert figures.delay_target("c", rows)["delay"] == {"value": 768, "most": 5000, "holds": True}
    assert figures.delay_target("b", [rows[0], row(1) | {"delay": None}]) == {}


def test_five_false_alarms_are_allowed():
    assert figures.false_alarm_target({"alarms": [1] * 5})["false_alarms"]["holds"]
    assert not figures.false_alarm_target({"alarms": [1] * 6})["false_alarms"]["holds"]
    assert figures.false_alarm_target({}) == {}


def test_a_burst_is_compared_on_genuine_events_with_the_run_that_never_saw_it(monkeypatch):
    """Genuine hits 1 1 0 1 (1) of 1 1 1 1 (1): the fifth is past the events that count."""
    monkeypatch.setattr(figures, "BURST_EVENTS", 4)
    changed = stream(10, 2, genuine=[1, 1, 1, 0, 1, 0, 1, 0, 1, 1])
    traces = {"policy": events([1, 0, 1, 0, 0, 1, 1, 1]), "online": events([0, 1, 1, 1, 0, 1, 0, 1])}
    found = figures.against(changed, traces["policy"], events([1, 1, 1, 1, 1]), traces)
    assert found == {"share": 0.75, "online_share": 0.25}


def test_hits_that_are_not_scored_are_no_hits():
    unscored = events([1, 1, 1, 1], [1, 0, 1, 0])
    assert figures.against(stream(4, 0), unscored, events([1, 1, 1, 1]), {"policy": unscored}) == {"share": 0.5}


def test_each_return_is_compared_with_its_own_part_of_the_unchanged_log():
    """B A B A of four events each: the returns are events 4 to 7 and 12 to 15."""
    changed = stream(20, 4, returns=(8, 12, 16))
    plain = events([1] * 16)
    policy, online = events([0] * 4 + [1, 1, 0, 0] + [1] * 4 + [1, 1, 1, 0]), events([1] * 4 + [1, 0, 0, 0] + [0] * 8)
    found = figures.against(changed, policy, plain, {"policy": policy, "online": online})
    assert found["returns"] == {"policy": [0.5, 0.75], "online": [0.25, 0.0]}
    assert "online_share" not in found


def returned(seed, policy, online):
    return row(seed) | {"unchanged": {"share": 1.0, "returns": {"policy": policy, "online": online}}}


def test_the_lesser_return_beside_online_and_the_second_beside_the_first():
    """Means over the seeds: the policy has .8 and .76, online .8 and .8."""
    rows = [returned(0, [0.9, 0.7], [0.7, 0.9]), returned(1, [0.7, 0.82], [0.9, 0.7])]
    found = figures.return_targets(rows)
    assert found["returns_over_online"] == {"value": pytest.approx(0.95), "least": 0.98, "holds": False}
    assert found["second_return_over_first"]["value"] == pytest.approx(0.95)
    assert figures.return_targets([returned(0, [0.8, 0.8], [0.8, 0.7])])["second_return_over_first"]["holds"]
    assert figures.return_targets([rows[0], row(1)]) == {}


def test_what_a_burst_costs_is_a_mean_over_all_seeds():
    rows = [row(seed) | {"unchanged": {"share": share}} for seed, share in enumerate((1.0, 0.97))]
    assert figures.burst_target(rows)["burst"] == {"value": pytest.approx(0.985), "least": 0.99, "holds": False}
    assert figures.burst_target(rows[:1])["burst"]["holds"]
    assert figures.burst_target([*rows, row(2)]) == {}


def test_a_natural_log_is_told_by_hit_rates():
    assert figures.natural({"policy": events([1, 0, 0, 0]), "online": events([1, 1])}) == {
        "policy": 0.25,
        "online": 1.0,
    }


def test_globo_is_to_be_better_than_no_adaptation_and_no_worse_than_online():
    rows = [
        {"seed": seed, "globo_news_head": {"policy": policy, "online": 0.5, "no_adaptation": 0.4}}
        for seed, policy in enumerate((0.42, 0.44))
    ]
    found = figures.natural_targets(rows)
    assert found["globo_policy_over_online"] == {"value": pytest.approx(0.86), "least": 0.99, "holds": False}
    assert found["globo_policy_over_no_adaptation"] == {"value": pytest.approx(1.075), "least": 1.05, "holds": True}
    rows[0]["globo_news_head"] = {"policy": 0.4975, "online": 0.5, "no_adaptation": 0.4975}
    found = figures.natural_targets(rows[:1])
    assert [target["holds"] for target in found.values()] == [True, False]
    rows[1]["globo_news_head"].pop("online")
    assert set(figures.natural_targets(rows)) == {"globo_policy_over_no_adaptation"}


def streams_that_hold():
    return {name: {"targets": dict.fromkeys(targets, MET)} for name, targets in figures.TARGETS.items()}


def test_all_targets_of_all_streams_are_wanted():
    assert figures.missing(streams_that_hold()) == []
    assert figures.holds(streams_that_hold())
    assert {name: len(targets) for name, targets in figures.TARGETS.items()} == {
        "a": 2,
        "b": 3,
        "c": 3,
        "d": 1,
        "e": 3,
        "f": 2,
        "g": 3,
        "h": 2,
    }


@pytest.mark.parametrize(("name", "wanted"), [(name, one) for name, all_ in figures.TARGETS.items() for one in all_])
def test_a_target_that_is_not_met_or_not_measured_is_enough_for_not_holding(name, wanted):
    streams = streams_that_hold()
    streams[name]["targets"][wanted] = {"holds": False}
    assert not figures.holds(streams)
    assert figures.missing(streams) == []
    del streams[name]["targets"][wanted]
    assert not figures.holds(streams)
    assert figures.missing(streams) == [f"{name}.{wanted}"]


@pytest.mark.parametrize("streams", [{}, {"h": {"skipped": "needs --data"}}], ids=["nothing", "skipped"])
def test_what_was_not_run_does_not_hold(streams):
    assert not figures.holds(streams)
    assert len(figures.missing(streams)) == sum(map(len, figures.TARGETS.values()))


def test_a_stream_without_an_oracle_lacks_its_gap():
    """Nor is it held for another stream's target."""
    rows = [row(oracle=None, policy=[9, 9], online=[9, 9], no_adaptation=[1, 1])]
    streams = streams_that_hold() | {"b": figures.summed("b", rows)}
    assert figures.missing(streams) == ["b.gap_closed"]
    assert not figures.holds(streams)


def test_each_stream_can_have_all_of_its_targets():
    both = {"policy": [9, 9], "online": [9, 9], "no_adaptation": [1, 1], "oracle:x": [9, 9]}
    full = row(**both) | {"unchanged": {"share": 1.0, "returns": {"policy": [1.0, 1.0], "online": [1.0, 1.0]}}}
    globo = {"seed": 0, "globo_news_head": {"policy": 0.5, "online": 0.5, "no_adaptation": 0.4}}
    streams = {name: figures.summed(name, [globo if name == "h" else full], {"alarms": []}) for name in figures.TARGETS}
    assert {name: set(found["targets"]) for name, found in streams.items()} == {
        name: set(targets) for name, targets in figures.TARGETS.items()
    }
    assert figures.holds(streams)


def test_pieces_are_joined_by_seed_and_the_last_of_the_same_one_counts():
    pieces = [
        {"b": figures.summed("b", [row(1, policy=[980], online=[1000])])},
        {"b": figures.summed("b", [row(0, policy=[500], online=[1000])])},
        {"b": figures.summed("b", [row(0, policy=[990], online=[1000])])},
    ]
    joined = figures.merged(pieces)["b"]
    assert [seed["seed"] for seed in joined["seeds"]] == [0, 1]
    assert joined["targets"]["policy_over_online"]["value"] == 0.98


def test_the_two_parts_of_the_quiet_stream_are_joined():
    learned = figures.summed("a", [row(0, policy=[990], online=[1000])])
    watched = figures.summed("a", [], {"events": 512, "alarms": []})
    for pieces in ([{"a": learned}, {"a": watched}], [{"a": watched}, {"a": learned}]):
        joined = figures.merged(pieces)["a"]
        assert set(joined["targets"]) == set(figures.TARGETS["a"])
        assert joined["events"] == 512
    assert figures.missing({"a": learned})[0] == "a.false_alarms"


def test_a_stream_that_one_piece_skipped_is_that_of_another():
    globo = {"seed": 0, "globo_news_head": {"policy": 0.5, "online": 0.5, "no_adaptation": 0.4}}
    joined = figures.merged([{"h": figures.summed("h", [globo])}, {"h": {"skipped": "needs --data"}}])["h"]
    assert set(joined) == {"seeds", "variants", "targets"}
    assert len(joined["targets"]) == 2
