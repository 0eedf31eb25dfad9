from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from support import Worker, event, random_events, same_state, small_settings

from consumer.events import key64
from model.candidates import union
from model.predictor import LIST_LENGTH, MISS, heaviest_columns, rank_in
from model.vocabulary import UNKNOWN


def trained(n=160, settings=None, **stream):
    worker = Worker(settings)
    worker.run(random_events(n, **stream))
    return worker


def names(worker, rows):
    return [worker.model.items.names[row] for row in rows if row]


def check_lists(predictions):
    """Best first, no item twice, nothing after the first empty place, probabilities where there are items."""
    rows, p = predictions.rows_BK, predictions.p_BK
    assert rows.shape == p.shape == (len(rows), LIST_LENGTH)
    assert (np.diff(p, axis=1) <= 0.0).all()
    assert ((p > 0.0) == (rows != UNKNOWN)).all()
    assert ((p >= 0.0) & (p <= 1.0)).all()
    assert (p.sum(axis=1) <= 1.0 + 1e-5).all()
    for line in rows:
        kept = line[line != UNKNOWN]
        assert len(set(kept.tolist())) == len(kept)


def check_scores(scores, events):
    assert len(scores.rank_B) == len(scores.log_prob_B) == len(events)
    assert np.isfinite(scores.log_prob_B).all()
    assert (scores.log_prob_B <= 1e-6).all()
    assert ((scores.rank_B >= 0) & ((scores.rank_B < LIST_LENGTH) | (scores.rank_B == MISS))).all()
    assert (scores.p_BM > 0.0).all()


def test_predicting_changes_nothing():
    worker = trained()
    before = worker.learner.state()
    events = random_events(30, seed=1, items=60)
    first = worker.look(events)
    second = worker.look(events)
    assert same_state(before, worker.learner.state())
    assert first[2].rows_BK.tobytes() == second[2].rows_BK.tobytes()
    assert first[1].log_prob_B.tobytes() == second[1].log_prob_B.tobytes()


@pytest.mark.parametrize(("items", "max_items"), [(5, 1000), (19, 1000), (30, 1000), (400, 1000), (60, 16), (400, 60)])
def test_lists_are_ordered_and_distinct_and_hold_admitted_items_only(items, max_items):
    worker = trained(items=items, settings=small_settings(model={"max_items": max_items}))
    events = random_events(40, seed=1, items=items)
    _, scores, predictions = worker.look(events)
    check_lists(predictions)
    check_scores(scores, events)
    admitted = set(worker.model.items.admitted_rows().tolist())
    assert {int(row) for row in predictions.rows_BK[predictions.rows_BK > 0]} <= admitted
    assert worker.model.items.keys(predictions.rows_BK).tolist() == predictions.keys_BK.tolist()
    assert all(None not in names(worker, line) for line in predictions.rows_BK)
    if min(items, max_items) >= 20:
        assert (predictions.rows_BK != UNKNOWN).all()


def test_the_rank_is_the_place_in_the_list_that_would_have_been_published():
    worker = trained()
    events = [event("u1", 3, 1.8e9), event("u1", 5, 1.8e9), event("u2", 7, 1.8e9), event("new", 2, 1.8e9)]
    staged, scores, _ = worker.look(events)
    assert staged.contexts.first_B.tolist() == [False, False, False, True]
    for index, one in enumerate(events):
        before = events[:index]
        same_user = [e for e in before if e.user_key == one.user_key]
        probe = event(one.user_id, "nobody has seen this", 1.9e9)
        _, _, published = worker.look(same_user[-1:] if same_user else [probe])
        line = published.rows_BK[-1] if same_user else look_before(worker, one)
        place = np.flatnonzero(line == scores.target_B[index])
        assert scores.rank_B[index] == (place[0] if len(place) else MISS)


def look_before(worker, one):
    """The list for a user's state as it is: a late event that is skipped leaves the state alone."""
    skipping = Worker(small_settings(input={"on_late": "skip"}))
    skipping.histories._rules, skipping.histories.partitions = skipping.settings.input, worker.histories.partitions
    skipped = msgspec.structs.replace(one, late=True)
    staged = skipping.histories.stage([skipped])
    assert staged.contexts.before_B.tolist() == staged.contexts.after_B.tolist()
    _, predictions = worker.predictor.predict(staged.contexts, exclude_seen=False)
    return predictions.rows_BK[0]


