"""Similar sessions: what others did in sessions that share items with this one (session-kNN).

Sources: session-kNN with recency and position weights (Jannach and Ludewig 2017; Garg et al. 2019), kept as a stream:
a ring of sessions and a ring of postings, both bounded, the oldest overwritten. A posting says "this session holds
this item" and points to the item's posting before it, so the sessions of an item are walked latest first.

Bounds. A session holds its first LENGTH items, and another slot is begun for what follows. For each item of the
context the latest POSTINGS postings are looked at; of the sessions found the NEIGHBOURS most similar count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from model.arrays import at_least, fit, pairs
from model.compiled import compiled
from model.guests import rows_of
from model.sparse import SparseView, grown
from model.state import Array, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.contexts import Bool, Contexts, Int32, Int64
    from model.smoothing import Smoothing
    from model.vocabulary import Rows, Vocabulary

LENGTH = 32
CONTEXT = 8
POSTINGS = 400
NEIGHBOURS = 300
MATCH_DECAY = 2.0
"""Items of the context after which a match counts 1 / e."""
CANDIDATE_DECAY = 4.0
"""Steps from the match after which an item of the other session counts 1 / e."""
POSTINGS_PER_SESSION = 6

Counts = npt.NDArray[np.float32]


BY_SESSION = ("items", "length", "latest", "user")


class Rings(NamedTuple):
    """Sessions and postings, both by number modulo the size of their ring, and each item's latest posting."""

    items: Rows  # [sessions, LENGTH]
    length: Int32  # [sessions]
    latest: Int64  # [sessions]: number of the session's latest event
    user: Int64  # [sessions]: key
    posted: Int64  # [postings, 2]: number of the session, the item's posting before it
    head: Int64  # [N]: the item's latest posting, counted from 1; 0: none
    postings: Int32  # [N]: how many postings so far
    made: Int64  # [3]: sessions and postings so far, and the clock by which sessions age, in events

    @classmethod
    def empty(cls) -> Rings:
        """Return empty rings."""
        items, length, latest = np.zeros((1, LENGTH), np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64)
        posted, head, postings = np.zeros((1, 2), np.int64), np.zeros(1024, np.int64), np.zeros(1024, np.int32)
        return cls(items, length, latest, latest.copy(), posted, head, postings, np.zeros(3, np.int64))

    def reaching(self, rows: int, sessions: int, postings: int) -> Rings:
        """Return the same for at least so many items, sessions and postings."""
        return Rings(
            at_least(self.items, sessions),
            at_least(self.length, sessions),
            at_least(self.latest, sessions),
            at_least(self.user, sessions),
            at_least(self.posted, postings),
            fit(self.head, rows),
            fit(self.postings, rows),
            self.made,
        )


