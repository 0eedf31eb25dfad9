"""Candidates: the most probable of what the components propose for a state, and what the ranker is told of each of them.

Features of a candidate, in order: the scaled log-probability of every component; that of the mixture; FIXED more, as
listed in `describe`. Transitions, similar sessions, counts and ages leave out what the user's current session itself
contributed to them: there is less of that in what is ranked than in what was learned from. Popularity is told as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model.compiled import compiled
from model.item_statistics import note
from model.likeness import LIKENESSES, likeness
from model.stream import stream_of

if TYPE_CHECKING:
    from model.contexts import Bool, Contexts, Int32, Int64
    from model.item_statistics import ItemStatistics, Statistics
    from model.smoothing import Probability
    from model.stream import Stream
    from model.vocabulary import Rows

Features = npt.NDArray[np.float32]

FIXED = 22
LAGS = 4
"""One-hot copy lags: the item is the latest, the one before, ..., LAGS or more events ago."""
LOG_FLOOR, LOG_SCALE = 1e-6, 0.3
IN_SESSION = 5
"""Place of "times in the session" among the FIXED features."""
LIKE = 15
"""Place of the cosines there."""
FOLLOWED_DECAY = 0.7
"""Weight of the next older time that something followed the latest item."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where some components stand in the mixture's order.

    `summits`: those whose largest probability is a feature; `counting`: those that count transitions and sessions.
    """

    summits: Int64
    counting: Int64


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most probable of what was proposed for every state, padded with UNKNOWN, and what is known of each candidate."""

    rows_QC: Rows
    mixture_QC: Probability  # 0 where padded
    features_QCF: Features

    def of(self, states: Int64) -> Candidates:
        """Return those of some states."""
        return Candidates(self.rows_QC[states], self.mixture_QC[states], self.features_QCF[states])


@compiled
def union(proposed_QK: Rows, height: int, least: int) -> Rows:
    """Return the distinct known rows of every line, in the order of their first appearance, padded to the longest.

    There are at least `least` columns.
    """
    states, width = proposed_QK.shape
    rows_QC = np.zeros((states, max(width, least)), np.int32)
    seen = np.full(height, -1, np.int32)
    longest = least
    for state in range(states):
        size = 0
        for column in range(width):
            row = proposed_QK[state, column]
            if row != 0 and seen[row] != state:
                seen[row] = state
                rows_QC[state, size] = row
                size += 1
        longest = max(longest, size)
    return rows_QC[:, :longest].copy()


def features(
    contexts: Contexts,
    rows_RT: Rows,
    rows_QC: Rows,
    p_MQC: Probability,
    mixture_QC: Probability,
    weights_MQ: Probability,
    statistics: ItemStatistics,
    weight_ND: npt.NDArray[np.float32],
    places: Places,
) -> Features:
    """Return the features [Q, C, M + 1 + FIXED]. `p_MQC` are changed on the way; `weight_ND` embeds all items."""
    stream = stream_of(contexts, statistics.items)
    shown_R = np.zeros(len(contexts.user_R), np.bool_)  # whose new events count for the states after them
    shown_R[contexts.event_row_B[contexts.shown_B]] = True
    components = len(p_MQC)
    out = np.zeros((*rows_QC.shape, components + 1 + FIXED), np.float32)
    describe(
        rows_RT,
        contexts.session_RT,
        contexts.user_R,
        np.where(shown_R, contexts.length_R, contexts.new_R),
        contexts.state_row_Q,
        contexts.state_position_Q,
        rows_QC,
        statistics.read(),
        statistics.events,
        stream,
        out[:, :, components + 1 :],
    )
    alike = slice(components + 1 + LIKE, components + 1 + LIKE + LIKENESSES)
    states = contexts.state_row_Q, contexts.state_position_Q
    out[:, :, alike] = likeness(weight_ND, rows_RT, contexts.session_RT, *states, rows_QC)
    mine_QC = out[:, :, components + 1 + IN_SESSION] > 0.0
    mixture_QC = _leave_out_the_session(mine_QC, p_MQC, mixture_QC, weights_MQ, places)
    listed_QC = rows_QC != 0  # the padding says `unknown`, and how much there is depends on other states
    summit_SQ = np.where(listed_QC, p_MQC[places.summits], np.float32(0.0)).max(axis=2)
    out[:, :, alike.stop : alike.stop + len(summit_SQ)] = summit_SQ.T[:, None, :]
    logs_MQC = np.concatenate([p_MQC, mixture_QC[None]])
    logs_MQC += np.float32(LOG_FLOOR)
    np.log(logs_MQC, out=logs_MQC)
    scale_into(logs_MQC, out)
    return out


@compiled
def scale_into(logs_MQC: Probability, out_QCF: Features) -> None:
    """Write 1 + 0.3 * log p, which is between -3.2 and 1, as the first M features."""
    for state in range(logs_MQC.shape[1]):
        for column in range(logs_MQC.shape[2]):
            for place in range(len(logs_MQC)):
                out_QCF[state, column, place] = logs_MQC[place, state, column] * np.float32(LOG_SCALE) + np.float32(1.0)