def test_log_probabilities_are_those_of_the_published_distribution():
    """One distribution for ranks, lists and log-loss: the score of a listed target is its probability."""
    worker = trained()
    one = event("u1", 3, 1.8e9)
    line = look_before(worker, one)
    published = worker.predictor.predict(staged_without_change(worker, one), exclude_seen=False)[1]
    for row in line[:10].tolist():
        target = event("u1", worker.model.items.names[row], 1.8e9)
        _, scores, _ = worker.look([target])
        place = int(np.flatnonzero(line == row)[0])
        assert np.exp(scores.log_prob_B[0]) == pytest.approx(float(published.p_BK[0, place]), rel=1e-3)
        assert scores.rank_B[0] == place


def staged_without_change(worker, one):
    skipping = Worker(small_settings(input={"on_late": "skip"}))
    skipping.histories.partitions = worker.histories.partitions
    return skipping.histories.stage([msgspec.structs.replace(one, late=True)]).contexts


@pytest.mark.parametrize(
    "change",
    [
        {"item_id": 11, "item_key": key64(11)},
        {"event_type": "buy", "type_key": key64("buy")},
        {"event_time": 1.9e9},
        {"session_key": 77},
        {"value": 3.0, "features": {"x": 1}},
    ],
)
def test_an_event_is_ranked_without_a_look_at_itself_or_what_follows(change):
    worker = trained()
    events = [event("u1", 3, 1.8e9, kind="view"), event("u2", 4, 1.8e9), event("u1", 5, 1.8e9 + 60, kind="view")]
    for index in range(3):
        changed = [*events]
        changed[index] = msgspec.structs.replace(events[index], **change)
        before = worker.histories.stage(events).contexts
        after = worker.histories.stage(changed).contexts
        lists = [worker.model.views(contexts) for contexts in (before, after)]
        for a, b in zip(lists[0].all, lists[1].all, strict=True):
            for place in range(index + 1):
                if events[place].user_key != events[index].user_key and place > index:
                    continue
                states = [int(contexts.before_B[place]) for contexts in (before, after)]
                assert a.propose(20)[0][states[0]].tolist() == b.propose(20)[0][states[1]].tolist()
                assert a.propose(20)[1][states[0]] == pytest.approx(b.propose(20)[1][states[1]], abs=1e-6)
        scores = [worker.predictor.predict(contexts, exclude_seen=False)[0] for contexts in (before, after)]
        unchanged = [place for place in range(index) if place != index]
        assert scores[0].rank_B[unchanged].tolist() == scores[1].rank_B[unchanged].tolist()
        if "item_id" not in change:
            assert scores[0].rank_B[index] == scores[1].rank_B[index]
            assert scores[0].log_prob_B[index] == pytest.approx(scores[1].log_prob_B[index], abs=1e-6)
            assert scores[0].gap_quantiles_B3[index].tolist() == pytest.approx(
                scores[1].gap_quantiles_B3[index], abs=1e-5
            )


def test_seen_items_are_left_out_where_asked():
    worker = trained(n=300, users=3, items=40)
    events = random_events(30, seed=4, users=3, items=40)
    staged, scores, predictions = worker.look(events, exclude_seen=True)
    check_lists(predictions)
    contexts = staged.contexts
    for index in range(len(events)):
        state = contexts.after_B[index]
        row, stop = contexts.state_row_Q[state], contexts.state_position_Q[state] + 1
        kept = set(contexts.items_RT[row, :stop].tolist())
        assert not kept & set(predictions.keys_BK[index].tolist())
    assert scores.repeat_B.any()
    assert (scores.rank_B[scores.repeat_B] == MISS).all()
    for rank_B in scores.rank_MB:
        assert (rank_B[scores.repeat_B] == MISS).all()
    _, ordinary, _ = worker.look(events)
    hit = (ordinary.rank_B != MISS) & ~scores.repeat_B
    assert (scores.rank_B[hit] <= ordinary.rank_B[hit]).all()


