from bisect import bisect_left
from math import inf, log, log1p

import numpy as np
import pytest

from incremental.baselines import Baselines
from incremental.baselines.counts import CountedItems, DecayedCounts
from incremental.baselines.event_types import MAX_TYPES, TypeBaselines
from incremental.baselines.items import ItemBaselines, KeptItems
from incremental.baselines.times import RESOLUTION, GapHistogram
from incremental.outcomes import FIRST, IGNORED, MISS, SCORED, Observed


def observed(users, items, *, kinds=None, types=None, times=None, admitted=True, support=10, exclude_seen=False):
    count = len(items)
    return Observed(
        kind_B=np.array(kinds if kinds is not None else [SCORED] * count, dtype=np.uint8),
        user_B=np.array(users, dtype=np.int64),
        item_B=np.array(items, dtype=np.int64),
        type_B=np.array(types if types is not None else [7] * count, dtype=np.int64),
        time_B=np.array(times if times is not None else [np.nan] * count, dtype=np.float64),
        admitted_B=np.full(count, admitted),
        support=support,
        exclude_seen=exclude_seen,
    )


def ranks(outcomes, name):
    return outcomes[0][name].rank_B.tolist()


def test_each_event_is_scored_before_it_is_learned():
    baselines = Baselines(4, 0.01, 10)
    outcomes = baselines.observe(observed([1, 1, 1], [5, 5, 6], kinds=[FIRST, SCORED, SCORED]))
    for name in outcomes[0]:
        assert ranks(outcomes, name) == [MISS, 0, MISS]


def test_equal_scores_count_against_the_method():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1, 2, 3], [5, 6, 7]))
    assert ranks(baselines.observe(observed([4], [5])), "popularity") == [2]


def test_recent_popularity_puts_the_latest_first():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1, 2, 3], [5, 6, 7]))
    assert ranks(baselines.observe(observed([4], [7])), "recent_popularity@1000") == [0]


def test_markov_backs_off_behind_its_own_list():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1, 1, 2, 3], [5, 6, 9, 9]))
    after_five = baselines.observe(observed([4, 4], [5, 9]))
    assert ranks(after_five, "markov")[1] == 1
    assert ranks(after_five, "recent_popularity@10000")[1] == 0


def test_ignored_events_are_misses_and_teach_nothing():
    baselines = Baselines(4, 0.01, 10)
    items, types, times = baselines.observe(observed([1], [5], kinds=[IGNORED], times=[1.0]))
    assert items["markov"].rank_B.tolist() == [MISS]
    for log_prob in (items["popularity"].log_prob_B, types["mode"].log_prob_B, times["median"].pinball_B):
        assert np.isnan(log_prob).all()
    assert ranks(baselines.observe(observed([2], [5])), "popularity") == [MISS]


def test_a_target_that_is_not_admitted_is_charged_unknown_by_all():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1, 1], [5, 5]))
    items, _, _ = baselines.observe(observed([1], [5], admitted=False, support=9))
    assert {outcome.log_prob_B[0] for outcome in items.values()} == {log(0.01 / 10)}
    assert items["own_recent"].rank_B[0] == 0


def test_with_exclude_seen_a_repetition_is_a_miss_and_kept_items_free_their_places():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1, 2, 2, 1], [5, 5, 6, 7]))
    for item, expected in ((5, MISS), (6, 0)):
        outcomes = baselines.observe(observed([1], [item], exclude_seen=True))
        assert ranks(outcomes, "popularity") == [expected]
        assert ranks(outcomes, "own_frequent") == [expected]


def test_a_first_event_starts_a_user_anew():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([2, 1, 1, 1], [5, 6, 6, 5]))
    outcomes = baselines.observe(observed([1, 1], [6, 5], kinds=[FIRST, SCORED]))
    assert ranks(outcomes, "own_recent")[1] == 1  # behind 6, the one item kept since


def test_the_user_unseen_for_longest_is_dropped():
    baselines = Baselines(4, 0.01, 2)
    baselines.observe(observed([9, 9, 1, 2, 1, 3], [6, 6, 5, 5, 5, 5]))
    outcomes = baselines.observe(observed([1, 2], [6, 6]))
    assert ranks(outcomes, "markov") == [1, 1]
    assert set(baselines._users) == {1, 2}


