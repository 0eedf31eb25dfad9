"""What kind of event comes next, and when: two heads, each a mixture of counting tables and of the network.

Each head has experts that give a distribution over classes (event types; bins of the time between events): the network,
tables of decayed counts by what the user did last, and a stack of those. A fixed-share mixture (`model.mixture`) of them
all is what the head says, so it is never much worse than the best of them, also while the network knows nothing yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.count_table import CountTable
from model.gaps import BINS, Gaps, bin_of
from model.mixture import Mixture
from model.rhythm import HOURS, INPUTS, RUNS, STEPS, Rhythm, rhythm
from model.stack import Stack, logarithms
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from model.contexts import Contexts, Float64, Int64
    from model.settings import ModelSettings
    from model.smoothing import Probability
    from model.transformer_view import TransformerView
    from model.vocabulary import Vocabulary

BUCKETS = 8
"""Of the length of a history, as `model.mixture` cuts it."""
TYPES_IN_TABLES = 9
"""Event types that the tables of times tell apart, none among them; later ones share the last line."""
TYPE_STRENGTH, TIME_STRENGTH = 1.0, 10.0
TYPE_RATE, TIME_RATE = 4e-3, 2e-3
"""Learning rates of the stacks."""
OWN_STRENGTH = 3.0
LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class HeadView:
    """What each expert of a head says of every state, the stack last, and what they were asked with.

    `log_EQY` are the logarithms without the stack's.
    """

    p_EQY: Probability
    log_EQY: Tensor
    keys: Mapping[str, Int64]
    x_QF: Tensor


class Head:
    """Tables by name with their keys, a stack and a mixture. Expert order: network, tables, `more`, stack.

    The first table is smoothed towards the classes of the whole stream, the others towards the first.
    """

    def __init__(self, tables: Mapping[str, CountTable], more: Sequence[str], stack: Callable[[int], Stack]) -> None:
        self._tables = tables
        names = ["network", *tables, *more]
        self._stack = stack(len(names))
        self.mixture = Mixture([*names, "stack"])

    def view(
        self,
        network_QY: Probability,
        keys: Mapping[str, Int64],
        more: list[Probability],
        overall_Y: Float64,
        x_QF: Tensor,
    ) -> HeadView:
        """Ask every expert about every state; `overall_Y`, [Y] or [Q, Y], is what is known without a key."""
        p_EQY = np.empty((len(self.mixture.names), *network_QY.shape), np.float32)
        p_EQY[0] = network_QY
        for place, (name, table) in enumerate(self._tables.items(), start=1):
            p_EQY[place] = table.probabilities(keys[name], p_EQY[1] if place > 1 else overall_Y)
        for place, own_QY in enumerate(more, start=1 + len(self._tables)):
            p_EQY[place] = own_QY
        log_EQY = logarithms(p_EQY[:-1])
        p_EQY[-1] = self._stack.probabilities(log_EQY, x_QF)
        return HeadView(p_EQY, log_EQY, dict(keys), x_QF)

    def combined(self, view: HeadView, bucket_Q: Int64) -> Probability:
        """Return the mixture of all experts, [Q, Y]."""
        weight_QE = self.mixture.weights(bucket_Q).astype(np.float32)
        combined: Probability = np.zeros_like(view.p_EQY[0])
        for p_QY, weight_Q in zip(view.p_EQY, weight_QE.T, strict=True):
            combined += p_QY * weight_Q[:, None]
        return combined

    def learn(self, view: HeadView, states: Int64, seen: Int64, counted: Int64, bucket_Q: Int64) -> None:
        """Learn what came after some states: `seen` are the classes as they were known then, `counted` as of now."""
        if not len(states):
            return
        p_PE = view.p_EQY[:, states, seen].T.astype(np.float64)
        self.mixture.learn(np.maximum(p_PE, LEAST), bucket_Q[states])
        chosen = torch.from_numpy(states)
        self._stack.learn(view.log_EQY[:, chosen], view.x_QF[chosen], seen)
        for name, table in self._tables.items():
            table.learn(view.keys[name][states], counted)

    def state(self) -> State:
        """Return tables, stack and mixture."""
        state = State()
        for name, table in self._tables.items():
            state.put(name, table.state())
        state.put("stack", self._stack.state())
        state.put("mixture", self.mixture.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        for name, table in self._tables.items():
            table.load(state.take(name))
        self._stack.load(state.take("stack"))
        self.mixture.load(state.take("mixture"))


class Heads:
    """The heads of event type and time, and the stream's gaps, which the network's time head begins from."""

    name = "heads"

    def __init__(self, settings: ModelSettings, types: Vocabulary, gaps: Gaps) -> None:
        self.types, self.gaps = types, gaps
        self._epsilon = settings.epsilon
        rows = settings.max_types + 1
        self._all_types = CountTable(1, rows, 1.0)
        keys = {"after_type": rows, "after_run": rows * RUNS}
        tables = {name: CountTable(lines, rows, TYPE_STRENGTH) for name, lines in keys.items()}
        self._type = Head(tables, ("own_types",), lambda experts: Stack(experts, 0, rows, TYPE_RATE))
        keys = {
            "after_type": TYPES_IN_TABLES,
            "gap": TYPES_IN_TABLES * STEPS,
            "gap_and_mean": TYPES_IN_TABLES * STEPS * STEPS,
            "mean_and_length": TYPES_IN_TABLES * STEPS * BUCKETS,
            "hour": TYPES_IN_TABLES * HOURS,
        }
        tables = {name: CountTable(lines, BINS, TIME_STRENGTH) for name, lines in keys.items()}
        inputs = settings.dim + INPUTS
        self._time = Head(tables, (), lambda experts: Stack(experts, inputs, BINS, TIME_RATE))

    def view(self, contexts: Contexts, transformer: TransformerView) -> HeadsView:
        """Look at a micro-batch; a head that the stream does not feed is left out."""
        beat = rhythm(contexts, self.types)
        typed = self._view_types(beat, transformer) if self.types.size > 1 else None
        timed = self._view_times(contexts, beat, transformer) if np.isfinite(contexts.times_RT).any() else None
        type_p_QY = None if typed is None else self._smoothed(self._type.combined(typed, beat.bucket_Q))
        time_p_QB = None if timed is None else self._time.combined(timed, beat.bucket_Q)
        return HeadsView(beat, typed, timed, type_p_QY, None if time_p_QB is None else self.gaps.quantiles(time_p_QB))

    def _view_types(self, beat: Rhythm, transformer: TransformerView) -> HeadView:
        rows = self.types.rows
        zero = np.zeros(1, np.int64)
        overall_Y = self._all_types.probabilities(zero, np.full(rows, 1.0 / rows))[0].astype(np.float64)
        own_QY = beat.counts_QY + np.float32(OWN_STRENGTH) * overall_Y.astype(np.float32)
        own_QY /= own_QY.sum(axis=1, keepdims=True)
        keys = {"after_type": beat.type_Q, "after_run": beat.type_Q * RUNS + beat.run_Q}
        nothing = torch.zeros(len(own_QY), 0)
        return self._type.view(transformer.type_probabilities(), keys, [own_QY], overall_Y, nothing)

    def _view_times(self, contexts: Contexts, beat: Rhythm, transformer: TransformerView) -> HeadView:
        type_Q, (last_Q, _, mean_Q) = np.minimum(beat.type_Q, TYPES_IN_TABLES - 1), beat.steps.T
        keys = {
            "after_type": type_Q,
            "gap": type_Q * STEPS + last_Q,
            "gap_and_mean": (type_Q * STEPS + last_Q) * STEPS + mean_Q,
            "mean_and_length": (type_Q * STEPS + mean_Q) * BUCKETS + beat.bucket_Q,
            "hour": type_Q * HOURS + beat.hour_Q,
        }
        x_QF = torch.cat([transformer.h_QD, torch.from_numpy(beat.inputs())], dim=1)
        shares_QB = self.gaps.shares(contexts)
        return self._time.view(transformer.time_probabilities(shares_QB), keys, [], shares_QB, x_QF)

    def _smoothed(self, p_QY: Probability) -> Probability:
        epsilon = self._epsilon
        smooth: Probability = ((1.0 - epsilon) * p_QY + epsilon / p_QY.shape[1]).astype(np.float32)
        return smooth

    def learn(self, view: HeadsView, states: Int64, seen: Int64, now: Int64, log_gap: Float64) -> None:
        """Learn some events from the states before them.

        `seen` and `now` are their type rows as of the scoring and with what was admitted since; `log_gap` is the log of
        1 + seconds since the user's previous event, NaN where unknown.
        """
        if view.types is not None:
            self._type.learn(view.types, states, seen, now, view.rhythm.bucket_Q)
        self._all_types.learn(np.zeros(len(now), np.int64), now)
        timed = np.flatnonzero(np.isfinite(log_gap))
        if view.times is not None and len(timed):
            bins = bin_of(log_gap[timed])
            self._time.learn(view.times, states[timed], bins, bins, view.rhythm.bucket_Q)
            self.gaps.learn(log_gap[timed])

    def evict(self, rows: Sequence[int]) -> None:
        """Nothing here is kept by item."""

    def forget(self, user: int) -> None:
        """Nothing here is kept by user; the counts decay."""

    def state(self) -> State:
        """Return everything."""
        state = State()
        state.put("gaps", self.gaps.state())
        state.put("all_types", self._all_types.state())
        state.put("type", self._type.state())
        state.put("time", self._time.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self.gaps.load(state.take("gaps"))
        self._all_types.load(state.take("all_types"))
        self._type.load(state.take("type"))
        self._time.load(state.take("time"))


@dataclass(frozen=True, slots=True)
class HeadsView:
    """Both heads on every state: p over type rows, and p10, p50, p90 of log(1 + seconds); None where there is none."""

    rhythm: Rhythm
    types: HeadView | None
    times: HeadView | None
    type_p_QY: Probability | None
    time_Q3: Float64 | None
