"""One micro-batch as the model sees it: rows of user sequences, and the states inside them that matter.

Shape legend, used as name suffixes everywhere:
    B  events of the micro-batch, in processing order
    R  rows: a row is one user's retained history followed by that user's new events, padded on the right
    T  positions of a row
    Q  states: a state is (row, position), meaning "everything up to and including this position is known";
       position -1 is the state before the first retained event
    N  rows of the item vocabulary      K  items of a list      C  candidates      M  mixture components

An event has two states: the one before it (what it is ranked from) and the one after it (what the published
prediction is made from). The state after a user's event is the state before that user's next event of the same
micro-batch, so states are shared and each is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Contexts:
    """A staged micro-batch. Keys are 64-bit hashes of ids (see `consumer.events.key64`); 0 is padding, nobody's key.

    `new_R` is the position of a row's first new event; positions before it are retained history. A user with many
    new events has several rows, each with a bounded history, so that T never exceeds twice the history length:
    `earlier_R` is the row that a row goes on from, -1 for the first. A user of two partitions has two histories, and rows
    of each.
    `event_item_B` and `event_type_B` are the keys of what happened; `event_time_B` is NaN where times are unknown.
    `learn_B` is false for events that are predicted for but neither ranked nor learned (late or repeated ones, by
    the rule in the settings); these have before_B == after_B. `first_B` marks events of users with no history.
    `item_ids_B` and `type_names_B` are the ids behind the keys, for admission to the vocabularies. `emitted_BK` are
    the keys of the items last published for the user in an earlier micro-batch, best first; a line of zeros where
    there are none, or where the user's previous event is in this micro-batch.

    A state's *moment* is the number of events of this micro-batch, of all users, that had come by then: `moment_Q`. Of
    those it may look at the events in `shown_B`. None are shown until it is decided that they will be learned.
    """

    items_RT: Int64
    types_RT: Int64
    times_RT: Float64  # seconds since the epoch, NaN where unknown
    session_RT: Bool  # true where the event opens a session
    length_R: Int32
    new_R: Int32
    user_R: Int64  # keys of users
    earlier_R: Int32
    state_row_Q: Int32
    state_position_Q: Int32
    before_B: Int32  # index into Q
    after_B: Int32  # index into Q
    event_row_B: Int32
    event_user_B: Int64
    event_item_B: Int64
    event_type_B: Int64
    event_time_B: Float64
    event_session_B: Bool
    learn_B: Bool
    first_B: Bool
    item_ids_B: tuple[str | int, ...]
    type_names_B: tuple[str, ...]
    emitted_BK: Int64
    moment_Q: Int32
    shown_B: Bool

    @property
    def events(self) -> int:
        """B."""
        return len(self.before_B)

    @property
    def states(self) -> int:
        """Q."""
        return len(self.state_row_Q)
