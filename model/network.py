"""The network: a causal transformer over what a user did, and its three heads. Read it from top to bottom.

Shape legend (name suffixes):
    N  tokens of all sequences, laid end to end    P  tokens whose states are asked for       Y  event types
    R  sequences of a stretch                      L  tokens of the longest sequence of it
    D  width (`dim`)                               H  heads, E = D / H

A token is the sum of the embeddings of an item (scaled by sqrt(D)), its event type, the time since the user's
previous event and whether it opens a session. Token 0 of every sequence is `begin`, so that the state before a
user's first event exists too. Only attention sees sequences as rows, padded on the right, which needs no mask: causal
attention never looks to the right. Everything else is done once per token, and behind the attention of the last block
only for the tokens that are asked for: of a long history that is few.

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
    from collections.abc import Callable

    from model.settings import ModelSettings

INTERVALS = 64
"""Embeddings of the time since the previous event: 0 unknown, then half-octaves of 1 + seconds, to about 50 years."""


def interval_bucket(gap_s: Tensor) -> Tensor:
    """Map seconds since the previous event (NaN: unknown) to an embedding row; any shape, int64."""
    bucket = 1 + (2.0 * torch.log2(1.0 + gap_s.clamp(min=0.0))).floor()
    return torch.where(torch.isnan(gap_s), 0.0, bucket).clamp(max=INTERVALS - 1).long()


@dataclass(frozen=True, slots=True)
class Dropout:
    """Inverted dropout with a generator of its own.

    `share` is met to 1 / 256: a random byte decides, which is drawn in a sixth of the time of a random float.
    """

    share: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` with the share of its numbers 0 and the others larger by as much."""
        dropped = min(255, round(256 * self.share))
        if dropped == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def untouched(x: Tensor) -> Tensor:
    """Return `x`: what a prediction has in the place of dropout."""
    return x


