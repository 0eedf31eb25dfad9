from __future__ import annotations

import numpy as np
import pytest
import torch
from support import same_state
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from model.stack import Stack, logarithms


def experts(seed=0, events=200, classes=4):
    draw = np.random.default_rng(seed)
    return draw.dirichlet(np.ones(classes), (3, events)).astype(np.float32)


def test_it_begins_as_the_geometric_mean():
    p_EQY = experts()
    mean = np.exp(np.log(p_EQY).mean(axis=0))
    found = Stack(3, 2, 6, 4e-3).probabilities(logarithms(p_EQY), torch.randn(200, 2))
    assert found == pytest.approx(mean / mean.sum(axis=1, keepdims=True), abs=2e-3)


def test_its_gradient_is_that_of_the_cross_entropy():
    log_EPY, x = logarithms(experts()), torch.randn(200, 2)
    target = np.random.default_rng(1).integers(0, 4, 200)
    stack = Stack(3, 2, 4, 4e-3)
    stack.learn(log_EPY, x, target)
    weights, inputs, bias = torch.full((3,), 1 / 3), torch.zeros(2, 4), torch.zeros(4)
    for tensor in (weights, inputs, bias):
        tensor.requires_grad_()
    z = (log_EPY * weights[:, None, None]).sum(dim=0) + x @ inputs + bias
    F.cross_entropy(z, torch.from_numpy(target)).backward()
    found = [parameter.grad for parameter in stack._optimizer.parameters]
    for mine, reference in zip(found, (weights.grad, inputs.grad, bias.grad), strict=True):
        assert torch.allclose(mine, reference, atol=1e-5)


def test_it_learns_which_expert_is_right_and_cools_the_one_that_is_too_sure():
    draw = np.random.default_rng(2)
    stack = Stack(2, 0, 2, 4e-3)
    none = torch.zeros(256, 0)
    for _ in range(400):
        truth = draw.random(256) < 0.5
        p = np.where(truth, 0.7, 0.3)
        target = (draw.random(256) < p).astype(np.int64)
        sure = np.where(truth, 0.95, 0.05)
        noise = draw.random(256)
        p_EPY = np.stack([np.stack([1 - q, q], axis=1) for q in (sure, noise)]).astype(np.float32)
        stack.learn(logarithms(p_EPY), none, target)
    found = stack.probabilities(logarithms(p_EPY), none)[:, 1]
    assert found == pytest.approx(p, abs=0.06)


def test_a_number_that_is_not_finite_changes_nothing():
    stack = Stack(3, 2, 4, 4e-3)
    before = stack.state()
    assert not stack.learn(logarithms(experts(events=2)), torch.full((2, 2), torch.nan), np.array([0, 1]))
    assert not stack.learn(logarithms(experts(events=0)), torch.zeros(0, 2), np.zeros(0, np.int64))
    assert same_state(before, stack.state())


def test_it_comes_back_as_it_was():
    stack, again = Stack(3, 2, 4, 4e-3), Stack(3, 2, 4, 4e-3)
    for seed in range(3):
        stack.learn(logarithms(experts(seed)), torch.ones(200, 2), np.zeros(200, np.int64))
    again.load(stack.state())
    for one in (stack, again):
        one.learn(logarithms(experts(9)), torch.ones(200, 2), np.ones(200, np.int64))
    assert same_state(stack.state(), again.state())
