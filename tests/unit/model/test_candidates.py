import numpy as np
import pytest
from support import Worker, event, random_events

from consumer.events import key64
from model.candidates import FIXED, LAGS, LIKE, Places, features
from model.likeness import LIKENESSES
from model.model import SUMMITS


def described(worker, events, asked):
    """The fixed features of `asked` items in the state after the last event."""
    contexts = worker.histories.stage(events).contexts
    model, states = worker.model, contexts.states
    rows = np.tile(model.items.lookup(np.array([key64(item) for item in asked])), (states, 1))
    p = np.full((3, states, len(asked)), 0.25, np.float32)
    p[1, :, 0] = 0.75
    out = features(
        contexts,
        model.items.lookup(contexts.items_RT),
        rows,
        p,
        np.full(rows.shape, 0.5, np.float32),
        np.full((3, states), 1.0 / 3.0, np.float32),
        model.statistics,
        model.transformer.table.weight.numpy(),
        Places(np.array([0, 1, 2]), np.array([2])),
    )
    return out[contexts.after_B[-1]]


def trained():
    worker = Worker()
    worker.step([event("a", 1, session="s"), event("b", 1), event("b", 2), event("c", 3)])
    worker.step([event("a", 2, session="t"), event("a", 4, session="t")])
    return worker


def test_scores_come_first_scaled_and_then_the_mixture():
    out = described(trained(), [event("a", 4, session="t")], [1, 2])
    scaled = [0.3 * np.log(p + 1e-6) + 1.0 for p in (0.25, 0.75, 0.25, 0.5)]  # 1 is not in the session
    assert out[0, :4] == pytest.approx(scaled, abs=1e-5)
    assert out.shape == (2, 4 + FIXED)


def test_lags_and_counts_in_session_and_history():
    out = described(trained(), [event("a", 4, session="t")], [4, 2, 1, 3])[:, 4:]
    assert out[:, :LAGS].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert out[:, 4] == pytest.approx(0.3 * np.log1p([0, 2, 3, 0]), abs=1e-6)
    assert out[:, 5] == pytest.approx(np.log1p([2, 1, 0, 0]), abs=1e-6)
    assert out[:, 6] == pytest.approx(np.log1p([2, 1, 1, 0]), abs=1e-6)
    assert out[:, 9] == pytest.approx([0.5 * np.log1p(4)] * 4, abs=1e-6)
    assert out[:, 10] == pytest.approx([0.5 * np.log1p(3)] * 4, abs=1e-6)


def test_counts_and_ages_leave_the_users_own_session_out():
    out = described(trained(), [event("a", 4, session="t")], [4, 2, 1, 3])[:, 4:]
    others = [0.0, 1.0, 2.0, 1.0]  # 1 was had by the same user too, in another session
    assert out[:, 8] == pytest.approx(0.3 * np.log1p(others) - 1.0, abs=1e-3)
    ages = [6 - 0, 6 - 3, 6 - 2, 6 - 4]  # events since somebody else had it
    assert out[:, 7] == pytest.approx(0.2 * np.log1p(ages) - 1.0, abs=1e-5)


def test_the_largest_probability_of_some_components_is_told_of_every_candidate():
    out = described(trained(), [event("a", 4, session="t")], [1, 2, 3])
    first = 4 + LIKE + LIKENESSES
    assert out[:, first : first + 3] == pytest.approx(np.tile([0.25, 0.75, 0.25], (3, 1)))
    assert len(SUMMITS) == FIXED - LIKE - LIKENESSES


def test_one_state_leaves_nothing_behind_for_the_next():
    """Features of a state do not depend on which other states are looked at beside it."""
    worker = Worker()
    worker.run(random_events(120))
    events = random_events(20, seed=5)
    whole = worker.look(events)
    for count in (1, 7):
        part = worker.look(events[:count])
        for index in range(count):
            states = [int(look[0].contexts.before_B[index]) for look in (whole, part)]
            ours, theirs = (look[1].candidates for look in (whole, part))
            size = int((ours.rows_QC[states[0]] > 0).sum())
            assert ours.rows_QC[states[0], :size].tolist() == theirs.rows_QC[states[1], :size].tolist()
            assert ours.features_QCF[states[0], :size] == pytest.approx(theirs.features_QCF[states[1], :size], abs=1e-4)


def test_counting_components_say_nothing_of_what_is_in_the_session():
    out = described(trained(), [event("a", 4, session="t")], [1, 2])
    clean = (0.25 + 0.25) / 2.0  # 2 is in the session, the third component counts: the two others are mixed
    assert out[1, :4] == pytest.approx([0.3 * np.log(p + 1e-6) + 1.0 for p in (0.25, 0.25, 0.0, clean)], abs=1e-5)


def test_the_count_of_the_latest_item_is_told_of_every_candidate():
    out = described(trained(), [event("a", 3)], [1, 2])[:, 4:]
    assert out[:, 11] == pytest.approx([0.3 * np.log1p(1.0) - 1.0] * 2, abs=1e-3)


def test_what_followed_the_latest_item_before_is_told_and_how_the_session_repeats_itself():
    history = [event("a", item, session="t") for item in (4, 2, 3)]  # after 1 of another session, then 2 and 4
    out = described(trained(), [*history, event("a", 4, session="t")], [2, 3, 4, 1])[:, 4:]
    assert out[:, 12] == pytest.approx([1.0 * 0.7**0, 0.0, 0.7, 0.0])  # after the 4 before, and the one before that
    assert out[:, 13] == pytest.approx([3 / 6] * 4)  # 2 4 4 2 3 4
    assert out[:, 14] == pytest.approx([0.3 * np.log1p(3)] * 4)
    out = described(trained(), [event("a", 3, session="u")], [2, 4])[:, 4:]
    assert out[:, 12:15].tolist() == [[0.0, 0.0, -1.0]] * 2
