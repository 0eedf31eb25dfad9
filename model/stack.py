"""Stacking: one distribution from those of several experts, their logarithms weighted, and from a few inputs.

z(y) = sum over experts of w * log p(y) + x W(y) + b(y), p = softmax of z. It begins as the geometric mean of the experts
and is learned online by cross-entropy (Wolpert 1992; a product of experts with weights, Genest and Zidek 1986). Weights
that sum to more or less than one are a temperature, so it calibrates as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.adam import Adam
from model.state import State

if TYPE_CHECKING:
    from model.contexts import Int64
    from model.smoothing import Probability

BETAS = (0.9, 0.999)
LOG_FLOOR = 1e-6


class Stack:
    """Weights of the experts, of the inputs (from nothing) and of the classes."""

    def __init__(self, experts: int, inputs: int, classes: int, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._experts = torch.full((experts,), 1.0 / experts)
        self._inputs, self._bias = torch.zeros(inputs, classes), torch.zeros(classes)
        self._optimizer = Adam([self._experts, self._inputs, self._bias], BETAS)

    @torch.inference_mode()
    def probabilities(self, log_EQY: Tensor, x_QF: Tensor) -> Probability:
        """Return p [Q, Y] from the logarithms of the experts' (see `logarithms`)."""
        p_QY: Probability = torch.softmax(self._scores(log_EQY, x_QF), dim=1).numpy()
        return p_QY

    @torch.no_grad()
    def learn(self, log_EPY: Tensor, x_PF: Tensor, target_P: Int64) -> bool:
        """Take one step on the classes that came; false and unchanged where nothing came or a number is not finite."""
        if not len(target_P):
            return False
        slope_PY = torch.softmax(self._scores(log_EPY, x_PF), dim=1)  # the loss by z
        slope_PY[torch.arange(len(target_P)), torch.from_numpy(target_P.copy())] -= 1.0
        slope_PY /= len(target_P)
        if not bool(slope_PY.isfinite().all()):
            return False
        classes = slope_PY.shape[1]
        self._experts.grad = torch.mv(log_EPY.reshape(len(log_EPY), -1), slope_PY.reshape(-1))
        self._inputs.grad, self._bias.grad = torch.zeros_like(self._inputs), torch.zeros_like(self._bias)
        self._inputs.grad[:, :classes] = x_PF.T @ slope_PY
        self._bias.grad[:classes] = slope_PY.sum(dim=0)
        self._optimizer.step(self._learning_rate)
        return True

    def _scores(self, log_EQY: Tensor, x_QF: Tensor) -> Tensor:
        classes = log_EQY.shape[2]
        z_QY = torch.addmm(self._bias[:classes], x_QF, self._inputs[:, :classes])
        for weight, log_QY in zip(self._experts.tolist(), log_EQY, strict=True):
            z_QY.add_(log_QY, alpha=weight)
        return z_QY

    def state(self) -> State:
        """Return weights and optimizer state."""
        named = {"experts": self._experts, "inputs": self._inputs, "bias": self._bias}
        state = State({name: tensor.numpy().copy() for name, tensor in named.items()})
        state.put("optimizer", self._optimizer.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        for name, tensor in (("experts", self._experts), ("inputs", self._inputs), ("bias", self._bias)):
            tensor.copy_(torch.from_numpy(state.arrays[name]))
        self._optimizer.load(state.take("optimizer"))


def logarithms(p_EQY: Probability) -> Tensor:
    """Return log p, bounded below, in memory that torch aligned."""
    log_EQY = torch.empty(p_EQY.shape)
    np.log(p_EQY + np.float32(LOG_FLOOR), out=log_EQY.numpy())
    return log_EQY