def test_repeats_are_targets_in_the_kept_history():
    worker = Worker()
    worker.step([event("u", n, 1.0 * n) for n in (1, 2, 3)])
    events = [event("u", 2, 10.0), event("u", 9, 11.0), event("v", 1, 12.0), event("u", 3, 13.0)]
    assert worker.look(events)[1].repeat_B.tolist() == [True, False, False, True]


def test_the_emitted_rank_is_that_in_the_list_last_published():
    worker = trained(users=2)
    published = worker.step([event("a", 1, 1.8e9)]).predictions
    worker.run(random_events(64, seed=9, users=1))  # what is known changes, what was published does not
    target = int(published.rows_BK[0, 6])
    step = worker.step([event("a", worker.model.items.names[target], 1.81e9), event("a", 2, 1.81e9)])
    assert step.scores.emitted_rank_B[0] == 6
    assert step.scores.emitted_rank_B[1] == step.scores.rank_B[1]


def test_where_nothing_was_published_the_emitted_rank_is_a_miss():
    worker = trained()
    assert worker.look([event("nobody", 1, 1.8e9)])[1].emitted_rank_B.tolist() == [MISS]


def test_after_a_chunk_of_a_long_micro_batch_the_emitted_rank_is_still_that_of_the_batch():
    """A user with more new events than the history holds has several rows; each goes on where the last one ended."""
    worker = trained(settings=small_settings(history={"length": 8}))
    events = [event("long", n % 5, 1.8e9 + n) for n in range(30)]
    _, scores, _ = worker.look(events)
    assert scores.emitted_rank_B[1:].tolist() == scores.rank_B[1:].tolist()


def test_the_very_first_micro_batch():
    worker = Worker()
    events = random_events(10)
    _, scores, predictions = worker.look(events)
    check_lists(predictions)
    check_scores(scores, events)
    assert not predictions.rows_BK.any()
    assert predictions.type_p_BY is None
    assert predictions.seconds_B3 is None
    assert (scores.rank_B == MISS).all()
    assert np.exp(scores.log_prob_B) == pytest.approx(np.ones(10), abs=1e-5)


def test_a_micro_batch_of_nothing():
    for worker in (Worker(), trained()):
        _, scores, predictions = worker.look([])
        assert predictions.rows_BK.shape == (0, LIST_LENGTH)
        assert scores.rank_B.shape == (0,)


def test_a_micro_batch_of_one_and_of_a_new_user():
    worker = trained()
    staged, scores, predictions = worker.look([event("somebody new", "something new", 1.8e9)])
    check_lists(predictions)
    check_scores(scores, [0])
    assert scores.target_B.tolist() == [UNKNOWN]
    assert scores.rank_B.tolist() == [MISS]
    unknown = worker.model.smoothing(staged.contexts)(np.zeros((1, 1)), np.array([[UNKNOWN]]))[0, 0]
    assert np.exp(scores.log_prob_B[0]) == pytest.approx(unknown, rel=1e-4)


def test_a_micro_batch_of_one_user_longer_than_the_history():
    worker = Worker(small_settings(history={"length": 8}))
    worker.run([event("u", n % 7, 10.0 * n) for n in range(60)], batch=30)
    events = [event("u", n % 7, 1000.0 + n) for n in range(30)]
    staged, scores, predictions = worker.look(events)
    assert len(staged.contexts.length_R) == 4
    check_lists(predictions)
    check_scores(scores, events)


@pytest.mark.parametrize(("kinds", "timed"), [(("view",), True), (("view", "buy"), False), (("view",), False)])
def test_heads_are_left_out_where_the_stream_has_no_types_or_times(kinds, timed):
    worker = trained(kinds=kinds, timed=timed)
    events = random_events(10, seed=2, kinds=kinds, timed=timed)
    _, scores, predictions = worker.look(events)
    check_lists(predictions)
    assert (predictions.type_p_BY is None) == (len(kinds) == 1)
    assert (predictions.seconds_B3 is None) == (not timed)
    assert np.isnan(scores.log_gap_B).all() == (not timed)


