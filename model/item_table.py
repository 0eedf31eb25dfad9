"""The growing table of item embeddings, with an optimizer whose cost follows the rows used, not the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.compiled import compiled
from model.state import State
from model.vocabulary import UNKNOWN, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float32]

INIT_SCALE = 0.1
CONTEXT_SHARE = 0.7
"""Of a new item's start: the mean of its context times this, plus half the usual noise."""
KEPT_PER_STEP, EPSILON = 0.99, 1e-8
"""Of a row's mean square of gradients, in every step, whether the row had one or not."""


class ItemTable:
    """Embedding [N, D] and bias [N] of every vocabulary row; free rows have bias -inf, so no softmax finds them.

    The optimizer is RMSprop (Tieleman and Hinton 2012) with one mean square per row (the idea of row-wise Adagrad, Gupta
    et al. 2014). The mean is over all steps, also those in which the row had no gradient, so a row that is seldom
    touched takes the larger steps; it is made up for when the row is touched again, so a step costs what it touches.
    A row starts clean.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        self.dim = dim
        self.weight = torch.zeros(0, dim)
        self.bias = torch.zeros(0)
        self._square = torch.zeros(0, 2)  # of the embedding as a whole, of the bias; as of the step `touched`
        self._touched = torch.zeros(0, dtype=torch.int64)
        self._step = 0
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
        self._square = torch.cat([self._square, torch.zeros(more, 2)])
        self._touched = torch.cat([self._touched, torch.zeros(more, dtype=torch.int64)])

    def start(self, rows: Rows, context_GK: Rows, generator: torch.Generator) -> None:
        """Give newly admitted rows [G] their first embedding, in order: near the mean of their context rows, if any.

        A context row that is admitted in the same micro-batch but not started yet says nothing, nor does UNKNOWN.
        """
        self.reserve(int(rows.max(initial=0)) + 1)
        noise = torch.randn(len(rows), self.dim, generator=generator) * INIT_SCALE
        begin(self.weight.numpy(), self.bias.numpy(), rows, context_GK, noise.numpy())

    def receive(self, rows: Rows, context_GK: Rows) -> None:
        """Give the rows [G] of guests the mean of their context rows, 0 where they have none; none is live by that."""
        self.reserve(int(rows.max(initial=0)) + 1)
        look_alike(self.weight.numpy(), self.bias.numpy(), rows, context_GK)

    def restart(self, generator: torch.Generator) -> None:
        """Let the embeddings of all items begin again, as if nothing had come before them."""
        live = self.bias > -torch.inf
        self.weight[live] = torch.randn(int(live.sum()), self.dim, generator=generator) * INIT_SCALE
        self.bias[live] = 0.0
        self._square.zero_(), self._touched.zero_()
        self._step = 0

    def take_over(self, other: ItemTable) -> None:
        """Take the rows of another table, older than this one, of the items that it knows."""
        self.reserve(len(other.bias))  # how far ahead a table has made room is its own affair
        live = torch.zeros(len(self.bias), dtype=torch.bool)
        live[: len(other.bias)] = other.bias > -torch.inf
        live[UNKNOWN] = True
        mine = (self.weight, self.bias, self._square, self._touched)
        theirs = (other.weight, other.bias, other._square, other._touched)
        for to, of in zip(mine, theirs, strict=True):
            to[live] = of[live[: len(of)]]
        self._step = max(self._step, other._step)  # this table may have begun to count again since

    def evict(self, rows: Sequence[int]) -> None:
        """Clear rows: embedding, bias and optimizer state."""
        index = torch.tensor(list(rows), dtype=torch.long)
        self.weight[index], self.bias[index] = 0.0, -torch.inf
        self._square[index], self._touched[index] = 0.0, 0

    def step(self, rows: Rows, gradient_UD: Tensor, bias_gradient_U: Tensor, learning_rate: float) -> None:
        """One optimizer step on distinct `rows` [U]."""
        index = torch.from_numpy(rows.astype(np.int64))
        self._step += 1
        keep = KEPT_PER_STEP ** (self._step - self._touched[index]).float()
        now = torch.stack([gradient_UD.square().mean(dim=1), bias_gradient_U.square()], dim=1)
        square = self._square[index] * keep[:, None] + (1.0 - KEPT_PER_STEP) * now
        self._square[index], self._touched[index] = square, self._step
        scale = learning_rate / ((square / (1.0 - KEPT_PER_STEP**self._step)).sqrt() + EPSILON)
        self.weight[index] -= gradient_UD * scale[:, :1]
        step_U = bias_gradient_U * scale[:, 1]
        live = rows != UNKNOWN
        if not live.all():
            index, step_U = index[torch.from_numpy(live)], step_U[torch.from_numpy(live)]
        self.bias[index] -= step_U

    def state(self, rows: int) -> State:
        """Return the first `rows` rows."""
        self.reserve(rows)
        tensors = {"weight": self.weight, "bias": self.bias, "square": self._square, "touched": self._touched}
        return State({name: tensor[:rows].numpy().copy() for name, tensor in tensors.items()}, {"step": self._step})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.weight, self.bias, self._square, self._touched = (
            torch.from_numpy(state.arrays[name].copy()) for name in ("weight", "bias", "square", "touched")
        )
        self._step = int(state.values["step"])
        self.reserve(max(1024, len(self.weight)))


@compiled
def begin(weight_ND: Floats, bias_N: Floats, rows: Rows, context_GK: Rows, noise_GD: Floats) -> None:
    """Start rows one after another: the mean of their context and half of the noise, or all of it alone."""
    for index in range(len(rows)):
        row = rows[index]
        share = np.float32(0.5 if approach(weight_ND, bias_N, row, context_GK[index]) else 1.0)
        for d in range(weight_ND.shape[1]):
            weight_ND[row, d] += share * noise_GD[index, d]
        bias_N[row] = 0.0


@compiled
def look_alike(weight_ND: Floats, bias_N: Floats, rows: Rows, context_GK: Rows) -> None:
    """Let rows be the mean of their context."""
    for index in range(len(rows)):
        approach(weight_ND, bias_N, rows[index], context_GK[index])


@compiled
def approach(weight_ND: Floats, bias_N: Floats, row: int, context_K: Rows) -> bool:
    """Let a row be the mean of the live ones of its context, times CONTEXT_SHARE; returns whether there are any."""
    weight_ND[row] = 0.0
    known = 0
    for other in context_K:
        if other != row and other < len(bias_N) and bias_N[other] > -np.inf:
            known += 1
            for d in range(weight_ND.shape[1]):
                weight_ND[row, d] += weight_ND[other, d]
    for d in range(weight_ND.shape[1]):
        weight_ND[row, d] *= np.float32(CONTEXT_SHARE / max(1, known))
    return known > 0
