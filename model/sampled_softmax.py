"""The loss of the transformer's item head: cross-entropy over listed items, with its gradient, a tile of states at a time.

The logits of a step are several megabytes, and the ready-made loss walks through them eight times. Here a tile is
scored, normalised and multiplied back while it is in the cache, and never kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = 256
"""States scored at once."""


class _SampledSoftmax(torch.autograd.Function):
    """Works the gradient out on the way forward, for a loss that is only ever multiplied by a number afterwards."""

    @staticmethod
    def forward(ctx: Any, h_PD: Tensor, weight_CD: Tensor, bias_C: Tensor, target_P: Tensor) -> Tensor:
        states = len(h_PD)
        by_h, by_weight, by_bias = torch.empty_like(h_PD), torch.zeros_like(weight_CD), torch.zeros_like(bias_C)
        buffer = torch.empty(min(TILE, states), len(weight_CD))
        total = torch.zeros(())
        for start in range(0, states, TILE):
            part = slice(start, min(start + TILE, states))
            h, target, line = h_PD[part], target_P[part], torch.arange(part.stop - start)
            z = torch.addmm(bias_C, h, weight_CD.T, out=buffer[: len(line)])
            z -= z.amax(dim=1, keepdim=True)
            wanted = z[line, target]
            z.exp_()
            sums = z.sum(dim=1, keepdim=True)
            total += (sums[:, 0].log() - wanted).sum()
            z.div_(sums * states)  # from here on the gradient by the logits
            z[line, target] -= 1.0 / states
            torch.mm(z, weight_CD, out=by_h[part])
            by_weight.addmm_(z.T, h)
            by_bias += z.sum(dim=0)
        ctx.save_for_backward(by_h, by_weight, by_bias)
        return total / states

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        by_h, by_weight, by_bias = ctx.saved_tensors
        (factor,) = gradients
        return by_h * factor, by_weight * factor, by_bias * factor, None


def sampled_softmax(h_PD: Tensor, weight_CD: Tensor, bias_C: Tensor, target_P: Tensor) -> Tensor:
    """Return the mean of -log softmax(h W' + bias) at the targets [P], int64 columns of the C listed items, in nats."""
    loss: Tensor = _SampledSoftmax.apply(h_PD, weight_CD, bias_C, target_P)
    return loss
