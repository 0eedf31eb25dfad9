import numpy as np
import pytest
import torch
from support import same_state

from model.candidates import LOG_SCALE, Candidates
from model.ranker import DECAY_STEPS, LEARNING_RATE, LEAST_RATE, Ranker, softmax_by_line

FEATURES, MIXTURE = 5, 2


def lists(seed=0, states=6, width=8):
    """Padded lists whose features at MIXTURE are the scaled logarithm of a mixture."""
    draw = np.random.default_rng(seed)
    rows = draw.permuted(np.tile(np.arange(1, width + 1), (states, 1)), axis=1).astype(np.int32)
    rows[np.arange(width) >= draw.integers(2, width + 1, states)[:, None]] = 0
    features = draw.standard_normal((states, width, FEATURES)).astype(np.float32)
    mixture = draw.random((states, width)).astype(np.float32) * (rows > 0)
    features[..., MIXTURE] = LOG_SCALE * np.log(mixture + 1e-6)
    return Candidates(rows, mixture, features)


def ranker():
    return Ranker(FEATURES, MIXTURE, 1)


def learn(one, candidates, target, buckets=None):
    buckets = np.zeros(len(target), np.int64) if buckets is None else buckets
    return one.learn(candidates, np.arange(len(target)), np.array(target), buckets)


def test_at_first_it_is_the_mixture():
    candidates = lists()
    expected = candidates.mixture_QC / candidates.mixture_QC.sum(axis=1, keepdims=True)
    assert ranker().shares(candidates) == pytest.approx(expected, abs=1e-4)


def test_shares_sum_to_one_and_padding_has_none():
    one, candidates = ranker(), lists()
    for _ in range(5):
        learn(one, candidates, [0] * 6)
    shares = one.shares(candidates)
    assert shares.sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    assert not shares[candidates.rows_QC == 0].any()


def test_a_step_is_adam_on_the_listwise_cross_entropy():
    one, candidates, target = ranker(), lists(), [0, -1, 1, 0, 1, -1]
    twin = ranker().network
    optimizer = torch.optim.Adam(twin.parameters(), lr=LEARNING_RATE)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + step / DECAY_STEPS) ** -0.5
        learn(one, candidates, target)
        losses = []
        for state, column in enumerate(target):
            if column >= 0:
                size = int((candidates.rows_QC[state] > 0).sum())
                z = twin(torch.from_numpy(candidates.features_QCF[state, :size].copy()))
                losses.append(torch.nn.functional.cross_entropy(z[None], torch.tensor([column])))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    for ours, theirs in zip(one.network.parameters(), twin.parameters(), strict=True):
        assert ours.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-5)


def test_steps_become_smaller_and_begin_again_with_the_network():
    one, other, candidates = ranker(), ranker(), lists()
    for _ in range(DECAY_STEPS):
        learn(one, candidates, [0] * 6)
    assert one.learning_rate == pytest.approx(LEARNING_RATE * 0.5**0.5)
    other.load(one.state())
    assert other.learning_rate == one.learning_rate
    one.restart(3)
    assert one.learning_rate == LEARNING_RATE
    state = other.state()
    state.arrays["optimizer.steps"][:] = 10**9
    other.load(state)
    assert other.learning_rate == LEAST_RATE


def test_it_learns_what_the_mixture_does_not_know():
    one = ranker()
    for step in range(300):
        candidates = lists(step, states=32)
        column = np.where(candidates.rows_QC > 0, candidates.features_QCF[..., 4], -np.inf).argmax(axis=1)
        learn(one, candidates, column)
    candidates = lists(999, states=64)
    best = np.where(candidates.rows_QC > 0, candidates.features_QCF[..., 4], -np.inf).argmax(axis=1)
    assert (one.shares(candidates).argmax(axis=1) == best).mean() > 0.8


def test_coverage_is_counted_by_bucket():
    one, candidates = ranker(), lists()
    buckets = np.array([0, 0, 0, 3, 3, 3])
    for _ in range(200):
        learn(one, candidates, [0, 0, 0, -1, -1, 0], buckets)
    covered = one.coverage(np.array([5, 5, 0, 9]), np.array([0, 3, 0, 3]), 9)
    assert covered.tolist() == pytest.approx([1.0, 1 / 3, 0.0, 1.0], abs=0.05)


def test_lists_without_their_target_teach_coverage_only():
    one, candidates = ranker(), lists()
    before = one.state()
    assert learn(one, candidates, [-1] * 6) is False
    after = one.state()
    assert same_state(before.take("network"), after.take("network"))
    assert after.arrays["events"][0] > before.arrays["events"][0]


def test_a_gradient_that_is_not_finite_changes_no_weight():
    one, candidates = ranker(), lists()
    before = one.state()
    candidates.features_QCF[0, 0, 0] = np.inf
    assert learn(one, candidates, [0] * 6) is False
    assert same_state(before.take("network"), one.state().take("network"))


def test_the_state_goes_on_bit_for_bit():
    one, other, candidates = ranker(), Ranker(FEATURES, MIXTURE, 9), lists()
    learn(one, candidates, [0] * 6)
    other.load(one.state())
    for each in (one, other):
        learn(each, lists(4), [1] * 6)
    assert same_state(one.state(), other.state())
    assert one.shares(candidates).tobytes() == other.shares(candidates).tobytes()


def test_the_softmax_does_not_depend_on_where_its_arrays_stand():
    z, size = np.random.default_rng(0).standard_normal(400).astype(np.float32), np.array([100, 7, 93, 200])
    first = softmax_by_line(z, size).tobytes()
    kept = []
    for n in range(200):
        kept.append(np.empty(n * 24 + 8, np.uint8))
        assert softmax_by_line(z.copy(), size).tobytes() == first


def test_no_lists_are_no_trouble():
    empty = Candidates(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32), np.zeros((0, 3, FEATURES), np.float32))
    assert ranker().shares(empty).shape == (0, 3)
    assert learn(ranker(), empty, np.zeros(0, np.int64)) is False
