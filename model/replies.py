"""Replies: who lately acted towards this user, in streams whose items are users too (answers, messages, follows).

A user is found among the items where both have the same id. Of every item the latest LENGTH users that acted on it and
are items themselves are kept; the latest weighs most. Where ids of users and items have nothing in common this holds
nothing, costs next to nothing and wins no weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from model.arrays import fit
from model.compiled import compiled
from model.sparse import SparseView
from model.state import State
from model.stream import stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Contexts, Int32, Int64
    from model.smoothing import Smoothing
    from model.sparse import Weights
    from model.stream import Stream
    from model.vocabulary import Rows, Vocabulary

LENGTH = 16
DECAY = 0.7
"""Weight of the next older one."""


class Actors(NamedTuple):
    """Who acted in the V events of the stream, as items, with which event they became that, and the states' moments."""

    rows_V: Rows
    came_V: Int64  # -1: before the micro-batch
    moment_Q: Int32


class Replies:
    """Rings of actors, by vocabulary row of the item acted on."""

    name = "replies"

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        self._actor = np.zeros((1, LENGTH), np.int32)
        self._made = np.zeros(1, np.int64)

    def view(self, contexts: Contexts, smoothing: Smoothing) -> SparseView:
        """Look at a micro-batch."""
        user_Q = self.items.lookup(contexts.user_R)[contexts.state_row_Q]
        height = self.items.height
        stream, rings = stream_of(contexts, self.items), (self._actor, self._made)
        actors_V = self.items.lookup(stream.users_V)
        actors = Actors(actors_V, self.items.came(actors_V), contexts.moment_Q)
        return SparseView(*latest_actors(user_Q, *rings, stream, actors, height), height, smoothing)

    def learn(self, contexts: Contexts, kept: Int64) -> None:
        """Note who acted on what, in stream order."""
        actors = self.items.lookup(contexts.event_user_B[kept])
        rows = self.items.lookup(contexts.event_item_B[kept])
        both = np.flatnonzero((actors != 0) & (rows != 0))
        if len(both):
            self._actor, self._made = fit(self._actor, self.items.rows), fit(self._made, self.items.rows)
            push(actors[both], rows[both], self._actor, self._made)

    def evict(self, rows: Sequence[int]) -> None:
        """Clear evicted rows, as items and as actors."""
        gone = np.zeros(max(self.items.rows, len(self._made)), np.bool_)
        gone[list(rows)] = True
        self._made[gone[: len(self._made)]] = 0
        self._actor[gone[: len(self._made)]] = 0
        self._actor[gone[self._actor]] = 0

    def forget(self, user: int) -> None:
        """Remove what a user did, and what was done towards the user."""
        row = int(self.items.lookup(np.array([user]))[0])
        if row:
            self.evict([row])

    def state(self) -> State:
        """Return the rings in use."""
        used = np.flatnonzero(self._made)
        return State({"rows": used, "made": self._made[used].copy(), "actor": self._actor[used].copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        rows = state.arrays["rows"]
        height = int(rows.max(initial=0)) + 1
        self._actor, self._made = np.zeros((height, LENGTH), np.int32), np.zeros(height, np.int64)
        self._actor[rows], self._made[rows] = state.arrays["actor"], state.arrays["made"]


@compiled
def push(actors: Rows, rows: Rows, actor: Rows, made: Int64) -> None:
    """Append each actor to the ring of its item."""
    for index in range(len(rows)):
        row = rows[index]
        actor[row, made[row] % LENGTH] = actors[index]
        made[row] += 1


@compiled
def latest_actors(
    user_Q: Int32, actor: Rows, made: Int64, stream: Stream, actors: Actors, height: int
) -> tuple[Int64, Rows, Weights]:
    """Return, as in `model.sparse`, who acted on each state's user."""
    states = len(user_Q)
    start_Q = np.zeros(states + 1, np.int64)
    rows, q = np.zeros(states * LENGTH, np.int32), np.zeros(states * LENGTH, np.float32)
    dense, latest = np.zeros(height, np.float32), np.zeros(LENGTH, np.int32)
    size = 0
    for state in range(states):
        begin, weight, total = size, np.float32(1.0), np.float32(1e-30)
        for age in range(gather_actors(user_Q[state], state, actor, made, stream, actors, latest)):
            other = latest[age]
            if other != 0:
                if dense[other] == 0.0:
                    rows[size] = other
                    size += 1
                dense[other] += weight
                total += weight
            weight *= np.float32(DECAY)
        for index in range(begin, size):
            q[index] = dense[rows[index]] / total
            dense[rows[index]] = 0.0
        start_Q[state + 1] = size
    return start_Q, rows[:size], q[:size]


@compiled
def gather_actors(user: int, state: int, actor: Rows, made: Int64, stream: Stream, actors: Actors, latest: Rows) -> int:
    """Fill in who acted on a state's user, the latest first: in the events that the state knows, then before these.

    Returns how many there are.
    """
    count = 0
    if user == 0:
        return count
    for event in range(stream.known_Q[state] - 1, -1, -1):
        known = actors.rows_V[event] != 0 and actors.came_V[event] < actors.moment_Q[state]
        if stream.rows_V[event] == user and known and count < LENGTH:
            latest[count] = actors.rows_V[event]
            count += 1
    if user < len(made):
        for age in range(min(made[user], LENGTH - count)):
            latest[count] = actor[user, (made[user] - 1 - age) % LENGTH]
            count += 1
    return count