def rotation(positions_N: Tensor, width: int) -> Tensor:
    """Return the factors that turn queries and keys by their positions (Su et al. 2021), complex [N, 3, 1, width / 2].

    Pairs of neighbouring features are complex numbers; each is turned by an angle that grows with the position. Values,
    the last of the three, are left as they are.
    """
    turns = 1000.0 ** (-torch.arange(0, width, 2) / width)
    longest = int(positions_N.max()) + 1
    angle = torch.arange(longest)[:, None, None] * torch.stack([turns, turns, torch.zeros_like(turns)])
    return torch.polar(torch.ones_like(angle), angle).index_select(0, positions_N)[:, :, None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens `start` to `stop` are whole sequences of like length: `rows` of them, the longest of `width` tokens.

    `place`: where each token lies in the rows when they are padded, int64; None where all are of one length.
    """

    start: int
    stop: int
    rows: int
    width: int
    place: Tensor | None

    def padded(self, x_ND: Tensor) -> Tensor:
        """Return the tokens as rows, [R, L, D]; padding is 0."""
        x = x_ND[self.start : self.stop]
        if self.place is not None:
            x = x.new_zeros(self.rows * self.width, x.shape[1]).index_copy_(0, self.place, x)
        return x.view(self.rows, self.width, -1)

    def laid(self, x_RLD: Tensor) -> Tensor:
        """Return rows as tokens, without the padding."""
        x = x_RLD.reshape(self.rows * self.width, -1)
        return x if self.place is None else x.index_select(0, self.place)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sequences laid end to end, each opened by `begin`, at which the first three do not matter. All are int64 [N]."""

    types: Tensor  # rows of the vocabulary
    intervals: Tensor  # buckets
    opens: Tensor  # 1 where the event opens a session
    positions: Tensor  # in the sequence; 0 is `begin`
    stretches: tuple[Stretch, ...]


class Block(nn.Module):
    """Pre-norm causal attention and a feed-forward layer, both residual."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.heads = settings.heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_up = nn.Linear(dim, 4 * dim)
        self.feed_down = nn.Linear(4 * dim, dim)

    def forward(
        self,
        x_ND: Tensor,
        stretches: tuple[Stretch, ...],
        turn: Tensor,
        asked_P: Tensor | None,
        dropout: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the block's output for the tokens that are asked for, [P, D]; for all of them where that is None."""
        seen_ND = self.attend(self.attention_norm(x_ND), stretches, turn)
        if asked_P is not None:
            x_ND, seen_ND = x_ND.index_select(0, asked_P), seen_ND.index_select(0, asked_P)
        x_PD = x_ND + dropout(self.out(seen_ND))
        fed_PD = self.feed_down(F.gelu(self.feed_up(self.feed_norm(x_PD))))
        return x_PD + dropout(fed_PD)

    def attend(self, x_ND: Tensor, stretches: tuple[Stretch, ...], turn: Tensor) -> Tensor:
        """Causal multi-head attention within every sequence, before its output layer, [N, D]."""
        N, D = x_ND.shape
        E = D // self.heads
        qkv = torch.view_as_complex(self.qkv(x_ND).view(N, 3, self.heads, E // 2, 2)) * turn
        qkv_N = torch.view_as_real(qkv).view(N, 3 * D)
        seen = []
        for stretch in stretches:
            rows = stretch.padded(qkv_N).view(stretch.rows, stretch.width, 3, self.heads, E)
            q, k, v = rows.permute(2, 0, 3, 1, 4)  # each RHLE
            y_RHLE = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            seen.append(stretch.laid(y_RHLE.transpose(1, 2)))
        return torch.cat(seen)


class Network(nn.Module):
    """The body and the type and time heads. Item embeddings live in a growing table of their own (`item_table`)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim, scale = settings.dim, 0.1
        self.scale = math.sqrt(dim)
        self.width = dim // settings.heads
        self.begin = nn.Parameter(torch.randn(dim))
        self.types = nn.Parameter(torch.randn(settings.max_types + 1, dim) * scale)
        self.intervals = nn.Parameter(torch.randn(INTERVALS, dim) * scale)
        self.opens = nn.Parameter(torch.randn(2, dim) * scale)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(dim)
        self.type_head = nn.Linear(dim, settings.max_types + 1)
        self.time_head = nn.Linear(dim, BINS)
        nn.init.zeros_(self.time_head.weight)
        nn.init.zeros_(self.time_head.bias)

    def embed(self, tokens: Tokens, items_ND: Tensor) -> Tensor:
        """Return the input of the first block, [N, D], from the embeddings of the tokens' items."""
        x_ND = items_ND * self.scale + F.embedding(tokens.types, self.types)
        x_ND = x_ND + F.embedding(tokens.intervals, self.intervals) + F.embedding(tokens.opens, self.opens)
        return torch.where(tokens.positions[:, None] == 0, self.begin, x_ND)

    def forward(
        self,
        tokens: Tokens,
        items_ND: Tensor,
        asked_P: Tensor | None = None,
        dropout: Callable[[Tensor], Tensor] = untouched,
    ) -> Tensor:
        """Return the state after each token that is asked for, [P, D]; after all of them where `asked_P` is None.

        The state after `begin` knows nothing, that after token i of a sequence its first i events. A learning pass has
        dropout; without, nothing is random.
        """
        x_ND = dropout(self.embed(tokens, items_ND))
        turn = rotation(tokens.positions, self.width)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x_ND = block(x_ND, tokens.stretches, turn, asked_P if number == last else None, dropout)
        states: Tensor = self.norm(x_ND)
        return states

    def type_logits(self, h_PD: Tensor) -> Tensor:
        """Return logits over the rows of the type vocabulary, [P, Y]."""
        logits: Tensor = self.type_head(h_PD)
        return logits

    def time_logits(self, h_PD: Tensor, shares: Tensor) -> Tensor:
        """Return logits over the bins of the time to the next event, [P, BINS]: at first `shares`, [BINS] or [P, BINS]."""
        logits: Tensor = self.time_head(h_PD) + shares.log()
        return logits
