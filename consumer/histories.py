"""What each user did of late: bounded per user and in users, per partition, by 64-bit keys of ids.

Staging changes nothing: it joins each user's history with the user's new events of the micro-batch, so that every
event sees all earlier ones. Applying makes the new events part of the histories; it happens after the commit.

Rules. A *repeated* event (its id is among the user's latest `repeat_window` ids, or its offset was read before someone
set the offsets back) is predicted for, but neither ranked, kept nor learned. A *late* event is kept in the order of
arrival, or treated like a repeated one, by `on_late`. Time between events is never negative. The user unseen for longest
makes room when a partition is full.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from consumer.history_pool import Sequence, SequencePool
from consumer.ports import TopicPartition
from model.contexts import Contexts, Int32, Int64
from model.predictor import LIST_LENGTH
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from consumer.events import Event
    from consumer.settings import HistorySettings, InputSettings


NOTHING_EMITTED = bytes(8 * LIST_LENGTH)


@dataclass(slots=True)
class User:
    """One user's place in the pool and the little that is kept beside the sequence."""

    place: tuple[int, int]
    length: int
    session_key: int
    recent_ids: tuple[int, ...]
    emitted: bytes  # keys of the last published list, int64


@dataclass(slots=True)
class Addition:
    """What a micro-batch adds to one user."""

    user_key: int
    history: Sequence
    session_key: int
    recent_ids: tuple[int, ...]
    emitted: bytes
    events: list[Event] = field(default_factory=list)
    opens: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    last_event: int = 0  # index into the micro-batch, kept or not


@dataclass(frozen=True, slots=True)
class Staged:
    """A micro-batch joined with its histories. `repeated_B` says which events the rule above left out."""

    contexts: Contexts
    additions: tuple[tuple[TopicPartition, Addition], ...]
    repeated_B: tuple[bool, ...]


class PartitionHistories:
    """The users of one partition, the latest seen last."""

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._pool = SequencePool(settings.length)
        self._users: OrderedDict[int, User] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def addition(self, user_key: int) -> Addition:
        """Begin an addition for a user, known or not."""
        user = self._users.get(user_key)
        if user is None:
            return Addition(user_key, Sequence.empty(), 0, (), b"")
        history = self._pool.read(user.place, user.length)
        return Addition(user_key, history, user.session_key, user.recent_ids, user.emitted)

    def apply(self, addition: Addition, emitted: bytes) -> None:
        """Make an addition part of the user's history and remember what was published."""
        events = new_sequence(addition)
        user = self._users.get(addition.user_key)
        if user is None:
            place = self._pool.add(events.last(self._settings.length))
            user = User(place, min(len(events.items), self._settings.length), 0, (), b"")
            self._users[addition.user_key] = user
        else:
            user.place, user.length = self._pool.append(user.place, user.length, events)
        user.session_key, user.recent_ids = addition.session_key, addition.recent_ids
        user.emitted = emitted
        self._users.move_to_end(addition.user_key)

    def make_room(self) -> None:
        """Drop the users unseen for longest, down to the number kept."""
        while len(self._users) > self._settings.max_users:
            self._drop(next(iter(self._users)))

    def _drop(self, user_key: int) -> None:
        self._pool.remove(self._users.pop(user_key).place)

    def forget(self, user_key: int) -> bool:
        """Remove a user; returns whether the user was known."""
        known = user_key in self._users
        if known:
            self._drop(user_key)
        return known

    def state(self) -> State:
        """Return all users, the longest unseen first."""
        users, count = list(self._users.values()), len(self._users)
        length = np.fromiter((user.length for user in users), np.int64, count)
        places = np.fromiter(chain.from_iterable(user.place for user in users), np.int64, 2 * count)
        events = self._pool.read_all(places.reshape(-1, 2), length)
        emitted = b"".join([user.emitted or NOTHING_EMITTED for user in users])
        recent_count = np.fromiter((len(user.recent_ids) for user in users), np.int32, count)
        recent_ids = chain.from_iterable(user.recent_ids for user in users)
        arrays = {
            **events._asdict(),
            "users": np.fromiter(self._users, np.int64, count),
            "length": length.astype(np.int32),
            "session": np.fromiter((user.session_key for user in users), np.int64, count),
            "emitted": np.frombuffer(emitted, np.int64).reshape(-1, LIST_LENGTH),
            "recent_count": recent_count,
            "recent_ids": np.fromiter(recent_ids, np.int64, int(recent_count.sum())),
        }
        return State(arrays)

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        a = state.arrays
        self._pool, self._users = SequencePool(self._settings.length), OrderedDict()
        starts = np.concatenate([[0], np.cumsum(a["length"])])
        id_starts = np.concatenate([[0], np.cumsum(a["recent_count"])])
        for index, key in enumerate(a["users"].tolist()):
            part = slice(starts[index], starts[index + 1])
            events = Sequence(a["items"][part], a["types"][part], a["times"][part], a["opens"][part])
            events = events.last(self._settings.length)
            ids = tuple(a["recent_ids"][id_starts[index] : id_starts[index + 1]].tolist())
            emitted = a["emitted"][index].tobytes() if a["emitted"][index].any() else b""
            place = self._pool.add(events)
            self._users[key] = User(place, len(events.items), int(a["session"][index]), ids, emitted)


