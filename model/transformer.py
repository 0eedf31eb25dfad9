"""The transformer as a component: its sight of a micro-batch, and one learning step.

Items are scored against the whole catalogue by tied embeddings (Press and Wolf 2017); learning tells the target apart
from sampled items with the log-Q correction (Bengio and Senecal 2008; Yi et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from model.adam import Adam
from model.gaps import Gaps, bin_of
from model.item_table import INIT_SCALE, ItemTable
from model.network import Dropout, Network
from model.sampled_softmax import sampled_softmax
from model.sequences import Sequences, cut, joined
from model.state import Array, State
from model.transformer_view import TransformerView
from model.vocabulary import UNKNOWN, Rows, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Contexts
    from model.settings import ModelSettings
    from model.smoothing import Smoothing

TYPE_LOSS, TIME_LOSS = 0.25, 0.05
"""Weights of the two heads beside the item loss of 1: they must not bend the body away from items."""
BETAS = (0.9, 0.98)

SmallHead = Literal["event_type", "next_event_s"]


@dataclass(frozen=True, slots=True)
class LearningStep:
    """What one step is to do, all numbers decided beforehand."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float
    negatives: int
    dropout: float
    seed: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean losses of a step in nats; NaN where there was no target.

    `applied` is false where a loss or gradient was not finite: then nothing was changed.
    """

    item: float
    type: float
    time: float
    targets: int
    applied: bool


class Transformer:
    """Network, item table and their optimizers."""

    name = "transformer"

    def __init__(
        self, settings: ModelSettings, items: Vocabulary, types: Vocabulary, seed: int, gaps: Gaps | None = None
    ) -> None:
        self.settings, self.items, self.types, self.gaps = settings, items, types, gaps or Gaps()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(settings)
        self.table = ItemTable(settings.dim, torch.Generator().manual_seed(seed))
        self._body = list(self.network.parameters())
        self._optimizer = Adam(self._body, BETAS)

    def view(self, contexts: Contexts, smoothing: Smoothing) -> TransformerView:
        """Look at a micro-batch."""
        return TransformerView(self, contexts, smoothing)

    @torch.inference_mode()
    def states(self, contexts: Contexts) -> Tensor:
        """Return the network's state h [Q, D] for every state of a micro-batch."""
        sequences = cut(contexts, self.settings.context, self.items, self.types)
        laid, row_Q = sequences.laid(), contexts.state_row_Q
        asked_Q = laid.begin_R[row_Q] + contexts.state_position_Q - sequences.start_R[row_Q] + 1
        if not len(asked_Q):
            return torch.zeros(0, self.settings.dim)
        items_ND = self.table.weight[torch.from_numpy(laid.items_N.astype(np.int64))]
        h_QD: Tensor = self.network(laid.tokens, items_ND, torch.from_numpy(asked_Q))
        return h_QD

    def learn(self, batches: Sequence[Sequences], step: LearningStep) -> Loss | None:
        """One optimizer step on all targets of `batches`; changes nothing where a loss or gradient is not finite.

        None where no target is one that a head could learn: unknown items, a single type, no times.
        """
        if not batches:
            return None
        generator = torch.Generator().manual_seed(step.seed)
        draw = np.random.default_rng(step.seed)
        batch = joined(batches)
        targets = _Targets.of(batch)
        candidates, log_q = self._candidates(targets.items, step.negatives, draw)
        rows = np.unique(np.concatenate([candidates, batch.items_RL.reshape(-1), [UNKNOWN]]))
        leaf = self.table.weight[torch.from_numpy(rows.astype(np.int64))].requires_grad_()
        bias = self.table.bias[torch.from_numpy(candidates.astype(np.int64))].requires_grad_()
        h_PD = self._forward(batch, rows, leaf, Dropout(step.dropout, generator))
        losses = self._losses(h_PD, targets, leaf, rows, bias, candidates, log_q)
        if all(loss is None for loss in losses):
            return None
        total = sum(
            (
                weight * loss
                for weight, loss in zip((1.0, TYPE_LOSS, TIME_LOSS), losses, strict=True)
                if loss is not None
            ),
            torch.zeros(()),
        )
        applied = self._apply(total, rows, leaf, candidates, bias, step)
        item, kind, time = (float("nan") if loss is None else float(loss.detach()) for loss in losses)
        return Loss(item, kind, time, len(targets.items), applied)

    def _candidates(self, target_rows: Rows, negatives: int, draw: np.random.Generator) -> tuple[Rows, Tensor]:
        """Return the distinct rows that targets are told apart from, and log of how often each is expected there."""
        admitted = self.items.admitted_rows()
        if len(admitted) <= negatives:
            return admitted, torch.zeros(len(admitted))
        sampled = np.unique(draw.choice(admitted, negatives))
        positive = np.unique(target_rows[target_rows != UNKNOWN])
        negative = np.setdiff1d(sampled, positive, assume_unique=True)
        expected = -np.expm1(negatives * np.log1p(-1.0 / len(admitted)))  # chance to be drawn at least once
        log_q = np.concatenate([np.zeros(len(positive)), np.full(len(negative), np.log(expected))])
        return np.concatenate([positive, negative]).astype(np.int32), torch.from_numpy(log_q.astype(np.float32))

    def _forward(self, batch: Sequences, rows: Rows, leaf: Tensor, dropout: Dropout) -> Tensor:
        """Return h [P, D] of the state before each target, in the order of `_Targets`."""
        self.network.train()
        row, column = np.nonzero(target_mask(batch))
        if not len(row):
            return torch.zeros(0, self.settings.dim)
        laid = batch.laid()
        before_P = laid.begin_R[row] + column  # the event at `column` is the token after, since `begin` comes first
        items_ND = F.embedding(torch.from_numpy(np.searchsorted(rows, laid.items_N)), leaf)
        h_PD: Tensor = self.network(laid.tokens, items_ND, torch.from_numpy(before_P), dropout)
        return h_PD

    def _losses(
        self, h_PD: Tensor, targets: _Targets, leaf: Tensor, rows: Rows, bias: Tensor, candidates: Rows, log_q: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the mean item, type and time losses; None where a head has no target."""
        order = np.argsort(candidates, kind="stable")
        place = np.searchsorted(candidates[order], targets.items)
        known = np.flatnonzero(targets.items != UNKNOWN)
        item_loss = type_loss = time_loss = None
        if len(known):
            weight_CD = leaf[torch.from_numpy(np.searchsorted(rows, candidates))]
            target = torch.from_numpy(order[place[known]])
            item_loss = sampled_softmax(h_PD[known], weight_CD, bias - log_q, target)
        typed = np.flatnonzero(targets.types != UNKNOWN)
        if len(typed) and self.types.size > 1:
            logits_PY = self.network.type_logits(h_PD[typed])[:, : self.types.rows]
            type_loss = F.cross_entropy(logits_PY, torch.from_numpy(targets.types[typed].astype(np.int64)))
        timed = np.flatnonzero(~np.isnan(targets.gaps))
        if len(timed):
            goal = torch.from_numpy(bin_of(np.log1p(targets.gaps[timed].astype(np.float64))))
            time_loss = F.cross_entropy(self.network.time_logits(h_PD[timed], self.gap_share()), goal)
        return item_loss, type_loss, time_loss

    def gap_share(self) -> Tensor:
        """Return the share of each bin of the times between events, [BINS]."""
        return torch.from_numpy(self.gaps.share().astype(np.float32))

    def _apply(
        self, total: Tensor, rows: Rows, leaf: Tensor, candidates: Rows, bias: Tensor, step: LearningStep
    ) -> bool:
        """Backward, clip, step; false and unchanged where anything is not finite."""
        self._optimizer.clear()
        total.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
        norm = torch.nn.utils.clip_grad_norm_(self._body, step.gradient_clip)
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        bias_gradient = torch.zeros(len(rows))
        if bias.grad is not None:
            bias_gradient[torch.from_numpy(np.searchsorted(rows, candidates))] = bias.grad
        finite = torch.isfinite(total.detach()) & torch.isfinite(norm)
        if not bool(finite & gradient.isfinite().all() & bias_gradient.isfinite().all()):
            return False
        self._optimizer.step(step.learning_rate, step.weight_decay)
        with torch.no_grad():
            self.table.step(rows, gradient, bias_gradient, step.learning_rate)
        return True

    def admit(self, rows: Rows, context_GK: Rows, generator: torch.Generator) -> None:
        """Start the embeddings of new items near the mean of what their first users had just before."""
        self.table.start(rows, context_GK, generator)

    def receive(self, rows: Rows, context_GK: Rows) -> None:
        """Let guests look like the mean of what their first users had just before; no softmax finds them."""
        self.table.receive(rows, context_GK)

    def evict(self, rows: Sequence[int]) -> None:
        """Clear embeddings, biases and their optimizer state."""
        self.table.evict(rows)

    def forget(self, user: int) -> None:
        """Nothing here is kept by user; what weights learned fades."""

    def restart_head(self, head: SmallHead, generator: torch.Generator) -> None:
        """Let one of the two small heads begin again; the body stays."""
        layer = self._head(head)
        with torch.no_grad():
            noise = torch.randn(layer.weight.shape, generator=generator) * INIT_SCALE
            layer.weight.copy_(
                noise if head == "event_type" else torch.zeros_like(noise)
            )  # times begin as they are counted
            layer.bias.zero_()
        self._optimizer.restart(layer.parameters())

    def return_head_to(self, earlier: Transformer, head: SmallHead) -> None:
        """Take one of the two small heads from a copy made earlier; its moments begin again."""
        self._head(head).load_state_dict(earlier._head(head).state_dict())
        self._optimizer.restart(self._head(head).parameters())

    def _head(self, head: SmallHead) -> torch.nn.Linear:
        return {"event_type": self.network.type_head, "next_event_s": self.network.time_head}[head]

    def copy(self) -> Transformer:
        """Return another one in the same state, over the same vocabularies."""
        other = Transformer(self.settings, self.items, self.types, 0)
        other.load(self.state())
        return other

    def return_to(self, earlier: Transformer) -> None:
        """Take the weights of a copy made earlier; items that came since then keep theirs."""
        self._load_body(earlier.state())
        self.table.take_over(earlier.table)

    def state(self) -> State:
        """Return weights and optimizer state."""
        state = State()
        state.put("table", self.table.state(self.items.rows))
        state.put("network", State({name: t.numpy().copy() for name, t in self.network.state_dict().items()}))
        state.put("optimizer", self._optimizer.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.table.load(state.take("table"))
        self._load_body(state)

    def _load_body(self, state: State) -> None:
        weights = state.take("network").arrays
        self.network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        self._optimizer.load(state.take("optimizer"))


def target_mask(batch: Sequences) -> Bool:
    """Where the events to be learned are, [R, L]."""
    column = np.arange(batch.items_RL.shape[1])
    return (column >= batch.first_target_R[:, None]) & (column < batch.length_R[:, None])


@dataclass(frozen=True, slots=True)
class _Targets:
    """All events to be learned, row by row: item and type rows, seconds since the previous event."""

    items: Rows
    types: Rows
    gaps: Array

    @classmethod
    def of(cls, batch: Sequences) -> _Targets:
        mask = target_mask(batch)
        return cls(batch.items_RL[mask], batch.types_RL[mask], batch.gaps_RL[mask])
