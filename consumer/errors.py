"""What can go wrong, and what the loop does about it: the class is the decision.

TidemillError
├── BadEvent             one record cannot be read: dead letter, count, go on; the offset advances
├── TooManyBadEvents     too large a share or run of bad records: stop, exit 65; it is us, not the data
├── TransientError       the broker asks to try again: retry with backoff inside one deadline
├── Aborted              the transaction is known not to have happened: seek back, go on
├── VoidStateError       what this worker holds in memory may no longer be true: recover
│   ├── Fenced           another instance with this identity has taken over
│   ├── LostPartitions   the group gave our partitions away
│   └── UnknownOutcome   nobody can say whether the transaction happened
├── StateError           a snapshot cannot be used (hash, version, settings): the next older one, else stop, exit 65
│   └── InputTruncated   the input no longer holds a range that is needed: as `recovery.on_truncation` says
├── DamagedMemory        the model holds what is no number: end without a commit, exit 70; the next start recovers
├── ConfigError          a setting is wrong: stop before any connection, exit 78
├── AccessError          wrong password or missing right: stop, exit 77
├── BrokerUnavailable    no broker answered inside the deadline: stop, exit 75
└── UsageError           the command line is wrong: exit 64

Every other exception is a defect: the process ends without a commit.
"""

from __future__ import annotations

from typing import ClassVar


class TidemillError(Exception):
    """Base of all expected errors; `exit_code` follows sysexits.h."""

    exit_code: ClassVar[int] = 70


class BadEvent(TidemillError):  # noqa: N818 - it names the record, as the dead letter does
    """One record that cannot become an event. `reason` is a bounded label, `detail` is for people."""

    exit_code = 65

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TooManyBadEvents(TidemillError):  # noqa: N818 - it names the condition
    """The share or the run of bad records passed its limit."""

    exit_code = 65


class TransientError(TidemillError):
    """A retriable broker error that outlived its retries."""

    exit_code = 75


class Aborted(TidemillError):  # noqa: N818 - it names the outcome
    """The transaction is known to be aborted: nothing of it will ever be read."""

    exit_code = 75


class VoidStateError(TidemillError):
    """Memory may be ahead of, or behind, what is committed: recover from the snapshot."""

    exit_code = 75


class Fenced(VoidStateError):  # noqa: N818 - it names the condition
    """Another instance with this transactional id or group instance id has taken over."""


class LostPartitions(VoidStateError):  # noqa: N818 - it names the condition
    """The group no longer counts this member as the owner of its partitions."""


class UnknownOutcome(VoidStateError):  # noqa: N818 - it names the condition
    """The commit was sent and no answer came: only the broker knows."""


class StateError(TidemillError):
    """A snapshot that cannot be used; the message says which file and why."""

    exit_code = 65


class InputTruncated(StateError):  # noqa: N818 - it names the condition
    """A range of the input is needed that retention has passed by."""


class DamagedMemory(TidemillError):  # noqa: N818 - it names the condition
    """Memory holds what learning cannot have brought there: only a new process with the state on disk can go on."""


class ConfigError(TidemillError):
    """A setting that cannot be used; the message says which, why, and what would do."""

    exit_code = 78


class AccessError(TidemillError):
    """The broker refused the credentials or the right to do something."""

    exit_code = 77


class BrokerUnavailable(TidemillError):  # noqa: N818 - it names the condition
    """No broker answered inside the deadline."""

    exit_code = 75


class UsageError(TidemillError):
    """The command line cannot be understood."""

    exit_code = 64
