import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from model.sampled_softmax import TILE, sampled_softmax

DIM, ITEMS = 8, 30


def given(states):
    draw = torch.Generator().manual_seed(states)
    h, weight = torch.randn(states, DIM, generator=draw), torch.randn(ITEMS, DIM, generator=draw)
    bias, target = torch.randn(ITEMS, generator=draw), torch.randint(0, ITEMS, (states,), generator=draw)
    return [x.requires_grad_() for x in (h, weight, bias)], target


@pytest.mark.parametrize("states", [1, 7, TILE, 2 * TILE + 3])
def test_loss_and_gradients_are_those_of_cross_entropy_over_all_logits(states):
    ours, target = given(states)
    theirs, _ = given(states)
    loss = sampled_softmax(*ours, target)
    h, weight, bias = theirs
    expected = F.cross_entropy(h @ weight.T + bias, target)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_large_logits_stay_finite():
    (h, weight, bias), target = given(5)
    loss = sampled_softmax((h * 1e4).detach().requires_grad_(), weight, bias, target)
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert torch.isfinite(weight.grad).all()


def test_what_is_not_finite_makes_a_loss_that_is_not():
    (h, weight, bias), target = given(5)
    with torch.no_grad():
        h[2, 3] = torch.nan
    assert not torch.isfinite(sampled_softmax(h, weight, bias, target).detach())
