"""Transitions: what users did within a few steps after, and before, each item.

Every item keeps a bounded list of neighbours with three decayed counts: it came right after, it came two to LAGS
events later, it came up to LAGS events earlier. A later event weighs lag ** -0.5, and less across the border of a
session. Three components read the one memory: the first order (right after the latest item), the forward counts of
the latest CONTEXT items, and the same with the backward counts added (co-occurrence). There are two such memories, of
a long and a short half-life: what changes is found in the second, what comes back in the first.

Bounds. An item has at most 256 neighbours; a new one takes the place of the weakest. Neighbours live in blocks of
16; when the memory holds no free block, the block that was handed out longest ago is emptied and handed out again.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from model.arrays import at_least, fit
from model.compiled import compiled
from model.decay import parts_within
from model.guests import rows_of
from model.pairs import ACROSS, LAGS, Pairs, forward_total, pairs_of
from model.sparse import SparseView, grown
from model.state import Array, State
from model.stream import stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Contexts, Float64, Int32, Int64
    from model.smoothing import Smoothing
    from model.vocabulary import Rows, Vocabulary

CONTEXT = 8
CONTEXT_DECAY = 0.85
"""Weight of the next older item of the context."""
BACKWARD = 0.6
BLOCK = 16
MAX_BLOCKS = 16
"""Of an item."""
RENORMALISE_ABOVE = 1e12
"""Looked at after HALF_LIVES at most: by then the increment is 2e31 at most, and float32 ends at 3e38."""
LARGE = 3e38

Counts = npt.NDArray[np.float32]


BY_ROW = ("first", "total")


class Blocks(NamedTuple):
    """The neighbours of all items. Block 0 is no block."""

    neighbour: Rows  # [blocks, BLOCK], 0 where a place is free
    counts: Counts  # [blocks, BLOCK, 3]: right after, later, earlier; times the increment
    following: Int32  # [blocks]: the item's next block
    owner: Int32  # [blocks]: the item
    first: Int32  # [N]: the item's first block
    total: Float64  # [N]: all forward counts of the item
    made: Int64  # [1]: blocks handed out so far

    @classmethod
    def empty(cls) -> Blocks:
        """Return no blocks for no items."""
        neighbour, count = np.zeros((1, BLOCK), np.int32), np.zeros((1, BLOCK, 3), np.float32)
        block, row = np.zeros(1, np.int32), np.zeros(1024, np.int32)
        return cls(neighbour, count, block, block.copy(), row, np.zeros(1024), np.zeros(1, np.int64))

    def reaching(self, rows: int, blocks: int) -> Blocks:
        """Return the same for at least so many items and blocks."""
        return Blocks(
            at_least(self.neighbour, blocks),
            at_least(self.counts, blocks),
            at_least(self.following, blocks),
            at_least(self.owner, blocks),
            fit(self.first, rows),
            fit(self.total, rows),
            self.made,
        )


class Transitions:
    """The memory of neighbours. `capacity` is in neighbours, `half_life` in events."""

    def __init__(self, items: Vocabulary, half_life: float, capacity: int, name: str = "transitions") -> None:
        self.name = name
        self.items = items
        self._half_life, self._growth = half_life, 2.0 ** (1.0 / half_life)
        self._increment = 1.0
        self._max_blocks = max(1, capacity // BLOCK)
        self._blocks = Blocks.empty()

    def views(self, contexts: Contexts, smoothing: Smoothing) -> tuple[SparseView, SparseView, SparseView]:
        """Look at a micro-batch in three ways: first order, forward, co-occurrence."""
        height, shown = self.items.height, np.flatnonzero(contexts.shown_B)
        sequences = rows_of(contexts, self.items), contexts.session_RT
        added = pairs_of(*sequences, *places_of(contexts, shown), self._increment, self._growth, height)
        start_Q, rows, first, forward, around = walk(
            *sequences,
            contexts.state_row_Q,
            contexts.state_position_Q,
            self._blocks.reaching(height, 1),
            1.0 / self._increment,
            self._growth,
            added,
            stream_of(contexts, self.items).known_Q,
        )
        one, two, three = (SparseView(start_Q, rows, q, height, smoothing) for q in (first, forward, around))
        return one, two, three

    def learn(self, contexts: Contexts, kept: Int64, longest_half_life: float = inf) -> None:
        """Count the transitions to some events of a micro-batch, in stream order.

        While these are counted the half-life is at most `longest_half_life`.
        """
        self._reserve(self.items.rows, len(kept))
        half_life, rows_RT = min(self._half_life, longest_half_life), self.items.lookup(contexts.items_RT)
        growth = 2.0 ** (1.0 / half_life)
        for part in parts_within(half_life, len(kept)):
            self._increment = count_transitions(
                rows_RT,
                contexts.session_RT,
                *places_of(contexts, kept[part]),
                self._blocks,
                self._max_blocks,
                self._increment,
                growth,
            )
            if self._increment > RENORMALISE_ABOVE:
                self._blocks.counts[:] /= np.float32(self._increment)
                self._blocks.total[:] /= self._increment
                self._increment = 1.0

    def _reserve(self, rows: int, events: int) -> None:
        """Make room for every block that so many events can ask for."""
        wanted = min(self._max_blocks, int(self._blocks.made[0]) + 2 * LAGS * events) + 1
        if wanted > len(self._blocks.owner):
            wanted = min(self._max_blocks + 1, max(wanted, 2 * len(self._blocks.owner)))
        self._blocks = self._blocks.reaching(rows, wanted)

    def evict(self, rows: Sequence[int]) -> None:
        """Clear the neighbours of evicted rows, and these rows as neighbours of others."""
        if not len(rows):
            return
        gone = np.zeros(max(self.items.rows, len(self._blocks.first)), np.bool_)
        gone[list(rows)] = True
        erase(gone, self._blocks)

    def forget(self, user: int) -> None:
        """Nothing here is kept by user; counts decay."""

    def state(self) -> State:
        """Return the blocks in use and the counts that grow."""
        rows, used = self.items.rows, min(int(self._blocks.made[0]), self._max_blocks) + 1
        arrays: dict[str, Array] = {}
        for name, array in self._blocks.reaching(rows, used)._asdict().items():
            arrays[name] = array[: rows if name in BY_ROW else used].copy()
        return State(arrays, {"increment": self._increment})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._blocks = Blocks(**{name: state.arrays[name].copy() for name in Blocks._fields})
        self._increment = float(state.values["increment"])


def places_of(contexts: Contexts, events: Int64) -> tuple[Int64, Int64]:
    """Return row and position of some events."""
    position = contexts.state_position_Q[contexts.before_B[events]] + 1
    return contexts.event_row_B[events].astype(np.int64), position.astype(np.int64)


@compiled
def walk(
    rows_RT: Rows,
    opens_RT: Bool,
    row_Q: Int32,
    position_Q: Int32,
    blocks: Blocks,
    scale: float,
    growth: float,
    added: Pairs,
    known_Q: Int64,
) -> tuple[Int64, Rows, Counts, Counts, Counts]:
    """Return the neighbours of every state's context as in `model.sparse`, with three sets of weights that sum to 1.

    A state also sees the pairs that its `known` first events of the micro-batch add.
    """
    states, height = len(row_Q), len(blocks.first)
    start_Q = np.zeros(states + 1, np.int64)
    dense, seen = np.zeros((height, 3), np.float32), np.zeros(height, np.bool_)
    room = CONTEXT * MAX_BLOCKS * BLOCK + len(added.next_P)
    rows = np.empty(room, np.int32)
    q0, q1, q2 = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    size = 0
    for state in range(states):
        if len(rows) - size < room:
            rows, q0, q1, q2 = grown(rows), grown(q0), grown(q1), grown(q2)
        line, latest = row_Q[state], position_Q[state]
        begin, weight, known = size, np.float32(1.0), known_Q[state]
        now = scale * growth ** np.float64(-known)  # counts are times the increment as of the moment
        for lag in range(min(CONTEXT, latest + 1)):
            if lag > 0:
                weight *= np.float32(CONTEXT_DECAY)
                if opens_RT[line, latest - lag + 1]:
                    weight *= np.float32(ACROSS)
            item = rows_RT[line, latest - lag]
            if item != 0:
                total = blocks.total[item] + forward_total(added, item, known)
                share = weight / np.float32(np.sqrt(total * now + 1.0))
                size = visit(blocks, item, share, lag, dense, seen, rows, size)
                size = visit_added(added, known, item, share, lag, dense, seen, rows, size)
        share_out(rows, begin, size, dense, seen, q0, q1, q2)
        start_Q[state + 1] = size
    return start_Q, rows[:size], q0[:size], q1[:size], q2[:size]


@compiled
def visit(
    blocks: Blocks, item: int, share: np.float32, lag: int, dense: Counts, seen: Bool, rows: Rows, size: int
) -> int:
    """Add up the counts of an item's neighbours by row, and list those not seen yet; returns how many are listed."""
    block = blocks.first[item]
    while block != 0:
        for place in range(BLOCK):
            other = blocks.neighbour[block, place]
            if other == 0:
                continue
            if not seen[other]:
                seen[other] = True
                rows[size] = other
                size += 1
            after = (blocks.counts[block, place, 0] + blocks.counts[block, place, 1]) * share
            if lag == 0:
                dense[other, 0] += blocks.counts[block, place, 0]
            dense[other, 1] += after
            dense[other, 2] += after + np.float32(BACKWARD) * blocks.counts[block, place, 2] * share
        block = blocks.following[block]
    return size


