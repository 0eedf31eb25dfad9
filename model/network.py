"""The network: a causal transformer over what a user did, and its three heads. Read it from top to bottom.

Shape legend (name suffixes):
    R  sequences of a padded group    L  tokens of a sequence, `begin` first, padding on the right
    D  width (`dim`)                  H  heads, E = D / H        P  positions asked for      Y  event types

A token is the sum of the embeddings of an item (scaled by sqrt(D)), its event type, the time since the user's
previous event and whether it opens a session. Token 0 of every sequence is `begin`, so that the state before a
user's first event exists too. Right padding needs no mask: causal attention never looks to the right.

Sources: pre-norm transformer decoder (Vaswani et al. 2017; Xiong et al. 2020) as SASRec applies it to items (Kang and
McAuley 2018), rotary positions (Su et al. 2021), which make a state independent of where its window begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from model.gaps import BINS

if TYPE_CHECKING:
    from model.settings import ModelSettings

INTERVALS = 64
"""Embeddings of the time since the previous event: 0 unknown, then half-octaves of 1 + seconds, to about 50 years."""
LONGEST = 8200
"""Tokens of the longest possible sequence: twice the longest history, and `begin`."""


def interval_bucket(gap_s: Tensor) -> Tensor:
    """Map seconds since the previous event (NaN: unknown) to an embedding row; any shape, int64."""
    bucket = 1 + (2.0 * torch.log2(1.0 + gap_s.clamp(min=0.0))).floor()
    return torch.where(torch.isnan(gap_s), 0.0, bucket).clamp(max=INTERVALS - 1).long()


def dropout(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout with its own generator; without one (prediction) nothing is dropped."""
    if generator is None or share == 0.0:
        return x
    return x * torch.rand(x.shape, generator=generator).ge_(share).mul_(1.0 / (1.0 - share))


class RotaryPositions(nn.Module):
    """Rotates pairs of query and key features by an angle that grows with the position (Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(length), 1000.0 ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x_LE: Tensor) -> Tensor:
        """Return the rotated features, [..., L, E]."""
        cos, sin = self.cos[: x_LE.shape[-2]], self.sin[: x_LE.shape[-2]]
        even, odd = x_LE.chunk(2, dim=-1)
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


class Block(nn.Module):
    """Pre-norm causal attention and a feed-forward layer, both residual."""

    def __init__(self, settings: ModelSettings, rotary: RotaryPositions) -> None:
        super().__init__()
        dim = settings.dim
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.rotary = rotary
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_up = nn.Linear(dim, 4 * dim)
        self.feed_down = nn.Linear(4 * dim, dim)

    def forward(self, x_RLD: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the block's output, [R, L, D]."""
        x_RLD = x_RLD + dropout(self.attend(self.attention_norm(x_RLD)), self.dropout, generator)
        fed_RLD = self.feed_down(F.gelu(self.feed_up(self.feed_norm(x_RLD))))
        return x_RLD + dropout(fed_RLD, self.dropout, generator)

    def attend(self, x_RLD: Tensor) -> Tensor:
        """Causal multi-head attention, [R, L, D]."""
        R, L, D = x_RLD.shape
        qkv = self.qkv(x_RLD).view(R, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each RHLE
        q, k = self.rotary(qkv[:2])
        y_RHLE = F.scaled_dot_product_attention(q, k, qkv[2], is_causal=True)
        mixed: Tensor = self.out(y_RHLE.transpose(1, 2).reshape(R, L, D))
        return mixed


@dataclass(frozen=True, slots=True)
class Tokens:
    """A padded group of sequences without `begin`, which the network adds. All are [R, L - 1]."""

    items: Tensor  # float, [R, L - 1, D]: item embeddings
    types: Tensor  # int64 rows
    intervals: Tensor  # int64 buckets
    opens: Tensor  # int64, 1 where the event opens a session


class Network(nn.Module):
    """The body and the type and time heads. Item embeddings live in a growing table of their own (`item_table`)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim, scale = settings.dim, 0.1
        self.scale = math.sqrt(dim)
        self.dropout = settings.dropout
        rotary = RotaryPositions(dim // settings.heads, LONGEST)
        self.begin = nn.Parameter(torch.randn(dim))
        self.types = nn.Parameter(torch.randn(settings.max_types + 1, dim) * scale)
        self.intervals = nn.Parameter(torch.randn(INTERVALS, dim) * scale)
        self.opens = nn.Parameter(torch.randn(2, dim) * scale)
        self.blocks = nn.ModuleList(Block(settings, rotary) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(dim)
        self.type_head = nn.Linear(dim, settings.max_types + 1)
        self.time_head = nn.Linear(dim, BINS)
        nn.init.zeros_(self.time_head.weight)
        nn.init.zeros_(self.time_head.bias)

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the input of the first block, [R, L, D]."""
        x = tokens.items * self.scale + self.types[tokens.types] + self.intervals[tokens.intervals]
        x = x + self.opens[tokens.opens]
        begin = self.begin.expand(len(x), 1, -1)
        return torch.cat([begin, x], dim=1)

    def forward(self, tokens: Tokens, generator: torch.Generator | None = None) -> Tensor:
        """Return the state after each token, [R, L, D]: index 0 knows nothing, index i the first i events.

        With a generator the pass is a learning pass: dropout is drawn from it. Without, nothing is random.
        """
        x_RLD = dropout(self.embed(tokens), self.dropout, generator)
        for block in self.blocks:
            x_RLD = block(x_RLD, generator)
        states: Tensor = self.norm(x_RLD)
        return states

    def type_logits(self, h_PD: Tensor) -> Tensor:
        """Return logits over the rows of the type vocabulary, [P, Y]."""
        logits: Tensor = self.type_head(h_PD)
        return logits

    def time_logits(self, h_PD: Tensor, shares: Tensor) -> Tensor:
        """Return logits over the bins of the time to the next event, [P, BINS]: at first `shares`, [BINS] or [P, BINS]."""
        logits: Tensor = self.time_head(h_PD) + shares.log()
        return logits