def test_seconds_to_the_next_event_are_ordered_and_finite():
    worker = trained()
    seconds = worker.look(random_events(20, seed=2))[2].seconds_B3
    assert np.isfinite(seconds).all()
    assert (seconds >= 0.0).all()
    assert (np.diff(seconds, axis=1) >= 0.0).all()


def test_gaps_are_from_the_users_previous_event():
    worker = Worker()
    worker.step([event("a", 1, 100.0), event("b", 1, 150.0)])
    events = [event("a", 1, 160.0), event("b", 2, 150.0), event("a", 2, 161.0), event("c", 1, 170.0), event("b", 2)]
    gaps = np.expm1(worker.look(events)[1].log_gap_B)
    assert gaps.tolist() == pytest.approx([60.0, 0.0, 1.0, np.nan, np.nan], nan_ok=True)


def test_the_union_keeps_each_row_once():
    assert union(np.array([[3, 1, 3, 0, 1, 2], [0] * 6], np.int32), 4, 2).tolist() == [[3, 1, 2], [0, 0, 0]]
    assert union(np.array([[3, 3]], np.int32), 4, 4).tolist() == [[3, 0, 0, 0]]


def test_ranks_of_what_is_listed_missing_and_unknown():
    lists = np.array([[4, 7, 0], [4, 7, 0], [4, 7, 0]])
    assert rank_in(lists, np.array([7, 5, UNKNOWN])).tolist() == [1, MISS, MISS]


def test_one_distribution_covers_all_items_and_unknown():
    """The ranker's share on the candidates and the mixture's elsewhere sum to 1, whatever the target."""
    worker = trained(n=300, items=200)
    names = [worker.model.items.names[row] for row in worker.model.items.admitted_rows()]
    targets = [msgspec.structs.replace(event("u1", name, 1.8e9), late=True) for name in [*names, "never seen"]]
    skipping = Worker(small_settings(input={"on_late": "skip"}))
    skipping.histories.partitions = worker.histories.partitions
    scores, _ = worker.predictor.predict(skipping.histories.stage(targets).contexts, exclude_seen=False)
    assert 0 < (scores.column_B >= 0).sum() < len(names)
    assert np.exp(scores.log_prob_B).sum() == pytest.approx(1.0, abs=1e-4)


def test_before_it_learns_the_ranker_orders_as_the_mixture_does_but_for_items_of_the_session():
    worker = Worker()
    worker.learner.model.ranker.learn = lambda *_: False
    worker.run(random_events(300, items=18))
    events = random_events(15, seed=8, items=18)
    contexts = worker.histories.stage(events).contexts
    scores, predictions = worker.predictor.predict(contexts, exclude_seen=False)
    mixture, rows = scores.candidates.mixture_QC[contexts.after_B], scores.candidates.rows_QC[contexts.after_B]
    best = np.take_along_axis(rows, np.argsort(-mixture, axis=1, kind="stable"), axis=1)
    compared = 0
    for index, state in enumerate(contexts.after_B.tolist()):
        session = items_of_the_session(worker, contexts, state)
        listed = [row for row in predictions.rows_BK[index].tolist() if row and row not in session]
        expected = [row for row in best[index].tolist() if row and row not in session]
        assert listed == expected[: len(listed)]
        compared += len(listed)
    assert compared > 100


def test_only_the_most_probable_of_all_proposals_are_ranked(monkeypatch):
    worker = trained(400, items=60)
    events = random_events(15, seed=8, items=60)
    whole = worker.look(events)[1].candidates
    assert (whole.rows_QC != UNKNOWN).sum(axis=1).max() > LIST_LENGTH + 5
    monkeypatch.setattr("model.predictor.RANKED", LIST_LENGTH)
    cut = worker.look(events)[1].candidates
    assert cut.rows_QC.shape[1] == LIST_LENGTH
    best = np.argsort(-whole.mixture_QC, axis=1, kind="stable")[:, :LIST_LENGTH]
    assert cut.rows_QC.tolist() == np.take_along_axis(whole.rows_QC, best, axis=1).tolist()
    assert cut.mixture_QC.tolist() == np.take_along_axis(whole.mixture_QC, best, axis=1).tolist()