@compiled
def visit_added(
    added: Pairs,
    known: int,
    item: int,
    share: np.float32,
    lag: int,
    dense: Counts,
    seen: Bool,
    rows: Rows,
    size: int,
) -> int:
    """Do the same for what the first `known` events of the micro-batch add."""
    pair = added.head_N[item]
    while pair != -1:
        if added.event_P[pair] < known:
            other, column, amount = added.other_P[pair], added.column_P[pair], added.amount_P[pair]
            if not seen[other]:
                seen[other] = True
                rows[size] = other
                size += 1
            if column == 0 and lag == 0:
                dense[other, 0] += amount
            if column < 2:
                dense[other, 1] += amount * share
                dense[other, 2] += amount * share
            else:
                dense[other, 2] += np.float32(BACKWARD) * amount * share
        pair = added.next_P[pair]
    return size


@compiled
def share_out(rows: Rows, begin: int, stop: int, dense: Counts, seen: Bool, q0: Counts, q1: Counts, q2: Counts) -> None:
    """Turn what was added up for the listed rows into weights that sum to 1, and clear it."""
    sum0, sum1, sum2 = np.float32(1e-30), np.float32(1e-30), np.float32(1e-30)
    for index in range(begin, stop):
        other = rows[index]
        sum0, sum1, sum2 = sum0 + dense[other, 0], sum1 + dense[other, 1], sum2 + dense[other, 2]
    for index in range(begin, stop):
        other = rows[index]
        q0[index], q1[index], q2[index] = dense[other, 0] / sum0, dense[other, 1] / sum1, dense[other, 2] / sum2
        dense[other, 0], dense[other, 1], dense[other, 2], seen[other] = 0.0, 0.0, 0.0, False


