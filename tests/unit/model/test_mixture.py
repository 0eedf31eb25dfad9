import numpy as np
import pytest
from support import same_state

from model.mixture import BUCKETS, Mixture, bucket, combine


def learn_stream(mixture, p_BK, buckets=None, batch=1):
    """Return the log-loss of each event, scored before it is learned."""
    buckets = np.zeros(len(p_BK), np.int64) if buckets is None else buckets
    losses = []
    for start in range(0, len(p_BK), batch):
        part = slice(start, start + batch)
        mixed = np.einsum("bk,bk->b", p_BK[part], mixture.weights(buckets[part]))
        losses.append(-np.log(mixed))
        mixture.learn(p_BK[part], buckets[part])
    return np.concatenate(losses)


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (10, 5), (11, 6), (30, 6), (31, 7)]
)
def test_buckets_are_lengths_of_history(length, expected):
    assert bucket(np.array([length])).tolist() == [expected]


def test_it_begins_even():
    assert Mixture(["a", "b", "c"]).weights(np.array([0, 7])).tolist() == [pytest.approx([1 / 3] * 3)] * 2


def test_combining_is_the_weighted_sum():
    mixture, draw = Mixture(["a", "b"]), np.random.default_rng(0)
    mixture.learn(np.array([[0.9, 0.1]] * 5), np.zeros(5, np.int64))
    p_KSC = draw.random((2, 3, 4)).astype(np.float32)
    buckets = np.array([0, 1, 0])
    weights = mixture.weights(buckets)
    expected = np.einsum("ksc,sk->sc", p_KSC, weights)
    assert combine(p_KSC, weights.T.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_it_learns_the_best_component():
    draw = np.random.default_rng(0)
    p_BK = draw.uniform(0.0, 0.2, size=(2000, 3))
    p_BK[:, 1] += 0.1
    mixture = Mixture(["a", "b", "c"])
    losses = learn_stream(mixture, p_BK, batch=50)
    assert mixture.weights(np.array([0]))[0, 1] > 0.7
    best = -np.log(p_BK[:, 1])
    assert losses[1000:].mean() < best[1000:].mean() + 0.02


def test_it_beats_every_component_where_they_are_good_at_different_events():
    draw = np.random.default_rng(0)
    good = draw.random(3000) < 0.5
    p_BK = np.where(np.stack([good, ~good], axis=1), 0.5, 0.001)
    losses = learn_stream(Mixture(["a", "b"]), p_BK, batch=100)
    assert losses[500:].mean() < -np.log(0.24)
    assert (-np.log(p_BK)).mean(axis=0).min() > 3.0


def test_it_comes_back_after_a_change():
    p_BK = np.array([[0.5, 0.01]] * 2000 + [[0.01, 0.5]] * 400)
    losses = learn_stream(Mixture(["a", "b"]), p_BK)
    assert losses[2100:].mean() < -np.log(0.4)


def test_each_bucket_of_history_has_a_blend_of_its_own():
    mixture = Mixture(["a", "b"])
    buckets = np.array([0, 3] * 500)
    p_BK = np.where((buckets == 0)[:, None], [[0.5, 0.1]], [[0.1, 0.5]])
    learn_stream(mixture, p_BK, buckets, batch=20)
    weights = mixture.weights(np.array([0, 3]))
    assert weights[0, 0] > 0.8
    assert weights[1, 1] > 0.8


def test_nothing_teaches_nothing():
    mixture = Mixture(["a", "b"])
    before = mixture.state()
    mixture.learn(np.zeros((0, 2)), np.zeros(0, np.int64))
    assert same_state(before, mixture.state())


def test_what_people_see_sums_to_one():
    mixture = Mixture(["a", "b"])
    assert mixture.overall() == pytest.approx({"a": 0.5, "b": 0.5})
    mixture.learn(np.array([[0.9, 0.1], [0.2, 0.1]]), np.array([0, len(BUCKETS)]))
    assert sum(mixture.overall().values()) == pytest.approx(1.0)
    assert mixture.overall()["a"] > 0.5


def test_the_state_goes_on_bit_for_bit():
    draw = np.random.default_rng(0)
    p_BK, buckets = draw.random((40, 3)), draw.integers(0, 8, 40)
    one, other = Mixture(["a", "b", "c"]), Mixture(["a", "b", "c"])
    one.learn(p_BK[:20], buckets[:20])
    other.load(one.state())
    for mixture in (one, other):
        mixture.learn(p_BK[20:], buckets[20:])
    assert same_state(one.state(), other.state())
