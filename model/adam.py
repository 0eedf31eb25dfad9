"""Adam for the small dense parts of the model: network and ranker. Item rows have an optimizer in their table.

The ready-made optimizers of torch load its compiler at their first use: seconds at every start of the process, for
parameters that are few and small. This one has the same update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

EPSILON = 1e-8


class Adam:
    """Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(self, parameters: Iterable[Tensor], betas: tuple[float, float]) -> None:
        self.parameters = list(parameters)
        self._beta1, self._beta2 = betas
        self._momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._variance = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._steps = np.zeros(len(self.parameters), np.int64)

    @property
    def steps(self) -> int:
        """Steps taken so far, of the parameter that took most."""
        return int(self._steps.max(initial=0))

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def restart(self, parameters: Iterable[Tensor]) -> None:
        """Forget the moments of some of the parameters."""
        wanted = {id(parameter) for parameter in parameters}
        for index, parameter in enumerate(self.parameters):
            if id(parameter) in wanted:
                self._momentum[index].zero_()
                self._variance[index].zero_()
                self._steps[index] = 0

    @torch.no_grad()
    def step(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        """Take one step along the gradients; a parameter without one stays as it is."""
        moments = zip(self.parameters, self._momentum, self._variance, strict=True)
        for index, (parameter, momentum, variance) in enumerate(moments):
            if parameter.grad is None:
                continue
            self._steps[index] += 1
            steps = float(self._steps[index])
            momentum.lerp_(parameter.grad, 1.0 - self._beta1)
            variance.mul_(self._beta2).addcmul_(parameter.grad, parameter.grad, value=1.0 - self._beta2)
            root = variance.div(1.0 - self._beta2**steps).sqrt_().add_(EPSILON)
            parameter.mul_(1.0 - learning_rate * weight_decay)
            parameter.addcdiv_(momentum, root, value=-learning_rate / (1.0 - self._beta1**steps))

    def state(self) -> State:
        """Return the moments and the number of steps of every parameter."""
        arrays = {"steps": self._steps.copy()}
        for index, (momentum, variance) in enumerate(zip(self._momentum, self._variance, strict=True)):
            arrays[f"{index}.momentum"] = momentum.numpy().copy()
            arrays[f"{index}.variance"] = variance.numpy().copy()
        return State(arrays)

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._steps = state.arrays["steps"].copy()
        for index, (momentum, variance) in enumerate(zip(self._momentum, self._variance, strict=True)):
            momentum.copy_(torch.from_numpy(state.arrays[f"{index}.momentum"]))
            variance.copy_(torch.from_numpy(state.arrays[f"{index}.variance"]))