@compiled
def count_transitions(
    rows_RT: Rows,
    opens_RT: Bool,
    line_B: Int64,
    position_B: Int64,
    blocks: Blocks,
    max_blocks: int,
    increment: float,
    growth: float,
) -> float:
    """Count every event with the LAGS events before it; returns the increment after the last."""
    for event in range(len(line_B)):
        line, position = line_B[event], position_B[event]
        item = rows_RT[line, position]
        weight = increment
        for lag in range(1, min(LAGS, position) + 1):
            if opens_RT[line, position - lag + 1]:
                weight *= ACROSS
            earlier = rows_RT[line, position - lag]
            if item != 0 and earlier != 0:
                amount = weight / np.sqrt(lag)
                column = 0 if lag == 1 else 1
                add(blocks, max_blocks, earlier, item, column, amount)
                if earlier != item:
                    add(blocks, max_blocks, item, earlier, 2, amount)
        increment *= growth
    return increment


@compiled
def add(
    blocks: Blocks,
    max_blocks: int,
    item: int,
    other: int,
    column: int,
    amount: float,
) -> None:
    """Add to one count of a pair, finding or making its place."""
    free_block, free_place, chain = 0, 0, 0
    weak_block, weak_place, weakest = 0, 0, np.float32(LARGE)
    block, found = blocks.first[item], False
    while block != 0 and not found:
        chain += 1
        for place in range(BLOCK):
            if blocks.neighbour[block, place] == other:
                free_block, free_place, found = block, place, True
                break
            if blocks.neighbour[block, place] == 0:
                if free_block == 0:
                    free_block, free_place = block, place
            else:
                weight = (
                    blocks.counts[block, place, 0] + blocks.counts[block, place, 1] + blocks.counts[block, place, 2]
                )
                if weight < weakest:
                    weak_block, weak_place, weakest = block, place, weight
        block = blocks.following[block]
    if free_block == 0:
        if chain < MAX_BLOCKS:
            free_block = hand_out(blocks, max_blocks)
            append(blocks, item, free_block)
        else:
            free_block, free_place = weak_block, weak_place
            blocks.total[item] -= blocks.counts[weak_block, weak_place, 0] + blocks.counts[weak_block, weak_place, 1]
            blocks.counts[weak_block, weak_place, :] = 0.0
    blocks.neighbour[free_block, free_place] = other
    blocks.counts[free_block, free_place, column] += np.float32(amount)
    if column < 2:
        blocks.total[item] += amount