def _leave_out_the_session(
    mine_QC: Bool, p_MQC: Probability, mixture_QC: Probability, weights_MQ: Probability, places: Places
) -> Probability:
    """Take from the components, in place, what the current session was counted for; return the mixture without it.

    Of the items of the session the counting components say nothing, and the others alone are mixed: these have
    counted the very events that led here, which tells little of what comes next, and nothing where learning stands
    still.
    """
    states, columns = np.nonzero(mine_QC)
    p_MQC[places.counting[:, None], states, columns] = 0.0
    p_MS, weights_MS = p_MQC[:, states, columns], weights_MQ[:, states]
    others_S = 1.0 - weights_MS[places.counting].sum(axis=0)
    mixture_QC = mixture_QC.copy()
    mixture_QC[states, columns] = (p_MS * weights_MS).sum(axis=0) / np.maximum(others_S, np.float32(LOG_FLOOR))
    return mixture_QC


@compiled
def describe(
    rows_RT: Rows,
    opens_RT: Bool,
    user_R: Int64,
    counted_R: Int32,
    row_Q: Int32,
    position_Q: Int32,
    rows_QC: Rows,
    statistics: Statistics,
    events: int,
    stream: Stream,
    out: Features,
) -> None:
    """Fill in what the history and the statistics say of each candidate.

    0-3 one-hot of the copy lag · 4 its logarithm · 5 times in the session · 6 times in the history · 7 age · 8 count ·
    9 length of the history · 10 length of the session · 11 count of the latest item · 12 how much it followed the latest
    item before · 13 share of the session that is repeats · 14 how long ago the latest item was there before · the rest is
    left to the caller: 15, 16 `likeness`, then summits. Counts and ages are as of the state's moment; of each row the
    events before `counted_R` are among them. `statistics` are changed.
    """
    count, last_user, last = statistics
    height = len(count)
    lag_of, followed = np.full(height, -1, np.int32), np.zeros(height, np.float32)
    in_session, in_history = np.zeros(height, np.int32), np.zeros(height, np.int32)
    learned = np.zeros(height, np.int32)
    marks = lag_of, in_session, in_history, learned, followed
    known, increment = 0, 1.0
    for state in stream.order_Q:
        more = stream.known_Q[state]
        increment = note(stream.rows_V[known:more], stream.users_V[known:more], events + known, increment, statistics)
        known, now = more, events + more
        line, latest = row_Q[state], position_Q[state]
        length, repeats, again = mark(rows_RT[line], opens_RT[line], latest, counted_R[line], marks)
        newest = rows_RT[line, latest] if latest >= 0 else 0
        often = 0.3 * np.log(1.0 + max(0.0, count[newest] / increment - learned[newest])) - 1.0
        for column in range(rows_QC.shape[1]):
            item = rows_QC[state, column]
            if item == 0:
                continue
            lag = lag_of[item]
            if lag >= 0:
                out[state, column, min(lag, LAGS - 1)] = 1.0
                out[state, column, 4] = 0.3 * np.log(1.0 + lag)
            out[state, column, 5] = np.log(1.0 + in_session[item])
            out[state, column, 6] = np.log(1.0 + in_history[item])
            seen = last[item, 1] if last_user[item] == user_R[line] else last[item, 0]
            out[state, column, 7] = 0.2 * np.log(1.0 + now - seen) - 1.0
            out[state, column, 8] = 0.3 * np.log(1.0 + max(0.0, count[item] / increment - learned[item])) - 1.0
            out[state, column, 9] = 0.5 * np.log(1.0 + latest + 1)
            out[state, column, 10] = 0.5 * np.log(1.0 + length)
            out[state, column, 11] = often
            out[state, column, 12] = followed[item]
            out[state, column, 13] = repeats / max(1, length)
            out[state, column, 14] = -1.0 if again == 0 else 0.3 * np.log(1.0 + again)
        for lag in range(latest + 1):
            item = rows_RT[line, latest - lag]
            lag_of[item], in_session[item], in_history[item], learned[item], followed[item] = -1, 0, 0, 0, 0.0


@compiled
def mark(
    rows_T: Rows, opens_T: Bool, latest: int, counted: int, marks: tuple[Int32, Int32, Int32, Int32, Probability]
) -> tuple[int, int, int]:
    """Mark the items of a history by row, newest event first.

    Returns the length of its session, how many events of that repeat an item of it, and how many events ago the latest
    item was there before (0: never).
    """
    lag_of, in_session, in_history, learned, followed = marks
    newest = rows_T[latest] if latest >= 0 else 0
    session, length, repeats, again = True, 0, 0, 0
    weight = np.float32(1.0)
    for lag in range(latest + 1):
        item = rows_T[latest - lag]
        if lag_of[item] < 0:
            lag_of[item] = lag
        in_history[item] += 1
        if lag > 0 and item == newest and item != 0:
            followed[rows_T[latest - lag + 1]] += weight
            weight *= np.float32(FOLLOWED_DECAY)
            again = lag if again == 0 else again
        if session:
            length += 1
            in_session[item] += 1
            repeats += in_session[item] > 1
            if latest - lag < counted:
                learned[item] += 1
            session = not opens_T[latest - lag]
    return length, repeats, again