def test_the_item_unseen_for_longest_is_forgotten_with_its_successors():
    items = ItemBaselines(4, 0.01, max_items=3, max_successors=8)
    for item in (1, 1, 1, 2, 3, 4):
        items.learn(item, None)
    assert items.ranks(1, None, exclude_seen=False)[0] == MISS
    assert items.ranks(2, None, exclude_seen=False)[0] == 2
    items.learn(2, None)
    assert items.ranks(2, None, exclude_seen=False)[0] == 0


def test_halving_drops_the_rarest_and_among_equals_the_oldest():
    counts = CountedItems()
    for item in (1, 2, 2, 3, 4, 4, 4, 5):
        counts.add(item)
    counts.halve()
    assert dict(counts.of) == {2: 2, 4: 3, 5: 1}
    assert counts.total == 6
    assert [counts.ranks(item, ()) for item in (4, 2, 5)] == [(0, 0), (1, 1), (2, 2)]


def test_of_equal_counts_the_latest_is_first_where_the_name_says_so():
    for item, with_ties, latest in ((7, 1, 0), (6, 1, 1)):
        seen = Baselines(8, 0.01, 10).observe(observed([1, 1, 1, 1, 1, 1], [5, 6, 5, 7, 5, item]))
        assert (ranks(seen, "markov")[-1], ranks(seen, "markov_latest")[-1]) == (with_ties, latest)
        assert (ranks(seen, "own_frequent")[-1], ranks(seen, "own_frequent_latest")[-1]) == (with_ties + 1, latest + 1)


def test_successors_are_bounded_where_users_return_after_their_item_was_forgotten():
    items = ItemBaselines(4, 0.01, max_items=3, max_successors=8)
    kept = {user: KeptItems() for user in range(5)}
    for number in range(200):
        user = number % 5
        items.learn(number, kept[user] if kept[user].events else None)
        kept[user].add(number, 4)
    assert len(items._successors) <= 3


def test_an_item_keeps_a_bounded_number_of_successors():
    baselines = Baselines(4, 0.01, 100, max_successors=8)
    for item in range(100, 200):
        baselines.observe(observed([1, 1], [5, item], kinds=[FIRST, SCORED]))
    assert len(baselines._items._successors[5].of) <= 8


def test_counted_items_agree_with_counting_by_hand():
    rng = np.random.default_rng(1)
    counts, kept = CountedItems(), []
    for item in rng.integers(0, 12, 400).tolist():
        counts.add(item)
        kept.append(item)
        if len(kept) > 30:
            counts.remove(kept.pop(0))
        others = {other: kept.count(other) - kept.count(item) for other in set(kept) - {item}}
        later = sum(more == 0 and kept[::-1].index(other) < kept[::-1].index(item) for other, more in others.items())
        at_least, more = (sum(difference >= least for difference in others.values()) for least in (0, 1))
        assert counts.ranks(item, ()) == (at_least, more + later)
        assert counts.total == len(kept)


def test_renormalising_changes_no_rank_and_no_share():
    rng = np.random.default_rng(2)
    decayed, by_hand = DecayedCounts(1.5, 60), {}
    for item in rng.integers(0, 30, 3000).tolist():  # weights would pass 2**2000
        decayed.learn(item)
        by_hand = {other: weight * 2 ** (-1 / 1.5) for other, weight in by_hand.items()}
        by_hand[item] = by_hand.get(item, 0.0) + 1.0
    latest = sorted(by_hand, key=by_hand.get, reverse=True)
    assert [decayed.rank(item, ()) for item in latest[:12]] == list(range(12))
    for item in latest[:12]:
        assert decayed.share(item) == pytest.approx(by_hand[item] / sum(by_hand.values()), rel=1e-9)


def test_dropping_a_listed_item_lets_the_next_one_in():
    counts = DecayedCounts(inf, 3)
    for item in (1, 1, 1, 2, 2, 3, 3, 4):
        counts.learn(item)
    counts.drop(1)
    assert counts.rank(4, ()) == 2


