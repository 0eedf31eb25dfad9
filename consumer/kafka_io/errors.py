"""What an error of the client means for the worker. The tables are the rules; the first row that fits decides."""

from __future__ import annotations

from typing import NamedTuple

from consumer.errors import (
    Aborted,
    AccessError,
    ConfigError,
    Fenced,
    LostPartitions,
    StateError,
    TidemillError,
    TransientError,
    UnknownOutcome,
)
from consumer.kafka_io.client import errors as k

_FENCED_PRODUCER = (k.ProducerFencedError, k.InvalidProducerEpochError)
_LEFT_BEHIND = (
    k.CommitFailedError,
    k.IllegalGenerationError,
    k.UnknownMemberIdError,
    k.RebalanceInProgressError,
)
_NO_ACCESS = (
    k.AuthorizationError,
    k.SaslAuthenticationFailedError,
    k.UnsupportedSaslMechanismError,
    k.IllegalSaslStateError,
)
TOO_LARGE = (k.MessageSizeTooLargeError, k.RecordListTooLargeError)
"""A single record that the broker, or the client on its behalf, does not take."""

_MEANING: tuple[tuple[tuple[type[Exception], ...], type[TidemillError]], ...] = (
    (_NO_ACCESS, AccessError),
    ((*_FENCED_PRODUCER, k.FencedInstanceIdError), Fenced),
    (_LEFT_BEHIND, LostPartitions),
    ((k.OffsetOutOfRangeError, k.LogTruncationError, k.CorruptRecordError), StateError),
    (
        (
            k.UnsupportedCodecError,
            k.KafkaConfigurationError,
            k.InvalidSessionTimeoutError,
            k.InconsistentGroupProtocolError,
            k.InvalidGroupIdError,
            k.InvalidTopicError,
            k.UnsupportedVersionError,
        ),
        ConfigError,
    ),
    ((k.RetriableError,), TransientError),
)

_ADVICE: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (k.UnsupportedCodecError,),
        "the records are compressed with a codec whose Python package is missing (lz4, zstandard, cramjam for snappy)",
    ),
    (
        (k.OffsetOutOfRangeError,),
        "the topic no longer holds the position to go on from: retention was too short (see recovery.on_truncation)",
    ),
    ((k.LogTruncationError,), "the topic lost records after they were read (an unclean leader election)"),
    ((k.CorruptRecordError,), "the stored records fail their checksum"),
    ((k.TransactionalIdAuthorizationFailedError,), "this user may not use the worker's transactional id"),
    ((k.GroupAuthorizationFailedError,), "this user may not use the consumer group"),
    ((k.TopicAuthorizationFailedError,), "this user has no right to the topic"),
    ((k.SaslAuthenticationFailedError,), "the broker refused the user name or the password"),
)


class CommitReaction(NamedTuple):
    """What to raise, and whether to abort the transaction first (only where the broker is known to answer)."""

    error: type[TidemillError]
    abort: bool


_BEFORE_THE_END: tuple[tuple[tuple[type[Exception], ...], CommitReaction], ...] = (
    (TOO_LARGE, CommitReaction(Aborted, abort=True)),
    (_FENCED_PRODUCER, CommitReaction(Fenced, abort=False)),
    ((k.FencedInstanceIdError,), CommitReaction(Fenced, abort=True)),
    (_LEFT_BEHIND, CommitReaction(LostPartitions, abort=True)),
    ((k.TopicAuthorizationFailedError, k.GroupAuthorizationFailedError), CommitReaction(AccessError, abort=True)),
    (_NO_ACCESS, CommitReaction(AccessError, abort=False)),
    (
        (k.TransactionAbortableError, k.InvalidTopicError, k.CorruptRecordError, k.InvalidTimestampError),
        CommitReaction(Aborted, abort=True),
    ),
)


def before_the_end(error: Exception) -> CommitReaction:
    """What an error before the transaction's end was sent means; without an answer from the broker: UnknownOutcome."""
    for kinds, reaction in _BEFORE_THE_END:
        if isinstance(error, kinds):
            return reaction
    return CommitReaction(UnknownOutcome, abort=False)


def after_the_end(error: Exception) -> type[TidemillError]:
    """What an error of the commit call itself means: only a fence is a clear no."""
    if isinstance(error, _FENCED_PRODUCER):
        return Fenced
    return AccessError if isinstance(error, _NO_ACCESS) else UnknownOutcome


def translate(error: Exception, doing: str) -> Exception:
    """Return the worker's error for an error of the client; one that nobody foresaw is returned as it is."""
    for kinds, meaning in _MEANING:
        if isinstance(error, kinds):
            return meaning(describe(error, doing))
    return error


def describe(error: Exception, doing: str) -> str:
    """One line for people: what was being done, what the client says, and what it means where that is not obvious."""
    advice = next((f" - {text}" for kinds, text in _ADVICE if isinstance(error, kinds)), "")
    return f"{doing}: {error}{advice}"