def items_of_the_session(worker, contexts, state):
    line, place = contexts.state_row_Q[state], contexts.state_position_Q[state]
    begin = np.flatnonzero(contexts.session_RT[line, : place + 1]).max(initial=0)
    return set(worker.model.items.lookup(contexts.items_RT[line, begin : place + 1]).tolist())


def test_late_events_that_are_skipped_leave_the_state_alone():
    worker = trained(settings=small_settings(input={"on_late": "skip"}))
    first, late, again = event("u1", 1, 1.8e9), event("u1", 2, 1.0, late=True), event("u1", 3, 1.8e9 + 5)
    staged, scores, predictions = worker.look([first, late, again])
    assert staged.contexts.learn_B.tolist() == [True, False, True]
    assert predictions.rows_BK[0].tolist() == predictions.rows_BK[1].tolist()
    assert np.expm1(scores.log_gap_B[2]) == pytest.approx(5.0)
    without = worker.look([first, again])
    assert scores.rank_B[2] == without[1].rank_B[1]
    assert predictions.rows_BK[2].tolist() == without[2].rows_BK[1].tolist()


def test_scores_hold_the_support_of_their_time():
    worker = trained()
    contexts = replace(worker.histories.stage(random_events(3, seed=1)).contexts)
    assert worker.predictor.predict(contexts, exclude_seen=False)[0].support == worker.model.items.size


@pytest.mark.parametrize("index", [0, 3, 11])
def test_no_state_sees_an_event_at_or_after_its_moment(index):
    """Another item in one event: what was known before that event says the same of everything, the rest need not."""
    worker = trained()
    events = random_events(12, seed=4)
    changed = [*events]
    changed[index] = msgspec.structs.replace(events[index], item_id=29, item_key=key64(29))
    looks = []
    for batch in (events, changed):
        contexts = worker.histories.stage(batch).contexts
        contexts = worker.learner.show(contexts, worker.learner.plan(contexts))
        looks.append((contexts, worker.predictor.predict(contexts, exclude_seen=False)[0].candidates))
    earlier = looks[0][0].moment_Q <= index
    assert earlier.any()
    for one, other in (("rows_QC", np.array_equal), ("features_QCF", np.allclose)):
        ours, theirs = (getattr(lists, one)[earlier] for _, lists in looks)
        width = min(ours.shape[1], theirs.shape[1])
        assert other(ours[:, :width], theirs[:, :width])
        assert not ours[:, width:].any()
    later = ~earlier
    assert later.any()
    assert not np.array_equal(looks[0][1].features_QCF[later], looks[1][1].features_QCF[later])


def test_what_others_just_did_is_seen_within_the_micro_batch_where_it_is_learned():
    worker = trained()
    events = [event("u1", 3, 1.8e9), event("u2", 7, 1.8e9), event("u3", 9, 1.8e9)]
    contexts = worker.histories.stage(events).contexts
    place = worker.model.mixture.names.index("latest_items")
    seven = int(worker.model.items.lookup(np.array([key64(7)]))[0])
    for learn in (True, False):
        shown = worker.learner.show(contexts, worker.learner.plan(contexts, learn=learn))
        view = worker.model.views(shown).all[place]
        p = view.score(shown.after_B.astype(np.int64), np.full((3, 1), seven, np.int32))[:, 0]
        assert p[2] > p[0] or not learn
        assert p[2] == p[0] or learn


@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_heaviest_columns_come_first_ties_by_column_and_negative_ones_last(n):
    p = np.random.default_rng(n).choice(np.array([-1.0, 0.0, 0.1, 0.2, 0.9], np.float32), (30, 40))
    best, values = heaviest_columns(p, n)
    for line in range(30):
        expected = sorted(range(40), key=lambda column: (-p[line, column], column))[:n]
        assert best[line].tolist() == expected
        assert values[line].tolist() == p[line, expected].tolist()
