"""The growing table of item embeddings, with an optimizer whose cost follows the rows used, not the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.state import State
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

INIT_SCALE = 0.1
CONTEXT_SHARE = 0.7
"""Of a new item's start: the mean of its context times this, plus half the usual noise."""
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8


class ItemTable:
    """Embedding [N, D] and bias [N] of every vocabulary row; free rows have bias -inf, so no softmax finds them.

    The optimizer is Adam with one second moment per row (the idea of row-wise Adagrad, Gupta et al. 2014, with decay,
    since a stream drifts), applied only to the rows that a step touched (lazy Adam); moments start clean with the row.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        self.dim = dim
        self.weight = torch.zeros(0, dim)
        self.bias = torch.zeros(0)
        self._momentum = torch.zeros(0, dim + 1)  # the last column belongs to the bias
        self._variance = torch.zeros(0, 2)  # of the embedding as a whole, of the bias
        self._steps = torch.zeros(0)
        self.reserve(1024)
        self.weight[UNKNOWN] = torch.randn(dim, generator=generator) * INIT_SCALE

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows; capacity doubles, so growing is cheap on average."""
        have = len(self.weight)
        if rows <= have:
            return
        more = max(rows, 2 * have) - have
        self.weight = torch.cat([self.weight, torch.zeros(more, self.dim)])
        self.bias = torch.cat([self.bias, torch.full((more,), -torch.inf)])
        self._momentum = torch.cat([self._momentum, torch.zeros(more, self.dim + 1)])
        self._variance = torch.cat([self._variance, torch.zeros(more, 2)])
        self._steps = torch.cat([self._steps, torch.zeros(more)])

    def start(self, row: int, context: Sequence[int], generator: torch.Generator) -> None:
        """Give a newly admitted row its first embedding: near the mean of its context rows, where it has any.

        A context row that is admitted in the same micro-batch but not started yet says nothing.
        """
        self.reserve(row + 1)
        noise = torch.randn(self.dim, generator=generator) * INIT_SCALE
        known = [other for other in context if other != row and self._is_live(other)]
        mean = self.weight[known].mean(dim=0) * CONTEXT_SHARE + 0.5 * noise if known else noise
        self.weight[row] = mean
        self.bias[row] = 0.0

    def restart(self, generator: torch.Generator) -> None:
        """Let the embeddings of all items begin again, as if nothing had come before them."""
        live = self.bias > -torch.inf
        self.weight[live] = torch.randn(int(live.sum()), self.dim, generator=generator) * INIT_SCALE
        self.bias[live] = 0.0
        self._momentum.zero_(), self._variance.zero_(), self._steps.zero_()

    def take_over(self, other: ItemTable) -> None:
        """Take the rows of another table, older than this one, of the items that it knows."""
        self.reserve(len(other.bias))  # how far ahead a table has made room is its own affair
        live = torch.zeros(len(self.bias), dtype=torch.bool)
        live[: len(other.bias)] = other.bias > -torch.inf
        live[UNKNOWN] = True
        mine = (self.weight, self.bias, self._momentum, self._variance, self._steps)
        theirs = (other.weight, other.bias, other._momentum, other._variance, other._steps)
        for to, of in zip(mine, theirs, strict=True):
            to[live] = of[live[: len(of)]]

    def _is_live(self, row: int) -> bool:
        return row < len(self.bias) and bool(self.bias[row] > -torch.inf)

    def evict(self, rows: Sequence[int]) -> None:
        """Clear rows: embedding, bias and optimizer state."""
        index = torch.tensor(list(rows), dtype=torch.long)
        self.weight[index], self.bias[index] = 0.0, -torch.inf
        self._momentum[index], self._variance[index], self._steps[index] = 0.0, 0.0, 0.0

    def step(self, rows: Rows, gradient_UD: Tensor, bias_gradient_U: Tensor, learning_rate: float) -> None:
        """One optimizer step on distinct `rows` [U]."""
        index = torch.from_numpy(rows.astype(np.int64))
        gradient = torch.cat([gradient_UD, bias_gradient_U[:, None]], dim=1)
        square = torch.stack([gradient_UD.square().mean(dim=1), bias_gradient_U.square()], dim=1)
        steps = self._steps[index] + 1.0
        momentum = torch.lerp(gradient, self._momentum[index], BETA1)
        variance = torch.lerp(square, self._variance[index], BETA2)
        self._steps[index], self._momentum[index], self._variance[index] = steps, momentum, variance
        scale = learning_rate / (1.0 - BETA1**steps)
        root = (variance / (1.0 - BETA2**steps)[:, None]).sqrt() + EPSILON
        self.weight[index] -= momentum[:, :-1] * (scale / root[:, 0])[:, None]
        live = rows != UNKNOWN
        if not live.all():
            index, momentum, scale, root = (x[torch.from_numpy(live)] for x in (index, momentum, scale, root))
        self.bias[index] -= momentum[:, -1] * (scale / root[:, 1])

    def state(self, rows: int) -> State:
        """Return the first `rows` rows."""
        self.reserve(rows)
        names = {"weight": self.weight, "bias": self.bias, "momentum": self._momentum}
        names |= {"variance": self._variance, "steps": self._steps}
        return State({name: tensor[:rows].numpy().copy() for name, tensor in names.items()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.weight, self.bias, self._momentum, self._variance, self._steps = (
            torch.from_numpy(state.arrays[name].copy()) for name in ("weight", "bias", "momentum", "variance", "steps")
        )
        self.reserve(max(1024, len(self.weight)))
