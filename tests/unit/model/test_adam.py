from __future__ import annotations

import numpy as np
import pytest
import torch

from model.adam import Adam

BETAS = (0.9, 0.98)


def parameters():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((3, 4), (5,), (2,))]


def give_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_update_is_that_of_torch(weight_decay):
    ours, theirs = parameters(), parameters()
    adam = Adam(ours, BETAS)
    reference = torch.optim.AdamW(theirs, lr=0.01, betas=BETAS, weight_decay=weight_decay)
    for seed in range(20):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        if seed % 3:  # a parameter that had no gradient has its own number of steps
            ours[2].grad = theirs[2].grad = None
        adam.step(0.01, weight_decay)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_a_gradient_stays_as_it_is():
    ours = parameters()
    before = ours[1].detach().clone()
    give_gradients(ours, 1)
    ours[1].grad = None
    adam = Adam(ours, BETAS)
    adam.step(0.1, 0.5)
    assert torch.equal(ours[1], before)
    adam.clear()
    assert all(parameter.grad is None for parameter in ours)


def test_loaded_moments_go_on_with_the_same_bits():
    ours = parameters()
    adam = Adam(ours, BETAS)
    for seed in range(3):
        give_gradients(ours, seed)
        adam.step(0.01)
    twins = [parameter.detach().clone().requires_grad_() for parameter in ours]
    other = Adam(twins, BETAS)
    other.load(adam.state())
    assert all(
        np.array_equal(a, b) for a, b in zip(adam.state().arrays.values(), other.state().arrays.values(), strict=True)
    )
    for seed in range(3, 6):
        give_gradients(ours, seed)
        give_gradients(twins, seed)
        adam.step(0.01)
        other.step(0.01)
    assert all(torch.equal(mine, twin) for mine, twin in zip(ours, twins, strict=True))


def test_a_restarted_parameter_forgets_its_moments_and_the_others_do_not():
    ours = parameters()
    adam = Adam(ours, BETAS)
    give_gradients(ours, 1)
    adam.step(0.01)
    adam.restart(ours[:1])
    arrays = adam.state().arrays
    assert arrays["steps"].tolist() == [0, 1, 1]
    assert not arrays["0.momentum"].any()
    assert not arrays["0.variance"].any()
    assert arrays["1.momentum"].all()