class Histories:
    """All partitions of this worker."""

    def __init__(self, settings: HistorySettings, rules: InputSettings) -> None:
        self._settings, self._rules = settings, rules
        self.partitions: dict[TopicPartition, PartitionHistories] = {}
        self.rewound: dict[TopicPartition, int] = {}  # events before this offset are in the histories already

    @property
    def users(self) -> int:
        """Users kept, over all partitions."""
        return sum(len(part) for part in self.partitions.values())

    def begin(self, partition: TopicPartition) -> None:
        """Begin a partition's histories, empty; nothing happens where they are there."""
        if partition not in self.partitions:
            self.partitions[partition] = PartitionHistories(self._settings)

    def drop(self, partition: TopicPartition) -> None:
        """Let go of a partition's histories, where they are there."""
        self.partitions.pop(partition, None)
        self.rewound.pop(partition, None)

    def stage(self, events: Seq[Event]) -> Staged:
        """Join a micro-batch with its histories; changes nothing."""
        return Stage(self._settings, self._rules, self.partitions, self.rewound).run(events)

    def apply(self, staged: Staged, emitted_BK: Int64 | None) -> None:
        """Make a staged micro-batch part of the histories; `emitted_BK` are the keys of the published lists, if any.

        Room is made at the end, so that no user of the micro-batch loses the history it was staged with on the way.
        """
        for partition, addition in sorted(staged.additions, key=lambda pair: pair[1].last_event):
            emitted = b"" if emitted_BK is None else emitted_BK[addition.last_event].tobytes()
            self.partitions[partition].apply(addition, emitted)
        for partition in {partition for partition, _ in staged.additions}:
            self.partitions[partition].make_room()

    def forget(self, user_key: int) -> bool:
        """Remove a user from every partition; returns whether the user was known."""
        return sum(part.forget(user_key) for part in self.partitions.values()) > 0