def test_types_are_not_judged_before_a_second_one_appears():
    baselines = Baselines(4, 0.01, 10)
    _, types, _ = baselines.observe(observed([1] * 4, [5] * 4, types=[7, 7, 8, 7]))
    assert np.isnan(types["mode"].log_prob_B).tolist() == [True, True, True, False]


def test_type_methods_guess_as_their_names_say():
    baselines = Baselines(4, 0.01, 10)
    baselines.observe(observed([1] * 6, [5] * 6, types=[7, 8, 7, 8, 7, 7]))
    _, types, _ = baselines.observe(observed([1, 2, 2], [5, 5, 5], types=[7, 8, 7]))
    guesses = {name: outcome.correct_B.tolist() for name, outcome in types.items()}
    assert guesses == {"mode": [True, False, True], "last": [True, False, False], "per_type": [False, False, True]}


def test_type_probabilities_sum_to_at_most_one():
    types = TypeBaselines(0.05)
    rng = np.random.default_rng(3)
    previous = None
    for kind in rng.choice([11, 12, 13, 14], 200, p=[0.6, 0.2, 0.15, 0.05]).tolist():
        types.learn(kind, previous)
        previous = kind
    judged = [types.score(kind, 12) for kind in (11, 12, 13, 14)]
    unknown = np.exp(types.score(99, 12)[0][1])
    for method in range(3):
        assert sum(np.exp(guess[method][1]) for guess in judged) + unknown == pytest.approx(1.0)


def test_the_number_of_types_is_bounded():
    types = TypeBaselines(0.05)
    for kind in range(1, 2 * MAX_TYPES):
        types.learn(types.known(kind), None)
    assert len(types._all.of) <= MAX_TYPES + 1


def exact_quantile(values, level):
    ordered = sorted(values)
    return ordered[bisect_left(np.arange(1, len(ordered) + 1), level * len(ordered))]


def test_streaming_quantiles_are_exact_up_to_the_resolution():
    rng = np.random.default_rng(4)
    gaps = np.where(rng.random(2000) < 0.5, 0.0, rng.lognormal(6, 3, 2000)).tolist()
    histogram, seen = GapHistogram(), []
    for index, gap in enumerate(gaps):
        histogram.add(log1p(gap))
        seen.append(log1p(gap))
        if index % 37 == 0:
            for level, quantile in zip((0.1, 0.5, 0.9), histogram.quantiles(), strict=True):
                assert quantile == pytest.approx(exact_quantile(seen, level), abs=RESOLUTION / 2 + 1e-9)


def test_times_are_judged_by_the_gaps_before_them():
    baselines = Baselines(4, 0.01, 10)
    _, _, times = baselines.observe(observed([1] * 4, [5] * 4, times=[100.0, 160.0, 150.0, 210.0]))
    errors = times["median"].abs_log_error_B
    assert np.isnan(errors[:2]).all()
    assert errors[2] == pytest.approx(log1p(60.0), abs=RESOLUTION)  # going back in time is a gap of 0
    _, _, later = baselines.observe(observed([1], [5], times=[np.nan]))
    assert np.isnan(later["median"].pinball_B).all()
    _, _, after = baselines.observe(observed([1], [5], times=[300.0]))
    assert np.isnan(after["median"].pinball_B).all()  # its predecessor had no time


def test_gaps_are_told_apart_by_the_type_before_them():
    baselines = Baselines(4, 0.01, 10)
    times = np.cumsum([0, 10, 1000] * 20).astype(float)
    kinds = ([7, 8, 9] * 20)[: len(times)]
    _, _, outcomes = baselines.observe(observed([1] * 60, [5] * 60, types=kinds, times=times))
    late = slice(30, 60)
    assert outcomes["per_type_median"].abs_log_error_B[late].mean() < 0.01
    assert outcomes["median"].abs_log_error_B[late].mean() > 1.0


def test_an_empty_micro_batch_gives_empty_outcomes():
    items, types, times = Baselines(4, 0.01, 10).observe(observed([], []))
    assert items["popularity"].rank_B.shape == types["last"].correct_B.shape == times["median"].pinball_B.shape == (0,)
