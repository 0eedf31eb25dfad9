"""Quarantine: users who act far more than others and far less predictably are predicted for, but not learned from.

A burst of bots would teach the model what no user will do. The rule looks at the latest WINDOW events. A user with at
least LEAST of them, and FAR_MORE times as many as the median user, is left out of learning, and of the signals that
drift is looked for in, for as long as the user's mean log-loss is above that of the median user by a stated number of
nats and by SPREADS times the spread of all users' means. Where fewer than LEAST_USERS are known there is no norm, and
nobody is left out. Just after a change of everything the window holds users who acted before it, beside whom those who
act now stand out wrongly: the policy pauses the rule then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.state import State

if TYPE_CHECKING:
    from model.contexts import Bool, Contexts, Float64, Int64

WINDOW = 2048
LEAST, FAR_MORE = 48, 2.0
KNOWN = 8
"""Events that a user needs to count among the others."""
LEAST_USERS = 20
SPREADS = 3.0
"""Of the normal distribution with the users' median absolute deviation."""
NORMAL = 1.4826
"""Standard deviations of a normal distribution in its median absolute deviation."""
NOBODY: Int64 = np.zeros(0, np.int64)


class Quarantine:
    """The latest WINDOW events: who, and what it cost in nats."""

    def __init__(self) -> None:
        self._user: Int64 = np.zeros(0, np.int64)
        self._loss: Float64 = np.zeros(0)

    def users(self, above: float) -> Int64:
        """Return the keys of the users to be left out, sorted; none where `above` is 0."""
        if above <= 0.0 or not len(self._user):
            return NOBODY
        users, index, count = np.unique(self._user, return_inverse=True, return_counts=True)
        loss = np.bincount(index, self._loss)
        known = count >= KNOWN
        if int(known.sum()) < LEAST_USERS:
            return NOBODY
        means = loss[known] / count[known]
        usual = float(np.median(means))
        spread = NORMAL * float(np.median(np.abs(means - usual)))
        busy = count >= max(LEAST, FAR_MORE * float(np.median(count[known])))
        left_out: Int64 = users[busy & (loss / count >= usual + max(above, SPREADS * spread))]
        return left_out

    def learn(self, user_B: Int64, loss_B: Float64) -> None:
        """Take the accepted events of a micro-batch."""
        finite = np.isfinite(loss_B)
        self._user = np.concatenate([self._user, user_B[finite]])[-WINDOW:]
        self._loss = np.concatenate([self._loss, loss_B[finite]])[-WINDOW:]

    def forget(self, user: int) -> None:
        """Take a user's events out of the window."""
        others = self._user != user
        self._user, self._loss = self._user[others], self._loss[others]

    def state(self) -> State:
        """Return the window."""
        return State({"user": self._user.copy(), "loss": self._loss.copy()})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        self._user, self._loss = state.arrays["user"].copy(), state.arrays["loss"].copy()


def among(user_B: Int64, left_out: Int64) -> Bool:
    """Return which events are of users that are left out."""
    if not len(left_out):
        return np.zeros(len(user_B), np.bool_)
    return np.isin(user_B, left_out)


def hidden_users(contexts: Contexts) -> Int64:
    """Return the keys of the users in quarantine, of those who act in a micro-batch: their events are not shown."""
    users: Int64 = np.unique(contexts.event_user_B[contexts.learn_B & ~contexts.shown_B])
    return users