class Stage:
    """One staging: rows are begun per user, and again when a user's new events reach the history length."""

    def __init__(
        self,
        settings: HistorySettings,
        rules: InputSettings,
        partitions: dict[TopicPartition, PartitionHistories],
        rewound: dict[TopicPartition, int],
    ) -> None:
        self._limit, self._rules, self._partitions, self._rewound = settings.length, rules, partitions, rewound
        self._additions: dict[tuple[TopicPartition, int], Addition] = {}
        self._row_of: list[tuple[Addition, int, int]] = []  # addition, its events [first, ...) and their number
        self._earlier: list[int] = []  # row that each row goes on from, -1: none
        self._moments: list[list[int]] = []  # of each row's states: events of the micro-batch before each
        self._row_B: list[int] = []
        self._kept_B: list[int] = []  # place among the row's new events after this event was seen
        self._learn_B: list[bool] = []
        self._repeated_B: list[bool] = []

    def run(self, events: Seq[Event]) -> Staged:
        """Stage events in their order."""
        for index, event in enumerate(events):
            self._add(index, event)
        contexts = self._contexts(events)
        additions = tuple((partition, a) for (partition, _), a in self._additions.items())
        return Staged(contexts, additions, tuple(self._repeated_B))

    def _addition(self, event: Event) -> Addition:
        partition = TopicPartition(event.record.topic, event.record.partition)
        found = self._additions.get((partition, event.user_key))
        if found is None:
            found = self._partitions[partition].addition(event.user_key)
            self._additions[partition, event.user_key] = found
            self._begin_row(found)
        return found

    def _begin_row(self, addition: Addition) -> None:
        moment = self._moments[addition.rows[-1]][-1] if addition.rows else len(self._row_B)
        self._earlier.append(addition.rows[-1] if addition.rows else -1)
        addition.rows.append(len(self._row_of))
        self._row_of.append((addition, len(addition.events), 0))
        self._moments.append([moment])

    def _add(self, index: int, event: Event) -> None:
        addition = self._addition(event)
        addition.last_event = index
        repeated = self._is_repeated(event, addition)
        keep = not repeated and not (event.late and self._rules.on_late == "skip")
        if keep and self._row_of[addition.rows[-1]][2] >= self._limit:
            self._begin_row(addition)
        row = addition.rows[-1]
        if keep:
            self._keep(addition, event)
            owner, first, count = self._row_of[row]
            self._row_of[row] = (owner, first, count + 1)
            self._moments[row].append(index + 1)
        self._row_B.append(row)
        self._kept_B.append(self._row_of[row][2])
        self._learn_B.append(keep)
        self._repeated_B.append(repeated)

    def _is_repeated(self, event: Event, addition: Addition) -> bool:
        """Whether the event's id was there lately, or its offset was read before the offsets were set back."""
        if event.event_key and event.event_key in addition.recent_ids:
            return True
        record = event.record
        return bool(self._rewound) and record.offset < self._rewound.get(
            TopicPartition(record.topic, record.partition), 0
        )

    def _keep(self, addition: Addition, event: Event) -> None:
        addition.opens.append(self._opens_session(addition, event))
        addition.events.append(event)
        addition.session_key = event.session_key
        if event.event_key and self._rules.repeat_window:
            addition.recent_ids = (*addition.recent_ids, event.event_key)[-self._rules.repeat_window :]

    def _opens_session(self, addition: Addition, event: Event) -> bool:
        if addition.events:
            previous = addition.events[-1].event_time
        elif len(addition.history.times):
            previous = float(addition.history.times[-1])
        else:
            return True
        if event.session_key or addition.session_key:
            return event.session_key != addition.session_key
        return event.event_time - previous > self._rules.session_gap_s

    def _row_sequence(self, row: int) -> tuple[Sequence, int]:
        """Return a row's events, and how many of them are retained history."""
        addition, first, count = self._row_of[row]
        new = new_sequence(addition)
        earlier = addition.history
        if first:
            earlier = earlier.then(new.each(lambda column: column[:first])).last(self._limit)
        fresh = new.each(lambda column: column[first : first + count])
        return earlier.then(fresh), len(earlier.items)

    def _contexts(self, events: Seq[Event]) -> Contexts:
        rows = [self._row_sequence(row) for row in range(len(self._row_of))]
        length_R = np.array([len(sequence.items) for sequence, _ in rows], np.int32)
        new_R = np.array([new for _, new in rows], np.int32)
        count_R = length_R - new_R + 1  # states of each row: before its first new event, and after each
        first_state_R = np.concatenate([[0], np.cumsum(count_R)])[:-1]
        state_row_Q = np.repeat(np.arange(len(rows), dtype=np.int32), count_R)
        state_position_Q = new_R[state_row_Q] - 1 + np.arange(len(state_row_Q)) - first_state_R[state_row_Q]
        row_B, kept_B = np.array(self._row_B, np.int32), np.array(self._kept_B, np.int32)
        learn_B = np.array(self._learn_B, np.bool_)
        after_B = (first_state_R[row_B] + kept_B).astype(np.int32)
        before_B = (after_B - learn_B).astype(np.int32)
        padded = _pad([sequence for sequence, _ in rows])
        return Contexts(
            padded.items,
            padded.types,
            padded.times,
            padded.opens,
            length_R,
            new_R,
            np.array([addition.user_key for addition, _, _ in self._row_of], np.int64),
            np.array(self._earlier, np.int32),
            state_row_Q,
            state_position_Q.astype(np.int32),
            before_B,
            after_B,
            row_B,
            np.array([event.user_key for event in events], np.int64),
            np.array([event.item_key for event in events], np.int64),
            np.array([event.type_key for event in events], np.int64),
            np.array([event.event_time for event in events], np.float64),
            padded.opens[row_B, np.maximum(new_R[row_B] + kept_B - 1, 0)] & learn_B,
            learn_B,
            state_position_Q[before_B] < 0,
            tuple(event.item_id for event in events),
            tuple(event.event_type for event in events),
            self._emitted(before_B, row_B, state_position_Q.astype(np.int32), new_R),
            np.array([moment for moments in self._moments for moment in moments], np.int32),
            np.zeros(len(events), np.bool_),
        )

    def _emitted(self, before_B: Int32, row_B: Int32, position_Q: Int32, new_R: Int32) -> Int64:
        """Return what was published for the user in an earlier micro-batch, for each user's first event of this one."""
        emitted = np.zeros((len(row_B), LIST_LENGTH), np.int64)
        first = position_Q[before_B] == new_R[row_B] - 1
        for index in np.flatnonzero(first).tolist():
            addition, start, _ = self._row_of[row_B[index]]
            if start == 0 and addition.emitted:
                emitted[index] = np.frombuffer(addition.emitted, np.int64)
        return emitted


def new_sequence(addition: Addition) -> Sequence:
    """Return the kept new events of an addition as columns."""
    events = addition.events
    return Sequence(
        np.array([event.item_key for event in events], np.int64),
        np.array([event.type_key for event in events], np.int64),
        np.array([event.event_time for event in events], np.float64),
        np.array(addition.opens, np.bool_),
    )


def _pad(rows: list[Sequence]) -> Sequence:
    """Pad sequences on the right into [R, T] columns; times are padded with NaN."""
    width = max([1, *(len(row.items) for row in rows)])
    shape = (len(rows), width)
    out = Sequence(
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, np.nan), np.zeros(shape, np.bool_)
    )
    for index, row in enumerate(rows):
        for column, values in zip(out, row, strict=True):
            column[index, : len(values)] = values
    return out