class Sessions:
    """The memory of sessions: `capacity` of them; `half_life` in events."""

    name = "similar_sessions"

    def __init__(self, items: Vocabulary, half_life: float, capacity: int) -> None:
        self.items = items
        self._capacity, self._half_life = capacity, half_life
        self._rings = Rings.empty()
        self._open: dict[int, int] = {}  # user: number of the session that still fills

    def view(self, contexts: Contexts, smoothing: Smoothing) -> SparseView:
        """Look at a micro-batch."""
        height = self.items.height
        start_Q, rows, q = vote(
            rows_of(contexts, self.items),
            contexts.session_RT,
            contexts.state_row_Q,
            contexts.state_position_Q,
            self._own_sessions(contexts),
            self._rings.reaching(height, 1, 1),
            np.log(2.0) / self._half_life,
        )
        return SparseView(start_Q, rows, q, height, smoothing)

    def _own_sessions(self, contexts: Contexts) -> Int64:
        """Return the number of each row's open session, -1 where there is none: nobody is similar to oneself."""
        return np.array([self._open.get(user, -1) for user in contexts.user_R.tolist()], np.int64)

    def learn(self, contexts: Contexts, kept: Int64) -> None:
        """Add some events of a micro-batch to their sessions, in stream order."""
        self._reserve(self.items.rows, len(kept))
        session_B = self._slots(contexts, kept)
        rows = self.items.lookup(contexts.event_item_B[kept])
        post(session_B, rows, self._rings)

    def _slots(self, contexts: Contexts, kept: Int64) -> Int64:
        """Return the number of the session that each event joins, after beginning those that are new."""
        numbers = np.zeros(len(kept), np.int64)
        filled: dict[int, int] = {}
        users, opens = contexts.event_user_B[kept].tolist(), contexts.event_session_B[kept].tolist()
        for index, (user, opens_session) in enumerate(zip(users, opens, strict=True)):
            number = self._open.get(user, -1)
            held = filled.get(number, int(self._rings.length[number % self._capacity]) if number >= 0 else 0)
            if opens_session or number < 0 or held >= LENGTH:
                number, held = self._begin(user), 0
            filled[number] = held + 1
            numbers[index] = number
        return numbers

    def _begin(self, user: int) -> int:
        rings, number = self._rings, int(self._rings.made[0])
        rings.made[0] += 1
        slot = number % self._capacity
        previous = int(rings.user[slot])
        if self._open.get(previous) == number - self._capacity:
            del self._open[previous]
        rings.user[slot], rings.length[slot], rings.items[slot] = user, 0, 0
        self._open[user] = number
        return number

    def _reserve(self, rows: int, events: int) -> None:
        made, rings = self._rings.made, self._rings
        slots = _next_size(len(rings.length), int(made[0]) + events, self._capacity)
        postings = _next_size(len(rings.posted), int(made[1]) + events, POSTINGS_PER_SESSION * self._capacity)
        self._rings = rings.reaching(rows, slots, postings)

    def evict(self, rows: Sequence[int]) -> None:
        """Take evicted rows out of all sessions."""
        if not len(rows):
            return
        rings = self._rings
        gone = np.zeros(max(self.items.rows, len(rings.head)), np.bool_)
        gone[list(rows)] = True
        rings.items[gone[rings.items]] = 0
        rings.head[gone[: len(rings.head)]], rings.postings[gone[: len(rings.head)]] = 0, 0

    def forget(self, user: int) -> None:
        """Empty every session of a user."""
        rings = self._rings
        mine = rings.user == user
        rings.items[mine], rings.length[mine], rings.latest[mine], rings.user[mine] = 0, 0, 0, 0
        self._open.pop(user, None)

    def state(self) -> State:
        """Return both rings."""
        rows, made = self.items.rows, self._rings.made
        used = min(int(made[0]), self._capacity), min(int(made[1]), POSTINGS_PER_SESSION * self._capacity)
        count = dict.fromkeys(BY_SESSION, used[0]) | {"posted": used[1], "head": rows, "postings": rows, "made": 3}
        rings = self._rings.reaching(rows, *used)._asdict()
        arrays: dict[str, Array] = {name: array[: count[name]].copy() for name, array in rings.items()}
        arrays["open"] = pairs(self._open)
        return State(arrays)

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._rings = Rings(**{name: state.arrays[name].copy() for name in Rings._fields}).reaching(1, 1, 1)
        self._open = {int(user): int(number) for user, number in state.arrays["open"]}


def _next_size(size: int, wanted: int, most: int) -> int:
    """Return the size of a ring that must hold `wanted` entries or `most`, whichever is less; grows by doubling."""
    return size if min(wanted, most) <= size else min(most, max(wanted, 2 * size))


@compiled
def post(
    session_B: Int64,
    rows: Rows,
    rings: Rings,
) -> None:
    """Append each item to its session; its first time there is posted."""
    capacity, ring = len(rings.length), len(rings.posted)
    for event in range(len(rows)):
        rings.made[2] += 1
        slot, row = session_B[event] % capacity, rows[event]
        if session_B[event] < rings.made[0] - capacity or rings.length[slot] >= LENGTH:
            continue  # overwritten within this very micro-batch
        new = row != 0
        for place in range(rings.length[slot]):
            if rings.items[slot, place] == row:
                new = False
        rings.items[slot, rings.length[slot]] = row
        rings.length[slot] += 1
        rings.latest[slot] = rings.made[2]
        if new:
            place = rings.made[1] % ring
            rings.posted[place, 0], rings.posted[place, 1] = session_B[event], rings.head[row]
            rings.made[1] += 1
            rings.head[row] = rings.made[1]
            rings.postings[row] += 1