@compiled
def append(blocks: Blocks, item: int, block: int) -> None:
    """Make a block the last of an item's."""
    blocks.owner[block], blocks.following[block] = item, 0
    if blocks.first[item] == 0:
        blocks.first[item] = block
        return
    last = blocks.first[item]
    while blocks.following[last] != 0:
        last = blocks.following[last]
    blocks.following[last] = block


@compiled
def hand_out(
    blocks: Blocks,
    max_blocks: int,
) -> int:
    """Return an empty block: a new one, or else the one handed out longest ago, taken from its owner."""
    block = 1 + blocks.made[0] % max_blocks
    blocks.made[0] += 1
    item = blocks.owner[block]
    if item != 0:
        if blocks.first[item] == block:
            blocks.first[item] = blocks.following[block]
        else:
            before = blocks.first[item]
            while blocks.following[before] != block:
                before = blocks.following[before]
            blocks.following[before] = blocks.following[block]
        for place in range(BLOCK):
            blocks.total[item] -= blocks.counts[block, place, 0] + blocks.counts[block, place, 1]
    blocks.neighbour[block, :] = 0
    blocks.counts[block, :, :] = 0.0
    blocks.owner[block] = 0
    return int(block)


@compiled
def erase(gone: Bool, blocks: Blocks) -> None:
    """Clear rows wherever they stand; their blocks wait, empty and without owner, for their turn to be handed out."""
    for row in range(len(blocks.first)):
        if gone[row]:
            blocks.first[row], blocks.total[row] = 0, 0.0
    for block in range(1, len(blocks.owner)):
        if gone[blocks.owner[block]]:
            blocks.owner[block], blocks.following[block] = 0, 0
            blocks.neighbour[block, :] = 0
            blocks.counts[block, :, :] = 0.0
            continue
        for place in range(BLOCK):
            if gone[blocks.neighbour[block, place]]:
                blocks.total[blocks.owner[block]] -= blocks.counts[block, place, 0] + blocks.counts[block, place, 1]
                blocks.neighbour[block, place] = 0
                blocks.counts[block, place, :] = 0.0