@compiled
def find(
    rows_T: Rows, opens_T: Bool, last: int, own: int, rings: Rings, similarity: Counts, match: Int32, found: Int64
) -> int:
    """Add up by slot how much each session shares with a state's session; returns how many share anything.

    `found` takes their slots, `match` the item by which each was first found: the latest that it shares.
    """
    capacity, ring, count = len(rings.length), len(rings.posted), 0
    for lag in range(min(CONTEXT, last + 1)):
        if lag > 0 and opens_T[last - lag + 1]:
            break
        item = rows_T[last - lag]
        repeated = item == 0
        for newer in range(lag):
            repeated = repeated or rows_T[last - newer] == item
        if repeated:
            continue
        weight = np.float32(np.exp(-lag / MATCH_DECAY) / np.sqrt(rings.postings[item] + 1.0))
        posting = rings.head[item]
        for _ in range(POSTINGS):
            if posting == 0 or posting <= rings.made[1] - ring:
                break
            session = rings.posted[(posting - 1) % ring, 0]
            posting = rings.posted[(posting - 1) % ring, 1]
            slot = session % capacity
            if session <= rings.made[0] - 1 - capacity or session == own or rings.length[slot] == 0:
                continue
            if similarity[slot] == 0.0:
                found[count], match[slot] = slot, item
                count += 1
            similarity[slot] += weight
    return count


@compiled
def threshold(similarity: Counts, found: Int64, count: int) -> np.float32:
    """Return the similarity that a session needs to be among the NEIGHBOURS most similar."""
    if count <= NEIGHBOURS:
        return np.float32(0.0)
    values = np.empty(count, np.float32)
    for index in range(count):
        values[index] = similarity[found[index]]
    return np.float32(np.partition(values, count - NEIGHBOURS)[count - NEIGHBOURS])


@compiled
def hand_votes(
    rings: Rings,
    similarity: Counts,
    match: Int32,
    found: Int64,
    least: np.float32,
    fade: Counts,
    dense: Counts,
    rows: Rows,
    size: int,
) -> int:
    """Let the most similar sessions vote for their items, list those not voted for yet, and clear the similarities.

    The nearer an item stands to the match, the more it gets. Returns how many are listed.
    """
    voters = 0
    for index in range(len(found)):
        slot = found[index]
        alike, similarity[slot] = similarity[slot], np.float32(0.0)
        if alike < least or voters == NEIGHBOURS:
            continue
        voters += 1
        centre = 0
        for place in range(rings.length[slot]):
            if rings.items[slot, place] == match[slot]:
                centre = place
        for place in range(rings.length[slot]):
            other = rings.items[slot, place]
            if place != centre and other != 0:
                if dense[other] == 0.0:
                    rows[size] = other
                    size += 1
                dense[other] += alike * fade[abs(place - centre) - 1]
    return size


@compiled
def vote(
    rows_RT: Rows,
    opens_RT: Bool,
    row_Q: Int32,
    position_Q: Int32,
    own_R: Int64,
    rings: Rings,
    decay: float,
) -> tuple[Int64, Rows, Counts]:
    """Return the items of the sessions most similar to each state's session, as in `model.sparse`."""
    states, height, capacity = len(row_Q), len(rings.head), len(rings.length)
    start_Q = np.zeros(states + 1, np.int64)
    dense = np.zeros(height, np.float32)
    rows, q = np.empty(NEIGHBOURS * LENGTH, np.int32), np.empty(NEIGHBOURS * LENGTH, np.float32)
    similarity = np.zeros(capacity, np.float32)
    match = np.zeros(capacity, np.int32)
    worth = np.zeros(capacity)  # by slot, worked out once: the same sessions are found from many states
    found = np.empty(CONTEXT * POSTINGS, np.int64)
    fade = np.exp(-np.arange(LENGTH) / CANDIDATE_DECAY).astype(np.float32)
    size = 0
    for state in range(states):
        line, last = row_Q[state], position_Q[state]
        if len(rows) - size < NEIGHBOURS * LENGTH:
            rows, q = grown(rows), grown(q)
        begin = size
        count = find(rows_RT[line], opens_RT[line], last, own_R[line], rings, similarity, match, found)
        for index in range(count):
            slot = found[index]
            if worth[slot] == 0.0:
                age = rings.made[2] - rings.latest[slot]
                worth[slot] = np.exp(-decay * age) / np.sqrt(rings.length[slot])
            similarity[slot] *= worth[slot]
        least = threshold(similarity, found, count)
        size = hand_votes(rings, similarity, match, found[:count], least, fade, dense, rows, size)
        total = np.float32(1e-30)
        for index in range(begin, size):
            total += dense[rows[index]]
        for index in range(begin, size):
            q[index] = dense[rows[index]] / total
            dense[rows[index]] = 0.0
        start_Q[state + 1] = size
    return start_Q, rows[:size], q[:size]
